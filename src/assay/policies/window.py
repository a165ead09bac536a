"""Keep a stretch of the ranking that starts below the very hardest."""

import dataclasses
from typing import ClassVar

import torch

from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, Pool, Selection, budget_of, count_of
from ..maths.ranking import interleaved


@dataclasses.dataclass(frozen=True)
class Window(AbstractSelector):
    """Keeps the examples from rank floor(start * examples) on, the hardest or most suspect ranked first.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        start: Fraction of the hardest that is passed over, in 0..1-keep.
        by_class: Whether each given class is ranked by itself, and gives examples in proportion.
    """

    keep: int | float
    start: float
    by_class: bool = False
    name: ClassVar[str] = "window"
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Choi et al. 2024, Best window selection",
        "https://arxiv.org/abs/2406.03057",
        "the start is given; the paper searches it by ridge regression on features, as bws does; classes by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        part = self.keep if isinstance(self.keep, float) else 0.0
        # 1e-12 forgives the rounding of the sum, which is a few 1e-16.
        if not (self.start >= 0 and self.start + part <= 1 + 1e-12):
            raise UsageError(
                f"start={self.start} is outside 0..{1 - part:.6g}; a window of keep={self.keep} must end within the ranking."
            )

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Labels where each class is ranked by itself."""
        return frozenset({Need.LABELS}) if self.by_class else frozenset()

    def select(self, pool: Pool) -> Selection:
        n = len(pool)
        first, budget = budget_of(self.start, n), count_of(self.keep, n)
        if first + budget > n:
            raise UsageError(
                f"{self.title}: {budget} ranks from {first} on end behind the last of {n}; lower keep, or start to {(n - budget) / n:.6g} at most."
            )
        order = ordered(pool.scores.hardness(), pool.ids, descending=True)
        if not self.by_class:
            what = f"the {budget} ranks from {first} on (0 is the hardest or most suspect) by {pool.scores.title}"
            return Selection.first(order.roll(-first), budget, f"within {what}", f"outside {what}")
        labels, turns = pool.labels, []
        for label in labels.unique().tolist():
            mine = order[labels[order] == label]
            start = budget_of(self.start, len(mine))
            # Where rounding asks a class for more than stand behind the start, the window begins earlier.
            turns.append(torch.cat([mine[start:], mine[:start].flip(0)]))
        order = torch.cat(turns)
        order = order[interleaved(labels[order])]
        what = (
            f"the ranks from {100 * self.start:.4g} % of its class on (0 is the hardest or most suspect) by {pool.scores.title}"
        )
        return Selection.first(order, budget, f"within {what}", f"outside {what}")
