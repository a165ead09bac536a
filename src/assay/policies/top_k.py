"""Keep the examples with the highest values."""

import dataclasses
from typing import ClassVar

from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, By, Pool, Selection, count_of, suspects_stay


@dataclasses.dataclass(frozen=True)
class TopK(AbstractSelector):
    """Keeps the highest values; equal values are ordered by id, smallest first.

    For a score whose high values are suspect, such as loss, the suspects stay, and the decision warns of this; `bottom_k:by=suspicion` drops the
    suspects of any score, and `top_k:by=suspicion` says that they are meant to stay.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        by: Whether examples are ranked by their values or by suspicion (then the most suspect stay).
    """

    keep: int | float
    by: By = "values"
    name: ClassVar[str] = "top_k"
    reads: ClassVar[frozenset[Need]] = frozenset()
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Paul et al. 2021, Deep learning on a data diet", "https://arxiv.org/abs/2107.07075", "ties break by id"
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        order = ordered(pool.by(self.by), pool.ids, descending=True)
        what = f"the {budget} highest {self.by} of {pool.scores.title}"
        warnings = suspects_stay(pool, budget, self.by, "high", "bottom_k:by=suspicion", "top_k:by=suspicion")
        return Selection.first(order, budget, f"among {what}", f"not among {what}", warnings)
