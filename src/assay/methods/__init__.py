"""One file per scoring method. `catalogue()` finds ours and those of other packages."""

from ..core.catalogue import Catalogue
from ..core.method import AbstractMethod

METHODS: Catalogue[AbstractMethod] = Catalogue(
    "method",
    AbstractMethod,  # type: ignore[type-abstract]
    __name__,
    asked="`assay score RUN NAME`",
    by_default=True,
)
catalogue, find, parse = METHODS.classes, METHODS.find, METHODS.parse
