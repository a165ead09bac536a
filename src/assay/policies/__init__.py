"""One file per policy. `catalogue()` finds them and those of other packages; nothing is registered."""

from ..core.catalogue import Catalogue
from ..core.selection import AbstractSelector

POLICIES: Catalogue[AbstractSelector] = Catalogue("policy", AbstractSelector, __name__)  # type: ignore[type-abstract]
catalogue, find, parse = POLICIES.classes, POLICIES.find, POLICIES.parse
