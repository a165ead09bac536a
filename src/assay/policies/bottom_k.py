"""Keep the examples with the lowest values."""

import dataclasses
from typing import ClassVar

from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, By, Pool, Selection, count_of, suspects_stay


@dataclasses.dataclass(frozen=True)
class BottomK(AbstractSelector):
    """Keeps the lowest values; equal values are ordered by id, smallest first.

    With `by="suspicion"` this drops the most suspect, whichever way the score points. With `by="values"` and a score whose low values are suspect,
    such as aum, the suspects stay, and the decision warns of this.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        by: Whether examples are ranked by their values or by suspicion.
    """

    keep: int | float
    by: By = "values"
    name: ClassVar[str] = "bottom_k"
    reads: ClassVar[frozenset[Need]] = frozenset()
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Sorscher et al. 2022, Beyond neural scaling laws (keeping the easy end)",
        "https://arxiv.org/abs/2206.14486",
        "ties break by id",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        order = ordered(pool.by(self.by), pool.ids, descending=False)
        what = f"the {budget} lowest {self.by} of {pool.scores.title}"
        warnings = suspects_stay(pool, budget, self.by, "low", "bottom_k:by=suspicion", "top_k:by=suspicion")
        return Selection.first(order, budget, f"among {what}", f"not among {what}", warnings)
