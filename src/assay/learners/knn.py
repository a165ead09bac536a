"""k nearest neighbours: the share of each class among the nearest training examples."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.learner import AbstractLearner, Fitted

PAIRS = 2**22
"""Distances that are held at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
    """A fitted k-nearest-neighbour classifier: the training examples that vote."""

    rows: Float64[Tensor, "examples dims"]
    votes: Float64[Tensor, "examples classes"]
    k: float
    remarks: tuple[str, ...] = ()

    def predict_probs(self, rows: Float[Tensor, "queries dims"]) -> Float64[Tensor, "queries classes"]:
        """Share of each class among the k training examples nearest to each row; examples as far away as the k-th share the places that are left."""
        weights, parts = self.votes.sum(1), []
        for part in rows.to(torch.float64).split(max(1, PAIRS // len(self.rows))):
            # Without the product of matrices, by whose rounding equal rows would not be equally near.
            apart = torch.cdist(part, self.rows, compute_mode="donot_use_mm_for_euclid_dist")
            near, order = apart.sort(1)
            # Sums of fractions in another order may round to a little less.
            reached = weights[order].cumsum(1) >= self.k * (1 - 1e-12)
            last = near.gather(1, reached.to(torch.int8).argmax(1, keepdim=True))
            inside, edge = (apart < last) * weights, (apart == last) * weights
            left = (self.k - inside.sum(1)) / edge.sum(1)
            share = (inside + edge * left[:, None]) / weights
            parts.append(share @ self.votes / self.k)
        return torch.cat(parts) if parts else torch.zeros(0, self.votes.shape[1], dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class KNN(AbstractLearner):
    """Share of each class among the k nearest training examples, by Euclidean distance; among all of them where there are fewer than k.

    Args:
        k: How many neighbours; an example of weight 2 counts as two.
    """

    k: int = 5
    name: ClassVar[str] = "knn"
    summary: ClassVar[str] = "share of each class among the k nearest"

    def __post_init__(self):
        super().__post_init__()
        self.at_least(k=1)

    def train(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, " examples"],
        seed: int,
    ) -> Fitted:
        votes = torch.nn.functional.one_hot(labels, classes) * weights[:, None]
        return Neighbours(rows.to(torch.float64), votes, min(float(self.k), float(weights.sum())))
