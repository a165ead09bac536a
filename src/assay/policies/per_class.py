"""Keep the same fraction of every class."""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, By, Pool, Selection, budget_of, suspects_stay
from ..maths.ranking import places_within


def class_budgets(counts: Int[Tensor, " classes"], keep: float, fill: bool = True) -> Int[Tensor, " classes"]:
    """Number of examples of each class that stay.

    floor(keep * count) for each class. With `fill`, the examples that are then missing from floor(keep * examples) are added, one each, to the
    classes with the largest remainder keep * count - floor(keep * count), the lower class number first at a tie.

    Args:
        counts: How many examples each class has.
        keep: Fraction that stays, in 0..1.
        fill: Whether to reach the exact budget.

    Returns:
        int64, one per class, each at most its count.
    """
    if not fill:
        return torch.tensor([budget_of(keep, count) for count in counts.tolist()], dtype=torch.int64)
    share = keep * counts.to(torch.float64)
    # Without the 1e-9 of `budget_of` here: 28.999999999999996 then counts as the largest remainder, and the sum stays exact.
    budgets = share.floor()
    missing = budget_of(keep, int(counts.sum())) - int(budgets.sum())
    budgets[torch.argsort(share - budgets, descending=True, stable=True)[:missing]] += 1
    return budgets.to(torch.int64)


@dataclasses.dataclass(frozen=True)
class PerClass(AbstractSelector):
    """Keeps the best `keep` of each given class, so that pruning does not change the class balance.

    Budgets do not nest: with more budget, the largest remainders can lie in other classes (the Alabama paradox). They nest with `fill=False`, which
    keeps fewer examples than the budget, by less than one per class.

    Args:
        keep: Fraction of examples that stay, in 0..1.
        end: Which values are best, the high or the low.
        fill: Whether to reach floor(keep * examples) exactly, by largest remainder.
        by: Whether examples are ranked by their values or by suspicion.
    """

    keep: float
    end: Literal["high", "low"] = "high"
    fill: bool = True
    by: By = "values"
    name: ClassVar[str] = "per_class"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS})
    nests: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Guo et al. 2022, DeepCore (class-balanced selection)",
        "https://arxiv.org/abs/2204.08499",
        "the exact budget by largest remainder; each class is counted by itself; ties break by id",
    )

    def __post_init__(self):
        super().__post_init__()
        budget_of(self.keep, 0)

    def select(self, pool: Pool) -> Selection:
        labels = pool.labels
        order = ordered(pool.by(self.by), pool.ids, descending=self.end == "high")
        place = torch.empty_like(order)
        place[order] = places_within(labels[order])
        kept = place < class_budgets(torch.bincount(labels), self.keep, self.fill)[labels]
        what = f"the {self.end}est {self.keep:.4g} of its class by {self.by} of {pool.scores.title}"
        how = f"{self.name}:end={{}},by=suspicion"
        warnings = suspects_stay(pool, int(kept.sum()), self.by, self.end, how.format("low"), how.format("high"))
        return Selection(kept, f"in {what}", f"not in {what}", warnings=warnings)
