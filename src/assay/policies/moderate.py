r"""Moderate coreset: examples at a middling distance from the centre of their class.

$$ d_i = \lVert x_i - \mu_{y_i} \rVert. $$

$\mu_y$ is the mean of the examples of class y.
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractFeatureSelector, Pool, Selection, class_turns, count_of
from ..maths.coverage import ROWS
from ..maths.ranking import places_within

Centre = Literal["mean", "median"]


def centre_distance(
    rows: Float[Tensor, "examples dims"],
    labels: Int[Tensor, " examples"],
    ranks: Int[Tensor, " examples"],
    centre: Centre = "mean",
) -> Float64[Tensor, " examples"]:
    """Euclidean distance of each example from the centre of its given class.

    Args:
        rows: Features of each example.
        labels: Given class of each.
        ranks: Rank of each example, in whose order means are summed.
        centre: The `mean` of the class, or its `median` in each dimension.

    Returns:
        In the unit of the features.

    Raises:
        ValueError: A distance is not finite.
    """
    found = torch.empty(len(rows), dtype=torch.float64)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.argsort(ranks[members])]
        if centre == "mean":
            middle = torch.stack([rows[part].to(torch.float64).sum(0) for part in members.split(ROWS)]).sum(0) / len(members)
        else:
            inner = rows[members].sort(0).values[[(len(members) - 1) // 2, len(members) // 2]]
            middle = inner.to(torch.float64).mean(0)
        for part in members.split(ROWS):
            found[part] = (rows[part].to(torch.float64) - middle).square().sum(1).sqrt()
    if not bool(found.isfinite().all()):
        raise ValueError("Distances are not finite; rows must be finite, and not so large that their squares overflow.")
    return found


def from_the_middle(values: Float64[Tensor, " examples"]) -> Int[Tensor, " examples"]:
    """Places in a sorted list from the middle outwards, the lower of two equally far ones first; of equal values the earliest place first.

    Args:
        values: Sorted, lowest first.

    Returns:
        Each place once. The first k hold the same values as the k places in the middle.
    """
    count = len(values)
    outwards = torch.argsort((2 * torch.arange(count) - count + 1).abs(), stable=True)
    starts = torch.searchsorted(values, values)
    level = torch.unique_consecutive(values, return_inverse=True)[1][outwards]
    return starts[outwards] + places_within(level)


@dataclasses.dataclass(frozen=True)
class Moderate(AbstractFeatureSelector):
    """Keeps the examples in the middle of the ranking by distance from the centre of their class: neither the most typical nor outliers.

    The kept ranks are those nearest to the median, so that a smaller budget is a part of a larger one. No score is read.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        features: Features in which distances are taken: `penultimate` or others of a kept model, `inputs`, or `rows:NAME`.
        centre: The `mean` of a class, as in the paper, or the `median` in each dimension, as in its code.
        by_class: Whether each class is ranked by itself, and gives examples in proportion; else all are ranked together.
    """

    keep: int | float
    features: str = "penultimate"
    centre: Centre = "mean"
    by_class: bool = False
    name: ClassVar[str] = "moderate"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    spreads: ClassVar[bool] = False
    reads: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LABELS})
    source: ClassVar[Source] = Source(
        "Xia et al. 2023, Moderate coreset",
        "https://openreview.net/forum?id=7D5EECbOaf9",
        "the mean of a class, as in the paper, where the released code takes the median in each dimension; the examples themselves, where that code "
        "returns those to drop; floor(keep * examples) exactly; ties break by id; classes by Webster's quotients",
    )

    def select(self, pool: Pool) -> Selection:
        budget, rows = count_of(self.keep, len(pool)), pool.features(self.features)
        try:
            values = centre_distance(rows, pool.labels, pool.ids.ranks, self.centre)
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error
        order, reasons = torch.zeros(budget, dtype=torch.int64), {}
        for members, turns, among in class_turns(pool, self.by_class, budget):
            ranked = members[ordered(values[members], pool.ids.take(members), descending=False)]
            order[turns] = ranked[from_the_middle(values[ranked])[: len(turns)]]
            for place, position in enumerate(ranked.tolist(), 1):
                reasons[position] = (
                    f"rank {place} of {len(members)}{among} by distance from the {self.centre} of its class in {self.features}, "
                    f"{float(values[position]):.4g}"
                )
        return Selection.taken(order, pool, "in the middle", "not in the middle", reasons)
