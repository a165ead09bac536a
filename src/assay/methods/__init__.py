"""One file per scoring method. `catalogue()` finds them and those of other packages; nothing is registered."""

from ..core.catalogue import Catalogue
from ..core.method import AbstractMethod

METHODS: Catalogue[AbstractMethod] = Catalogue("method", AbstractMethod, __name__, by_default=True)  # type: ignore[type-abstract]
catalogue, find, parse = METHODS.classes, METHODS.find, METHODS.parse
