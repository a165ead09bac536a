"""The laws (property tests) that assay's own methods and selectors pass, for those of other people: `check_method(MyMethod())`."""

from .live import check_live_selector
from .methods import check_method
from .selectors import check_selector

__all__ = ["check_live_selector", "check_method", "check_selector"]
