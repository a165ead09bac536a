r"""Contrastive examples (CAL): near to each other in features, predicted differently.

$$ s_i = \frac1k \sum_{j \in N_k(i)} \tfrac12 \bigl(\mathrm{KL}(p_i \Vert p_j) + \mathrm{KL}(p_j \Vert p_i)\bigr). $$

$N_k(i)$ are the k nearest neighbours, $p$ the predicted probabilities.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.method import Asks, Source
from ..core.scores import ordered
from ..core.selection import AbstractFeatureSelector, Pool, Selection, class_turns, count_of
from ..maths.coverage import ROWS, symmetric_divergence
from ..maths.neighbour_graph import k_nearest
from .contextual_diversity import check_logits, predicted_probs


def neighbour_divergence(
    rows: Float[Tensor, "examples dims"], probs: Float64[Tensor, "examples classes"], k: int, ranks: Int[Tensor, " examples"]
) -> Float64[Tensor, " examples"]:
    """Mean symmetric KL divergence of each example's probabilities from those of its k nearest others.

    Args:
        rows: Features in which neighbours are found.
        probs: Predicted probabilities.
        k: How many neighbours; all others where there are fewer.
        ranks: Rank of each example, by which equally near ones count.

    Returns:
        In nats, at least 0; 0 for an example without others.

    Raises:
        ValueError: Distances are not finite.
    """
    k = min(k, len(rows) - 1)
    if not k:
        return torch.zeros(len(rows), dtype=torch.float64)
    which, _ = k_nearest(rows, k, ranks)
    found = torch.zeros(len(rows), dtype=torch.float64)
    for here in torch.arange(len(rows)).split(ROWS):
        for place in which[here].T:
            found[here] += symmetric_divergence(probs[here], probs[place])
    return found / k


@dataclasses.dataclass(frozen=True)
class CAL(AbstractFeatureSelector):
    """Keeps the examples that are predicted most differently from their nearest neighbours.

    No score is read. Examples on both sides of a boundary stay, whichever label they have; those alike are not passed over.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        features: Features in which neighbours are found, by Euclidean distance: `penultimate` or others of a kept model, `inputs`, or `rows:NAME`.
        predictions: What the softmax is taken of: the `logits` of the last kept model, `logits@EPOCH`, or `rows:NAME`, logits or logarithms of
            probabilities from outside.
        k: How many neighbours, at least 1; all others where there are fewer.
        by_class: Whether neighbours are those of the same given class, and each class gives examples in proportion.
    """

    keep: int | float
    features: str = "penultimate"
    predictions: str = "logits"
    k: int = 10
    by_class: bool = False
    name: ClassVar[str] = "cal"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    spreads: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Margatina et al. 2021, Active learning by acquiring contrastive examples",
        "https://arxiv.org/abs/2109.03764",
        "the highest divergence stays, as in the paper, where DeepCore's code keeps the lowest; symmetric, and from neighbours among all examples, as "
        "in that code, where the paper takes KL(neighbour || example) from labelled ones; the features of the trained net; ties break by id",
    )

    def __post_init__(self):
        super().__post_init__()
        check_logits(self, "predictions")
        if self.k < 1:
            raise UsageError(f"{self.name}: k={self.k} is below 1; it is the number of neighbours.")

    @property
    def asks(self) -> Asks:
        return Asks(features=tuple(dict.fromkeys((self.features, self.predictions))))

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        rows, ranks = pool.features(self.features), pool.ids.ranks
        probs = predicted_probs(self, pool, self.predictions)
        order, reasons = torch.zeros(budget, dtype=torch.int64), {}
        for members, turns, among in class_turns(pool, self.by_class, budget):
            try:
                part = rows if len(members) == len(pool) else rows[members]
                values = neighbour_divergence(part, probs[members], self.k, ranks[members])
            except ValueError as error:
                raise UsageError(f"{self.title}: {error}") from error
            order[turns] = members[ordered(values, pool.ids.take(members), descending=True)[: len(turns)]]
            for position, value in zip(members.tolist(), values.tolist(), strict=True):
                reasons[position] = f"predicted {value:.4g} nats from its nearest neighbours{among} in {self.features}"
        return Selection.taken(order, pool, "predicted unlike its neighbours", "predicted like its neighbours", reasons)
