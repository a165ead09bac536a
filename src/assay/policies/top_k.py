"""Keep the examples with the highest values."""

import dataclasses
from typing import ClassVar

from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, By, Pool, Selection, budget_of, keep_first


@dataclasses.dataclass(frozen=True)
class TopK(AbstractSelector):
    """Keeps the floor(keep * examples) highest values; equal values by id, smallest first.

    Args:
        keep: Fraction of examples that stay, in 0..1.
        by: What is ranked: the values, or the suspicion (then the most suspect stay).
    """

    keep: float
    by: By = "values"
    name: ClassVar[str] = "top_k"
    reads: ClassVar[frozenset[Need]] = frozenset()
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Paul et al. 2021, Deep learning on a data diet", "https://arxiv.org/abs/2107.07075", "ties break by id"
    )

    def __post_init__(self):
        super().__post_init__()
        budget_of(self.keep, 0)

    def choose(self, candidates: Pool) -> Selection:
        budget = budget_of(self.keep, len(candidates))
        order = ordered(candidates.by(self.by), candidates.ids, descending=True)
        what = f"the {budget} highest {self.by} of {candidates.scores.title}"
        return Selection(keep_first(order, budget), f"among {what}", f"not among {what}")
