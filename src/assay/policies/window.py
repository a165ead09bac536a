"""Keep a stretch of the ranking that starts below the very hardest."""

import dataclasses
from typing import ClassVar

from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, Pool, Selection, budget_of


@dataclasses.dataclass(frozen=True)
class Window(AbstractSelector):
    """Keeps floor(keep * examples) from rank floor(start * examples) on, the hardest or most suspect ranked first.

    Args:
        keep: Fraction of examples that stay, in 0..1.
        start: Fraction of the hardest that is passed over, in 0..1-keep.
    """

    keep: float
    start: float
    name: ClassVar[str] = "window"
    reads: ClassVar[frozenset[Need]] = frozenset()
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Choi et al. 2024, Best window selection",
        "https://arxiv.org/abs/2406.03057",
        "the start is given; the paper searches it by ridge regression on features",
    )

    def __post_init__(self):
        super().__post_init__()
        budget_of(self.keep, 0)
        # 1e-12 forgives the rounding of the sum, which is a few 1e-16.
        if not (self.start >= 0 and self.start + self.keep <= 1 + 1e-12):
            raise UsageError(
                f"start={self.start} is outside 0..{1 - self.keep:.6g}; a window of keep={self.keep} must end within the ranking."
            )

    def select(self, pool: Pool) -> Selection:
        n = len(pool)
        first, budget = budget_of(self.start, n), budget_of(self.keep, n)
        order = ordered(pool.scores.hardness(), pool.ids, descending=True)
        what = f"the {budget} ranks from {first} on (0 is the hardest or most suspect) by {pool.scores.title}"
        return Selection.first(order.roll(-first), budget, f"within {what}", f"outside {what}")
