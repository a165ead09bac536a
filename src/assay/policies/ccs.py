r"""Coverage-centric selection (CCS): cut the hardest, then cover the rest of the score's range evenly.

The strata are equal-width bins between the lowest and the highest value that the cut leaves. They are visited from the smallest to the largest; with
m examples still to be chosen and s strata left, the next stratum gives

$$ q = \min(\mathrm{size}, \lfloor m / s \rfloor), \qquad m \leftarrow m - q. $$
"""

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, Pool, Selection, budget_of, count_of
from ..maths.ranking import interleaved, places_within
from .random import shuffled


def stratum_of(values: Float64[Tensor, " examples"], strata: int) -> Int[Tensor, " examples"]:
    """Which equal-width bin between the lowest and the highest value each value falls in, numbered from 0.

    A bin holds its lower edge and not its upper one; the last holds both. If all values are equal, all are in the last bin.

    Returns:
        int64, one per value.

    Raises:
        UsageError: The values are not finite, or span more than a float64 holds.
    """
    if not len(values):
        return torch.zeros(0, dtype=torch.int64)
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite(highest - lowest):
        raise UsageError(
            f"Values from {lowest} to {highest} cannot be cut into {strata} equal bins; use a score with finite values."
        )
    edges = torch.from_numpy(np.linspace(lowest, highest, strata + 1))
    return (torch.searchsorted(edges, values, right=True) - 1).clamp(max=strata - 1)


def stratum_budgets(counts: Int[Tensor, " strata"] | Int[np.ndarray, " strata"], budget: int) -> Int[Tensor, " strata"]:
    """How many examples each stratum gives, so that they sum to the budget and are as even as the counts allow.

    Strata of equal count are visited in the given order. A larger budget lowers the number of no stratum.

    Args:
        counts: How many examples each stratum holds.
        budget: How many are wanted in all.

    Returns:
        int64, one per stratum, each at most its count.

    Raises:
        UsageError: A count is negative, or the budget is outside 0..sum of the counts.
    """
    sizes = torch.as_tensor(counts).to(torch.int64)
    if bool((sizes < 0).any()):
        raise UsageError(f"Stratum {int((sizes < 0).nonzero()[0])} counts {int(sizes.min())} examples; counts start at 0.")
    if not 0 <= budget <= int(sizes.sum()):
        raise UsageError(f"budget={budget} is outside 0..{int(sizes.sum())}, the number of examples in all strata.")
    budgets = torch.zeros_like(sizes)
    left = budget
    for visited, stratum in enumerate(torch.argsort(sizes, stable=True).tolist()):
        take = min(int(sizes[stratum]), left // (len(sizes) - visited))
        budgets[stratum] = take
        left -= take
    return budgets


@dataclasses.dataclass(frozen=True)
class CCS(AbstractSelector):
    """Drops the floor(cutoff * examples) hardest, then draws from all levels of the score.

    Which values are hardest or most suspect follows from the score's direction: the lowest AUM, the highest EL2N.

    Args:
        keep: Fraction of all examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        seed: Seed of the draw within each stratum.
        cutoff: Fraction of all examples, the hardest, that is dropped before the draw; in 0..1.
        strata: How many equal-width bins, at least 1.
        by_class: Whether each given class is cut and divided by itself, and gives examples in proportion to what the cut leaves of it.
    """

    keep: int | float
    seed: int
    cutoff: float
    strata: int = 50
    by_class: bool = False
    name: ClassVar[str] = "ccs"
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Zheng et al. 2023, Coverage-centric coreset selection",
        "https://arxiv.org/abs/2210.15809",
        "the last bin is closed where the released code stretches the highest value by 1.0001; the number of strata is heeded; "
        "drawn per id, so that budgets nest under one cutoff; by class each class has its own size, cut and strata, where the released code takes the size of the "
        "last class for all",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        if not 0 <= self.cutoff <= 1:
            raise UsageError(f"cutoff={self.cutoff} is outside 0..1; it is the fraction of examples cut as hardest.")
        if self.strata < 1:
            raise UsageError(f"strata={self.strata} is below 1; the score's range is cut into that many bins.")

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Labels where each class is divided by itself."""
        return frozenset({Need.LABELS}) if self.by_class else frozenset()

    def select(self, pool: Pool) -> Selection:
        n, title = len(pool), pool.scores.title
        budget, cut = count_of(self.keep, n), budget_of(self.cutoff, n)
        if budget > n - cut:
            raise UsageError(
                f"keep={self.keep} asks for {budget} of {n} examples, but cutoff={self.cutoff} leaves {n - cut}; "
                "lower one of them."
            )
        infinite = pool.values.isinf()
        if bool(infinite.any()):
            bad = pool.ids.take(infinite)
            raise UsageError(f"{len(bad)} values of {title} are infinite and fall in no bin; ids {listed(bad, len(bad))}.")
        labels = pool.labels if self.by_class else torch.zeros(n, dtype=torch.int64)
        ranked = ordered(pool.scores.hardness(), pool.ids, descending=True)
        groups = [ranked[labels[ranked] == label] for label in labels.unique().tolist()]
        hardest = torch.cat([group[: budget_of(self.cutoff, len(group))] for group in groups])
        left = torch.ones(n, dtype=torch.bool)
        left[hardest] = False
        order = shuffled(pool.ids, self.seed, "policy ccs")
        order = order[left[order]]
        in_turn = labels[order].sort().values
        in_turn = in_turn[interleaved(in_turn)[:budget]]
        kept: Bool[Tensor, " examples"] = torch.zeros(n, dtype=torch.bool)
        for label in in_turn.unique().tolist():
            mine = order[labels[order] == label]
            stratum = stratum_of(pool.values[mine], self.strata)
            budgets = stratum_budgets(torch.bincount(stratum, minlength=self.strata), int((in_turn == label).sum()))
            kept[mine[places_within(stratum) < budgets[stratum]]] = True
        among = (
            f"the {cut} hardest or most suspect"
            if not self.by_class
            else f"the {100 * self.cutoff:.4g} % of its class that are hardest or most suspect"
        )
        why_cut = f"among {among} by {title}, cut before the draw"
        how = f"from its stratum of {title} ({self.strata} equal-width strata{' of its class' * self.by_class}, seed {self.seed})"
        return Selection(kept, f"drawn {how}", f"not drawn {how}", why_else=dict.fromkeys(hardest.tolist(), why_cut))
