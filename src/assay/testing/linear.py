"""A linear net that stands for a kept model where the laws of selectors ask for one: its parameters are drawn, nothing is trained."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.ids import Ids
from ..core.models import ExampleRows, Layer, Queries, RowMaker, StepSizes, WeightDecay
from ..maths.params import Params
from ..replay.example_rows import example_rows
from ..replay.functional import Functional
from ..replay.model_batches import ModelBatch

HELD_OUT = 12
"""Rows of the target `validation`."""
BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class LinearModel:
    """A linear net with its examples (`core.models.Model`).

    Attributes:
        params: Weight and bias.
        train: Inputs and labels of the examples.
        held_out: Those of the target.
    """

    params: Params
    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    epoch: int = 0

    @property
    def rates(self) -> Mapping[str, float]:
        """The same for both parameters."""
        return dict.fromkeys(self.params, 0.5)

    @property
    def head(self) -> tuple[str, ...]:
        """All parameters."""
        return tuple(self.params)

    def weight_decay(self) -> Mapping[str, WeightDecay]:
        """There is none."""
        return {}

    def batches(self) -> Iterator[ModelBatch]:
        """Every example once."""
        return self._batches(*self.train, slice(None))

    def queries(self, name: str, rows: slice | None = None) -> Iterator[ModelBatch]:
        """The rows of the target."""
        return self._batches(*self.held_out, rows or slice(None))

    def _batches(self, inputs: Tensor, labels: Tensor, rows: slice) -> Iterator[ModelBatch]:
        weight = self.params["weight"]
        net = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=torch.float64).eval()
        functional = Functional(net)
        for positions in torch.arange(len(inputs))[rows].split(BATCH):
            yield ModelBatch(positions, self.params, functional, {}, (inputs[positions], labels[positions]))

    def rows(self, name: str, make: RowMaker) -> ExampleRows:
        """Rows that go with this object."""
        return example_rows(name, Ids(range(len(self.train[0]))), lambda: make(self.batches()))  # type: ignore[arg-type]

    def embeddings(self, names: Sequence[str] | None = None) -> Iterator[Layer]:
        """The inputs, and the softmax."""
        yield Layer("(input)", self.train[0].clone())
        yield Layer("(softmax)", torch.cat([batch.outputs({}).softmax(1) for batch in self.batches()]))

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of the mean loss of the target."""
        leaves = {key: value.clone().requires_grad_() for key, value in self.params.items()}
        loss = torch.cat([batch.losses(leaves) for batch in self.queries(name)]).mean()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


class LinearSource:
    """A linear net as the only model that a run kept (`core.models.ModelSource`)."""

    kept: tuple[int, ...] = (0,)
    targets: tuple[str, ...] = ("validation",)

    def __init__(self, inputs: Tensor, labels: Tensor, classes: int):
        """Draw the net, and a target of as many dimensions."""
        rows, draw = inputs.flatten(1).to(torch.float64), torch.Generator().manual_seed(0)
        shapes = {"weight": (classes, rows.shape[1]), "bias": (classes,)}
        params = {name: torch.randn(shape, generator=draw, dtype=torch.float64) / 4 for name, shape in shapes.items()}
        held_out = torch.randn(HELD_OUT, rows.shape[1], generator=draw, dtype=torch.float64), torch.arange(HELD_OUT) % classes
        self._model = LinearModel(params, (rows, labels), held_out)

    def at(self, epoch: int) -> LinearModel:
        """The net."""
        return self._model

    def queries(self, name: str) -> Queries:
        """The rows of the target, which count alike."""
        weights = torch.full((HELD_OUT,), 1 / HELD_OUT, dtype=torch.float64)
        return Queries(Ids(range(HELD_OUT)), self._model.held_out[1], weights)

    def step_sizes(self, epochs: range) -> StepSizes:
        """No step was taken."""
        return StepSizes(dict.fromkeys(self._model.params, 0.0))

    def final_probs(self) -> Tensor:
        """Softmax of every example."""
        return torch.cat([batch.outputs({}).softmax(1) for batch in self._model.batches()])
