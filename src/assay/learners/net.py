"""A small neural net, trained on all its examples at once."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import NumericalError
from ..core.learner import AbstractLearner, Fitted, Scale
from ..maths import draws


def _outputs(params: list[Tensor], rows: Tensor) -> Tensor:
    inner, shift, outer, bias = params
    return (rows @ inner + shift).relu() @ outer + bias


@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """A fitted net with one hidden layer."""

    scale: Scale
    params: list[Tensor]
    remarks: tuple[str, ...] = ()

    def predict_probs(self, rows: Float[Tensor, "queries dims"]) -> Float64[Tensor, "queries classes"]:
        """Softmax of the outputs."""
        with torch.no_grad():
            return _outputs(self.params, self.scale(rows)).softmax(1)


@dataclasses.dataclass(frozen=True)
class Net(AbstractLearner):
    """One hidden layer of ReLU on standardised columns; Adam on the mean cross-entropy of all examples at once.

    Args:
        width: Units of the hidden layer.
        steps: Number of steps of Adam.
        rate: Learning rate.
    """

    width: int = 32
    steps: int = 100
    rate: float = 0.02
    name: ClassVar[str] = "net"
    summary: ClassVar[str] = "one hidden layer, Adam on all examples at once"

    def __post_init__(self):
        super().__post_init__()
        self.at_least(width=1, steps=1, rate=1e-12)

    def train(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, " examples"],
        seed: int,
    ) -> Fitted:
        scale = Scale.of(rows, weights)
        x, share = scale(rows), weights / weights.sum()
        draw = torch.Generator().manual_seed(draws.integer(seed, "learner net"))
        sizes = ((x.shape[1], self.width), (self.width, classes))
        params: list[Tensor] = []
        for here, there in sizes:
            start = torch.randn(here, there, generator=draw, dtype=torch.float64) * (2 / here) ** 0.5
            params += [start.requires_grad_(), torch.zeros(there, dtype=torch.float64, requires_grad=True)]
        optimizer = torch.optim.Adam(params, lr=self.rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                loss = torch.nn.functional.cross_entropy(_outputs(params, x), labels, reduction="none") @ share
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        params = [one.detach() for one in params]
        if not all(bool(one.isfinite().all()) for one in params):
            raise NumericalError(
                f"learner {self.title}: the weights are not finite after {self.steps} steps; give a smaller rate."
            )
        return Layers(scale, params)
