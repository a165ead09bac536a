"""The laws that our methods are held to, for methods of other people: `check_method(MyMethod())`."""

from .methods import check_method

__all__ = ["check_method"]
