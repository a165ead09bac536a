"""Ridge regression on the classes: one linear solve."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.learner import AbstractLearner, Fitted, Scale


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
        self.at_least(penalty=1e-12)

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
