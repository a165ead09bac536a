"""Keep the same fraction of every class."""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, By, Pool, Selection, budget_of, count_of, suspects_stay
from ..maths.ranking import places_within


def class_budgets(counts: Int[Tensor, " classes"], keep: int | float, fill: bool = True) -> Int[Tensor, " classes"]:
    """Number of examples of each class that stay.

    floor(keep * count) for each class; where `keep` is a number of examples, keep / examples stands for the fraction. With `fill`, the examples
    that are then missing from the budget are added, one each, to the classes with the largest remainder keep * count - floor(keep * count), the
    lower class number first at a tie.

    Args:
        counts: How many examples each class has.
        keep: Fraction that stays, in 0..1; or a whole number, how many stay in all.
        fill: Whether to reach the exact budget.

    Returns:
        int64, one per class, each at most its count.
    """
    budget = count_of(keep, int(counts.sum()))
    if not isinstance(keep, float):
        # Exact: in whole numbers the quotient and the remainder of count * budget / examples.
        product, total = counts * budget, max(1, int(counts.sum()))
        budgets, rest = product // total, product % total
        budgets[torch.argsort(rest, descending=True, stable=True)[: (budget - int(budgets.sum())) * fill]] += 1
        return budgets
    if not fill:
        return torch.tensor([budget_of(keep, count) for count in counts.tolist()], dtype=torch.int64)
    share = keep * counts.to(torch.float64)
    # Without the 1e-9 of `budget_of` here: 28.999999999999996 then counts as the largest remainder, and the sum stays exact.
    budgets = share.floor()
    missing = budget - int(budgets.sum())
    budgets[torch.argsort(share - budgets, descending=True, stable=True)[:missing]] += 1
    return budgets.to(torch.int64)


@dataclasses.dataclass(frozen=True)
class PerClass(AbstractSelector):
    """Keeps the best `keep` of each given class, so that pruning does not change the class balance.

    Budgets do not nest: with more budget, the largest remainders can lie in other classes (the Alabama paradox). They nest with `fill=False`, which
    keeps fewer examples than the budget, by less than one per class.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay in all, or with `each` in each
            class.
        end: Which values are best, the high or the low.
        fill: Whether to reach the budget exactly, by largest remainder.
        each: Whether the whole number `keep` is the budget of each class; a class that has fewer examples stays as it is.
        by: Whether examples are ranked by their values or by suspicion.
    """

    keep: int | float
    end: Literal["high", "low"] = "high"
    fill: bool = True
    by: By = "values"
    each: bool = False
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
        count_of(self.keep)
        if self.each and isinstance(self.keep, float):
            raise UsageError(
                f"{self.title}: each=true goes with a whole number, and keep={self.keep} is a fraction of every class anyway; leave each out."
            )
        if self.each and not self.fill:
            raise UsageError(
                f"{self.title}: fill is of a budget that classes share, and with each=true every class has its own; leave fill out."
            )

    def select(self, pool: Pool) -> Selection:
        labels = pool.labels
        order = ordered(pool.by(self.by), pool.ids, descending=self.end == "high")
        place = torch.empty_like(order)
        place[order] = places_within(labels[order])
        counts = torch.bincount(labels)
        budgets = counts.clamp(max=self.keep) if self.each else class_budgets(counts, self.keep, self.fill)
        kept = place < budgets[labels]
        share = f"{self.keep:.4g}" if self.each or isinstance(self.keep, float) else f"share of {self.keep}"
        what = f"the {self.end}est {share} of its class by {self.by} of {pool.scores.title}"
        how = f"{self.name}:end={{}},by=suspicion"
        warnings = suspects_stay(pool, int(kept.sum()), self.by, self.end, how.format("low"), how.format("high"))
        return Selection(kept, f"in {what}", f"not in {what}", warnings=warnings)
