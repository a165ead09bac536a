"""Batches of examples together with a model at given parameters: at a checkpoint, or as a step that was just taken."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import MissingEvidence
from ..maths.layer_pairs import LayerPair
from ..maths.params import Params
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

    def losses(self, params: Params) -> Tensor:
        """Loss of each example in eval mode, differentiable."""
        return self.functional({**self.params, **params}, self.buffers, self.batch)

    def grad_dots(self, direction: Params) -> tuple[Tensor, str]:
        """<direction, grad l_i> of each example's loss, in eval mode, and how it was computed."""
        return self.functional.grad_dots(self.params, self.buffers, self.batch, direction)

    def outputs(self, params: Params) -> Tensor:
        """Logits of each example in eval mode, differentiable."""
        return self.functional.outputs({**self.params, **params}, self.buffers, self.batch)

    def output_derivatives(self) -> tuple[Tensor, Tensor]:
        """First derivative of each example's loss with respect to its outputs, and a square root of the second, in eval mode."""
        return self.functional.output_derivatives(self.params, self.buffers, self.batch)

    def grads(self, names: Sequence[str], cotangents: Tensor | None = None) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Gradient of each example's loss, or of its outputs times `cotangents`, with respect to these parameters, in eval mode, in chunks of examples."""
        functional, batch = self.functional.pulled(self.batch, cotangents)
        return functional.grads(self.params, self.buffers, batch, tuple(names))

    def layer_pairs(self, names: Sequence[str], cotangents: Tensor | None = None) -> Iterator[LayerPair]:
        """Inputs and output gradients of each layer that has some of these parameters, in eval mode, in chunks of examples."""
        functional, batch = self.functional.pulled(self.batch, cotangents)
        return functional.layer_pairs(self.params, self.buffers, batch, tuple(names))

    def hvp(self, direction: Params) -> dict[str, Tensor]:
        """Hessian of the sum of the losses times a direction, in eval mode."""
        return self.functional.hvp(self.params, self.buffers, self.batch, direction)

    def ggnvp(self, direction: Params) -> dict[str, Tensor]:
        """Gauss-Newton matrix of the sum of the losses times a direction, in eval mode."""
        return self.functional.ggnvp(self.params, self.buffers, self.batch, direction)

    def input_gradients(self) -> Tensor:
        """Gradient of the logit of each example's label with respect to its input, in eval mode; for tokens, with respect to their embeddings."""
        return self.functional.input_gradients(self.params, self.buffers, self.batch)

    def grad_sq_norms(self, names: Sequence[str]) -> tuple[Tensor, str]:
        """Squared norm of each example's gradient with respect to these parameters, in eval mode, and how it was computed."""
        found, way = self.functional.products(self.params, self.buffers, self.batch, tuple(names), None)
        return torch.stack(list(found.grad_sq_norms.values())).sum(0), way

    def products(self, direction: Params) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
        """<direction, grad l_i> and |grad l_i|^2 of each example, split by parameter (name to (batch,)), in eval mode, and how they were computed."""
        found, way = self.functional.products(self.params, self.buffers, self.batch, tuple(direction), direction)
        return found.grad_dots, found.grad_sq_norms, way


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
