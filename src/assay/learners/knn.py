"""k nearest neighbours: the share of each class among the nearest training examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..core.learner import AbstractLearner, Fitted, magnitude
from ..core.options import at_least

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
        for part in rows.split(max(1, PAIRS // len(self.rows))):
            apart = _distances(part, self.rows)
            near, order = apart.sort(1)
            # Sums of fractions in another order may round to a little less.
            reached = weights[order].cumsum(1) >= self.k * (1 - 1e-12)
            last = near.gather(1, reached.to(torch.int8).argmax(1, keepdim=True))
            inside, edge = (apart < last) * weights, (apart == last) * weights
            left = (self.k - inside.sum(1)) / edge.sum(1)
            share = (inside + edge * left[:, None]) / weights
            parts.append(share @ self.votes / self.k)
        return torch.cat(parts) if parts else torch.zeros(0, self.votes.shape[1], dtype=torch.float64)


def _distances(
    queries: Float[Tensor, "queries dims"], rows: Float[Tensor, "examples dims"]
) -> Float64[Tensor, "queries examples"]:
    """Distances in a unit in which no square is infinite or 0: of them only the order is asked."""
    unit = magnitude(torch.cat([part.to(torch.float64).abs().flatten() for part in (queries, rows)])[:, None])
    # Without the product of matrices, by whose rounding equal rows would not be equally near.
    return torch.cdist(
        queries.to(torch.float64) / unit, rows.to(torch.float64) / unit, compute_mode="donot_use_mm_for_euclid_dist"
    )


class GrowingNeighbours:
    """k nearest neighbours in coalitions that grow: of each query the examples nearer than the k-th are kept, and how many of each class are as far as it.

    Attributes:
        remarks: None.
    """

    remarks: Mapping[str, int] = {}

    def __init__(self, rows: Tensor, labels: Tensor, classes: int, coalitions: int, queries: Tensor, k: int):
        apart = [_distances(part, rows) for part in queries.split(max(1, PAIRS // max(1, len(rows))))]
        # Whole numbers in the order of the distances, the same for equal ones.
        self._ranks = (
            torch.cat([_dense(part) for part in apart]).T.contiguous() if apart else torch.zeros(len(rows), 0, dtype=torch.int64)
        )
        self._labels, self._k, self._size = labels, k, 0
        shape = coalitions, len(queries)
        self._last = torch.full(shape, len(rows))
        self._inside = torch.zeros(shape, dtype=torch.int64)
        self._near, self._classes = torch.full((*shape, k), -1), torch.zeros(*shape, k, dtype=torch.int64)
        self._votes, self._edge = torch.zeros(2, *shape, classes, dtype=torch.float64)

    def add(self, places: Int[Tensor, " coalitions"]) -> None:
        """See `core.learner.Growing`."""
        self._size += 1
        ranks = self._ranks[places]
        label = self._labels[places][:, None, None].expand(*ranks.shape, 1)
        nearer, same = ranks < self._last, ranks == self._last
        self._edge.scatter_add_(2, label, same[..., None].to(torch.float64))
        self._votes.scatter_add_(2, label, nearer[..., None].to(torch.float64))
        which = nearer.nonzero(as_tuple=True)
        at = (*which, self._inside[which])
        self._near[at], self._classes[at] = ranks[which], label[..., 0][which]
        self._inside += nearer
        # The farthest of k become those that share the last places.
        full = (self._inside == self._k).nonzero(as_tuple=True)
        near, classes = self._near[full], self._classes[full]
        last = near.amax(1)
        out = near == last[:, None]
        edge = torch.zeros(len(near), self._votes.shape[2], dtype=torch.float64).scatter_add_(1, classes, out.to(torch.float64))
        order = out.to(torch.int8).argsort(dim=1, stable=True)
        self._near[full], self._classes[full] = near.gather(1, order), classes.gather(1, order)
        self._last[full], self._edge[full] = last, edge
        self._votes[full] -= edge
        self._inside[full] -= out.sum(1)

    def keep(self, kept: Bool[Tensor, " coalitions"]) -> None:
        """See `core.learner.Growing`."""
        for name in ("_last", "_inside", "_near", "_classes", "_votes", "_edge"):
            setattr(self, name, getattr(self, name)[kept])

    def predict_probs(self) -> Float64[Tensor, "coalitions queries classes"]:
        """See `core.learner.Growing`."""
        if self._size < self._k:
            return self._votes / self._size
        left = (self._k - self._inside) / self._edge.sum(2)
        return (self._votes + self._edge * left[..., None]) / self._k


def _dense(values: Float64[Tensor, "queries examples"]) -> Int[Tensor, "queries examples"]:
    """Place of each value among the different values of its row."""
    ordered, order = values.sort(1)
    new = torch.cat([torch.zeros(len(values), 1, dtype=torch.int64), (ordered.diff(dim=1) > 0).to(torch.int64)], 1)
    return torch.empty_like(order).scatter_(1, order, new.cumsum(1))


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
        at_least(self, k=1)

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

    def train_many(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, "coalitions examples"],
        seeds: Sequence[int],
        queries: Float[Tensor, "queries dims"],
    ) -> tuple[Float64[Tensor, "coalitions queries classes"], Sequence[Sequence[str]]]:
        k = weights.sum(1).clamp(max=float(self.k))
        votes, parts = torch.nn.functional.one_hot(labels, classes).to(torch.float64), []
        # Each query's examples are sorted once, for all coalitions.
        for part in queries.split(max(1, PAIRS // max(1, weights.numel()))):
            ordered, order = _distances(part, rows).sort(1)
            mass = weights[:, order]
            reached = mass.cumsum(2) >= k[:, None, None] * (1 - 1e-12)
            last = ordered.expand(len(weights), -1, -1).gather(2, reached.to(torch.int8).argmax(2, keepdim=True))
            inside, edge = (ordered < last) * mass, (ordered == last) * mass
            left = (k[:, None] - inside.sum(2)) / edge.sum(2)
            share = torch.zeros_like(mass).scatter_(2, order.expand(len(weights), -1, -1), inside + edge * left[..., None])
            parts.append(share @ votes / k[:, None, None])
        empty = torch.zeros(len(weights), 0, classes, dtype=torch.float64)
        return torch.cat(parts, 1) if parts else empty, [()] * len(weights)

    def grow(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        coalitions: int,
        queries: Float[Tensor, "queries dims"],
    ) -> GrowingNeighbours:
        return GrowingNeighbours(rows, labels, classes, coalitions, queries, min(self.k, len(rows)))
