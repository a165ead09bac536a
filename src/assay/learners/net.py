"""A small neural net, trained on all its examples at once."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import NumericalError
from ..core.learner import AbstractLearner, Fitted, Scale
from ..core.options import at_least
from ..maths import draws


def _outputs(params: list[Tensor], rows: Tensor) -> Tensor:
    inner, shift, outer, bias = params
    return (rows @ inner + shift).relu() @ outer + bias


ROOM = 2**27
"""Bytes of the rows and hidden outputs of nets that are trained side by side."""


def _start(dims: int, width: int, classes: int, seed: int) -> list[Tensor]:
    """Parameters before training."""
    draw = torch.Generator().manual_seed(draws.integer(seed, "learner net"))
    params: list[Tensor] = []
    for here, there in ((dims, width), (width, classes)):
        params += [
            torch.randn(here, there, generator=draw, dtype=torch.float64) * (2 / here) ** 0.5,
            torch.zeros(there, dtype=torch.float64),
        ]
    return params


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
        at_least(self, width=1, steps=1, rate=1e-12)

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
        params = [one.requires_grad_() for one in _start(x.shape[1], self.width, classes, seed)]
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

    def train_many(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, "coalitions examples"],
        seeds: Sequence[int],
        queries: Float[Tensor, "queries dims"],
    ) -> tuple[Float64[Tensor, "coalitions queries classes"], Sequence[Sequence[str]]]:
        each = 8 * max(1, len(rows), len(queries)) * (rows.shape[1] + 2 * self.width + classes)
        size = max(1, ROOM // each)
        parts = [
            self._side_by_side(rows, labels, classes, weights[start : start + size], seeds[start : start + size], queries)
            for start in range(0, len(weights), size)
        ]
        return torch.cat(parts), [()] * len(weights)

    def _side_by_side(
        self, rows: Tensor, labels: Tensor, classes: int, weights: Tensor, seeds: Sequence[int], queries: Tensor
    ) -> Float64[Tensor, "coalitions queries classes"]:
        """Nets of one size, each with the start, the scale and the classes of its coalition: examples outside weigh nothing, classes outside cannot occur."""
        scales = [Scale.of(rows[one > 0], one[one > 0]) for one in weights]
        there = torch.zeros(len(weights), classes, dtype=torch.float64).index_add_(1, labels, weights) > 0
        closed = torch.where(there, 0.0, -torch.inf)[:, None]
        starts = [_start(rows.shape[1], self.width, int(some.sum()), seed) for some, seed in zip(there, seeds, strict=True)]
        inner, shift = (torch.stack([start[place] for start in starts]) for place in (0, 1))
        wide = torch.zeros(len(weights), self.width, classes, dtype=torch.float64)
        for place, (some, start) in enumerate(zip(there, starts, strict=True)):
            wide[place][:, some] = start[2]
        params = [inner, shift[:, None], wide, torch.zeros(len(weights), 1, classes, dtype=torch.float64)]
        params = [one.requires_grad_() for one in params]
        x = torch.stack([scale(rows) for scale in scales])
        share = weights / weights.sum(1, keepdim=True)
        optimizer = torch.optim.Adam(params, lr=self.rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                # Finite where a class is closed, whose examples weigh nothing: 0 times infinity would be no number.
                outputs = _outputs(params, x) + closed.clamp(min=-1e30)
                own = outputs.log_softmax(2).gather(2, labels.expand(len(weights), -1)[..., None])[..., 0]
                loss = -(own.where(share > 0, 0.0) * share).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            probs = (_outputs(params, torch.stack([scale(queries) for scale in scales])) + closed).softmax(2)
        if not bool(probs.isfinite().all()):
            raise NumericalError(
                f"learner {self.title}: the weights are not finite after {self.steps} steps; give a smaller rate."
            )
        return probs
