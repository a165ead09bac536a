"""Batches of examples together with a model at given parameters: at a checkpoint, or as a step that was just taken."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import MissingEvidence
from ..maths.layer_pairs import LayerPair
from ..maths.params import Params
from ..training.batches import MicroBatches, size_of
from .functional import Functional


@dataclasses.dataclass(frozen=True, eq=False)
class ModelBatch:
    """Examples together with a model (see `core.models.Batch`).

    Attributes:
        positions: Positions of the examples.
        params: Trainable parameters.
        functional: The model's structure and losses.
        buffers: The model's buffers.
        batch: The batch as the losses take it.
    """

    positions: Int[Tensor, " batch"]
    params: Params
    functional: Functional
    buffers: Params
    batch: Any

    @functools.cached_property
    def parts(self) -> "tuple[ModelBatch, ...]":
        """The batches that the step was made of, each with its losses scaled so that the training loss is the mean over all examples of the step.

        Usually the batch alone; several where gradients were accumulated.
        """
        if not isinstance(self.batch, MicroBatches):
            return (self,)
        total, sizes = len(self.positions), [size_of(part) for part in self.batch.parts]
        return tuple(
            ModelBatch(positions, self.params, self.functional.scaled(total / divisor), self.buffers, part)
            for positions, divisor, part in zip(self.positions.split(sizes), self.batch.divisors, self.batch.parts, strict=True)
        )

    def _with_rows(self, chunks: "Callable[[ModelBatch], Iterator[Any]]") -> Iterator[tuple[int, Any]]:
        """What each of the parts yields, with the number of examples in the parts before it."""
        before = 0
        for part in self.parts:
            for chunk in chunks(part):
                yield before, chunk
            before += len(part.positions)

    def losses(self, params: Params) -> Tensor:
        """Loss of each example in eval mode, differentiable."""
        return _joined([part.functional({**self.params, **params}, self.buffers, part.batch) for part in self.parts])

    def grad_dots(self, direction: Params) -> tuple[Tensor, str]:
        """<direction, grad l_i> of each example's loss, in eval mode, and how it was computed."""
        found = [part.functional.grad_dots(self.params, self.buffers, part.batch, direction) for part in self.parts]
        return _joined([values for values, _ in found]), found[0][1]

    def outputs(self, params: Params) -> Tensor:
        """Logits of each example in eval mode, differentiable."""
        return _joined([part.functional.outputs({**self.params, **params}, self.buffers, part.batch) for part in self.parts])

    def output_derivatives(self) -> tuple[Tensor, Tensor]:
        """First derivative of each example's loss with respect to its outputs, and a square root of the second, in eval mode."""
        found = [part.functional.output_derivatives(self.params, self.buffers, part.batch) for part in self.parts]
        return _joined([first for first, _ in found]), _joined([root for _, root in found])

    def grads(self, names: Sequence[str], cotangents: Tensor | None = None) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Gradient of each example's loss, or of its outputs times `cotangents`, with respect to these parameters, in eval mode, in chunks of examples."""
        pulls = self._cut(cotangents)

        def chunks(part: ModelBatch) -> Iterator[tuple[slice, dict[str, Tensor]]]:
            functional, batch = part.functional.pulled(part.batch, next(pulls))
            return functional.grads(self.params, self.buffers, batch, tuple(names))

        for before, (place, values) in self._with_rows(chunks):
            yield slice(before + place.start, before + place.stop), values

    def layer_pairs(self, names: Sequence[str], cotangents: Tensor | None = None) -> Iterator[LayerPair]:
        """Inputs and output gradients of each layer that has some of these parameters, in eval mode, in chunks of examples."""
        pulls = self._cut(cotangents)

        def chunks(part: ModelBatch) -> Iterator[LayerPair]:
            functional, batch = part.functional.pulled(part.batch, next(pulls))
            return functional.layer_pairs(self.params, self.buffers, batch, tuple(names))

        for before, pair in self._with_rows(chunks):
            yield dataclasses.replace(pair, rows=slice(before + pair.rows.start, before + pair.rows.stop)) if before else pair

    def _cut(self, values: Tensor | None) -> Iterator[Tensor | None]:
        if values is None:
            return iter([None] * len(self.parts))
        return iter(values.split([len(part.positions) for part in self.parts]))

    def hvp(self, direction: Params) -> dict[str, Tensor]:
        """Hessian of the sum of the losses times a direction, in eval mode."""
        return _added([part.functional.hvp(self.params, self.buffers, part.batch, direction) for part in self.parts])

    def ggnvp(self, direction: Params) -> dict[str, Tensor]:
        """Gauss-Newton matrix of the sum of the losses times a direction, in eval mode."""
        return _added([part.functional.ggnvp(self.params, self.buffers, part.batch, direction) for part in self.parts])

    def input_gradients(self) -> Tensor:
        """Gradient of the logit of each example's label with respect to its input, in eval mode; for tokens, with respect to their embeddings."""
        return _joined([part.functional.input_gradients(self.params, self.buffers, part.batch) for part in self.parts])

    def grad_sq_norms(self, names: Sequence[str]) -> tuple[Tensor, str]:
        """Squared norm of each example's gradient with respect to these parameters, in eval mode, and how it was computed."""
        found = [part.functional.products(self.params, self.buffers, part.batch, tuple(names), None) for part in self.parts]
        return _joined([torch.stack(list(values.grad_sq_norms.values())).sum(0) for values, _ in found]), found[0][1]

    def products(self, direction: Params) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
        """<direction, grad l_i> and |grad l_i|^2 of each example, split by parameter (name to (batch,)), in eval mode, and how they were computed."""
        found = [
            part.functional.products(self.params, self.buffers, part.batch, tuple(direction), direction) for part in self.parts
        ]
        dots, norms = [values.grad_dots for values, _ in found], [values.grad_sq_norms for values, _ in found]
        return (
            {name: _joined([one[name] for one in dots]) for name in dots[0]},
            {name: _joined([one[name] for one in norms]) for name in norms[0]},
            found[0][1],
        )


def _joined(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(list(values))


def _added(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: functools.reduce(torch.add, [one[name] for one in values]) for name in values[0]}


@dataclasses.dataclass(frozen=True, eq=False)
class LiveStep(ModelBatch):
    """A step just taken by a training in progress (see `core.steps.Step`).

    Attributes:
        index: Number of the step, counted over the whole run.
        epoch: The epoch that it belongs to.
        rates: Learning rate of each parameter.
        after: The model's own parameter tensors, after the step.
    """

    index: int
    epoch: int
    rates: Mapping[str, float]
    after: Params

    def batch_alone(self) -> ModelBatch:
        """The batch without the fields that only a step has."""
        return ModelBatch(self.positions, self.params, self.functional, self.buffers, self.batch)

    def target(self, name: str) -> dict[str, Tensor]:
        """Not available while training is in progress."""
        raise self._too_early()

    def target_product(self, name: str, direction: Params) -> dict[str, Tensor]:
        """Not available while training is in progress."""
        raise self._too_early()

    def back(self, adjoints: Any, *, at: Params | None = None, curvature: bool = True) -> Any:
        """Not available while training is in progress."""
        raise self._too_early()

    def _too_early(self) -> MissingEvidence:
        return MissingEvidence(
            "A training in progress has no targets and its steps cannot be differentiated; score the finished run."
        )
