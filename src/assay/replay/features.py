"""Features of kept models: the logits, the input of the last linear layer, the output of any layer, and gradients.

They are computed block by block. Small ones are computed again for each reader; large ones once, into a temporary file.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.features import Features, FeatureSpec
from ..core.ids import Ids
from ..core.models import head_factors
from ..maths.derivatives import CHUNK_BYTES
from ..maths.example_vectors import OuterVectors
from ..maths.projections import project
from ..training.batches import rows, size_of
from .activations import Unseen, fitting, named, row_of, tapped
from .checkpoints import CheckpointModel
from .example_rows import ON_DISK, Filed
from .functional import Functional
from .model_batches import ModelBatch

GRADIENT_BYTES = 2**29
"""What the gradients of some examples may take before they are projected: each part of the projection is made once for them."""
FEW = 7
"""Examples on which it is seen what there is: an odd number, so that another axis in front is not taken for as many rows."""

Block = Callable[[ModelBatch], Tensor]
"""The rows of a batch."""


def features_of(
    model: CheckpointModel, ids: Ids, spec: FeatureSpec, target: str | None = None, positions: Tensor | None = None
) -> Features:
    """Features that a kept model makes.

    Args:
        model: The kept model.
        ids: Ids of the examples, in the order of the model's batches; or of the rows of a target.
        spec: The kind of features.
        target: Name of the target whose rows have features; None for the examples.
        positions: Positions of the examples that have features, in the order of `ids`; all by default.

    Raises:
        UnknownName: No module has that name.
        UsageError: The layer does not give a row for each example, no linear layer makes the logits, or there are no logits of one class each.
    """
    every = model.passes if spec.kind in ("logits", "penultimate", "layer") else model.batches
    first = next(every())
    batches: Callable[[], Iterator[ModelBatch]] = (
        (lambda: every(positions=positions)) if target is None else lambda: model.queries(target)
    )
    if spec.kind == "logits":
        block = _logits(model, spec)
    else:
        block = _activations(model, first, spec) if spec.kind in ("penultimate", "layer") else _gradients(model, spec)
    few = model.seen(first.positions[:FEW], rows(first.batch, slice(0, FEW)))

    def read() -> Iterator[tuple[slice, Tensor]]:
        start = 0
        for batch in batches():
            yield slice(start, start + len(batch.positions)), block(batch)
            start += len(batch.positions)

    seen = block(few)
    factors = None if spec.kind != "head_grads" else functools.partial(_factors, model, few, batches)
    if positions is not None or len(ids) * seen.shape[1] * seen.element_size() <= ON_DISK:
        return Features(spec, ids, seen.shape[1], read, factors=factors if positions is None else None)
    filed = Filed(f"features={spec}", (len(ids), seen.shape[1]), seen.dtype, read)
    return Features(spec, ids, seen.shape[1], filed.read, whole=filed.whole, factors=factors)


def _factors(model: CheckpointModel, few: ModelBatch, batches: Callable[[], Iterator[ModelBatch]]) -> OuterVectors | None:
    # On a few first, so that a large model does not run over all examples for nothing.
    if head_factors(iter([few]), model.head) is None:  # type: ignore[list-item]
        return None
    return head_factors(batches(), model.head)  # type: ignore[arg-type]


def _logits(model: CheckpointModel, spec: FeatureSpec) -> Block:
    if model.task != "classes":
        raise UsageError(
            f"features={spec}: the examples of this run do not have one class each, so that there are no logits; choose features=layer:NAME."
        )

    def block(batch: ModelBatch) -> Tensor:
        with torch.no_grad():
            value = batch.outputs({}).cpu()
        return value if value.dtype == torch.float64 else value.to(torch.float32)

    return block


def _activations(model: CheckpointModel, first: ModelBatch, spec: FeatureSpec) -> Block:
    functional = first.functional

    def forward(batch: Any, by: Functional = functional) -> Tensor:
        # By the losses, which every training has; not every one says how it makes logits.
        with torch.no_grad():
            return by(first.params, first.buffers, batch)

    few = rows(first.batch, slice(0, FEW))
    place = model.head_input if spec.kind == "penultimate" else named(functional.model, [spec.name])[0]
    if place is None:
        cure = fitting(functional.model, lambda: forward(few), "features=layer:")
        raise UsageError(f"features=penultimate: no linear layer makes the model's logits by itself; {cure}.")

    def block(batch: ModelBatch) -> Tensor:
        taken: list[Tensor] = []
        try:
            with tapped(
                functional.model, [place], size_of(batch.batch), lambda _, value: taken.append(value.to("cpu", copy=True))
            ):
                forward(batch.batch, batch.functional)
        except Unseen as error:
            cure = fitting(functional.model, lambda: forward(few), "features=layer:")
            raise UsageError(f"features={spec}: {str(error).split(';')[0]}; {cure}.") from error
        value = taken[0]
        # What has no third axis is a row already, whatever the inputs are.
        tokens = value.ndim == 3 and not batch.functional.inputs(first.params, first.buffers, batch.batch).is_floating_point()
        return row_of(value, tokens)

    return block


def _gradients(model: CheckpointModel, spec: FeatureSpec) -> Block:
    names = model.head if spec.kind == "head_grads" else tuple(model.params)
    if not names:
        raise UsageError(
            "features=head_grads: no linear layer that is trained makes the model's logits by itself; choose features=grads:project=512."
        )

    room = GRADIENT_BYTES if spec.kind == "grads" else CHUNK_BYTES

    def block(batch: ModelBatch) -> Tensor:
        parts = []
        for _, gradients in batch.functional.grads(batch.params, batch.buffers, batch.batch, names, room):
            if spec.kind == "grads":
                part = project(gradients, spec.project)
            else:
                part = torch.cat([gradients[name].reshape(len(gradients[name]), -1) for name in names], 1)
                part = part if part.dtype == torch.float64 else part.to(torch.float32)
            parts.append(part.cpu())
        return torch.cat(parts)

    return block
