"""Ridge regression on the classes: one linear solve."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..core.learner import AbstractLearner, Fitted, Scale, magnitude
from ..core.options import at_least


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A fitted linear model whose outputs become probabilities: negative outputs are set to 0, and each row is divided by its sum."""

    scale: Scale
    weight: Float64[Tensor, "dims classes"]
    bias: Float64[Tensor, " classes"]
    remarks: tuple[str, ...] = ()

    def predict_probs(self, rows: Float[Tensor, "queries dims"]) -> Float64[Tensor, "queries classes"]:
        """Class probabilities. The outputs of a row sum to 1 before negative ones are set to 0, so that at least one is above 0."""
        outputs = (self.scale(rows) @ self.weight + self.bias).clamp(min=0)
        return outputs / outputs.sum(1, keepdim=True)


MOST_DIMS = 512
"""Columns up to which the moments of coalitions are kept while they grow: a table of columns times columns for each."""


class GrowingLinear:
    """Ridge regressions on coalitions that grow: the moments of rows and classes change by a product of two vectors, and each asks for one solve.

    Attributes:
        remarks: None.
    """

    remarks: Mapping[str, int] = {}

    def __init__(self, rows: Tensor, labels: Tensor, classes: int, coalitions: int, queries: Tensor, penalty: float):
        # As in `Scale`; the columns are standardised, so that their unit changes nothing.
        unit = magnitude(rows)
        self._rows, self._labels, self._queries = rows.to(torch.float64) / unit, labels, queries.to(torch.float64) / unit
        self._penalty, self._size, dims = penalty, 0, rows.shape[1]
        self._mean = torch.zeros(coalitions, dims, dtype=torch.float64)
        self._largest = torch.zeros_like(self._mean)
        self._share = torch.zeros(coalitions, classes, dtype=torch.float64)
        self._second = torch.zeros(coalitions, dims, dims, dtype=torch.float64)
        self._cross = torch.zeros(coalitions, dims, classes, dtype=torch.float64)

    def add(self, places: Int[Tensor, " coalitions"]) -> None:
        """See `core.learner.Growing`."""
        self._size += 1
        row = self._rows[places]
        label = torch.nn.functional.one_hot(self._labels[places], self._share.shape[1]).to(torch.float64)
        off, part = row - self._mean, (self._size - 1) / self._size
        self._second.baddbmm_(off[:, :, None], off[:, None] * part)
        self._cross.baddbmm_(off[:, :, None], (label - self._share)[:, None] * part)
        self._mean += off / self._size
        self._share += (label - self._share) / self._size
        self._largest = torch.maximum(self._largest, row.abs())

    def keep(self, kept: Bool[Tensor, " coalitions"]) -> None:
        """See `core.learner.Growing`."""
        for name in ("_mean", "_largest", "_share", "_second", "_cross"):
            setattr(self, name, getattr(self, name)[kept])

    def predict_probs(self) -> Float64[Tensor, "coalitions queries classes"]:
        """See `core.learner.Growing`."""
        deviation = (self._second.diagonal(dim1=1, dim2=2) / self._size).clamp(min=0).sqrt()
        # As in `Scale`.
        constant = deviation <= 1e-12 * self._largest
        factor = torch.where(constant, 0.0, 1 / deviation.where(~constant, 1.0))
        system = self._second * factor[:, :, None] * factor[:, None]
        system.diagonal(dim1=1, dim2=2).add_(self._penalty)
        weight = torch.linalg.solve(system, self._cross * factor[:, :, None]) * factor[:, :, None]
        bias = self._share - (self._mean[:, None] @ weight)[:, 0]
        outputs = (self._queries @ weight + bias[:, None]).clamp(min=0)
        return outputs / outputs.sum(2, keepdim=True)


@dataclasses.dataclass(frozen=True)
class Ridge(AbstractLearner):
    """Least squares on the classes as 0 and 1, with an intercept, on standardised columns: min |XW + b - Y|^2 + penalty |W|^2.

    Args:
        penalty: Factor of the sum of the squared weights; above 0.
    """

    penalty: float = 1.0
    name: ClassVar[str] = "ridge"
    summary: ClassVar[str] = "least squares on the classes, one linear solve"

    def __post_init__(self):
        super().__post_init__()
        at_least(self, penalty=1e-12)

    def train(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, " examples"],
        seed: int,
    ) -> Fitted:
        scale, root = Scale.of(rows, weights), weights.sqrt()[:, None]
        wanted = torch.nn.functional.one_hot(labels, classes).to(torch.float64)
        bias = (wanted * weights[:, None]).sum(0) / weights.sum()
        x, y = scale(rows) * root, (wanted - bias) * root
        # The smaller of the two systems, which have the same solution.
        if x.shape[1] <= len(x):
            found = torch.linalg.solve(x.T @ x + self.penalty * torch.eye(x.shape[1], dtype=torch.float64), x.T @ y)
        else:
            found = x.T @ torch.linalg.solve(x @ x.T + self.penalty * torch.eye(len(x), dtype=torch.float64), y)
        return Linear(scale, found, bias)

    def grow(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        coalitions: int,
        queries: Float[Tensor, "queries dims"],
    ) -> GrowingLinear | None:
        if rows.shape[1] > MOST_DIMS:
            return None
        return GrowingLinear(rows, labels, classes, coalitions, queries, self.penalty)
