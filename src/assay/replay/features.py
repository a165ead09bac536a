"""Features of kept models: the input of the last linear layer, the output of any layer, and gradients.

They are computed block by block. Small ones are computed again for each reader; large ones once, into a temporary file.
"""

import contextlib
import dataclasses
import functools
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import NotWritten, UsageError
from ..core.features import BLOCK, Features, FeatureSpec
from ..core.ids import Ids
from ..maths.derivatives import CHUNK_BYTES
from ..maths.projections import project
from ..training.batches import rows, size_of
from .activations import Unseen, fitting, named, row_of, tapped
from .checkpoints import CheckpointModel
from .model_batches import ModelBatch

GRADIENT_BYTES = 2**29
"""What the gradients of some examples may take before they are projected: each part of the projection is made once for them."""
FEW = 7
"""Examples on which it is seen what there is: an odd number, so that another axis in front is not taken for as many rows."""

ON_DISK = 2**28
"""Bytes of features beyond which they are kept in a file: 128,000 rows of a ResNet's 512 numbers stay in memory, gradients of the heads of such nets do not."""

Block = Callable[[ModelBatch], Tensor]
"""The rows of a batch."""


def features_of(model: CheckpointModel, ids: Ids, spec: FeatureSpec) -> Features:
    """Features that a kept model makes.

    Args:
        model: The kept model.
        ids: Ids of the examples, in the order of the model's batches.
        spec: The kind of features.

    Raises:
        UnknownName: No module has that name.
        UsageError: The layer does not give a row for each example, or no linear layer makes the logits.
    """
    first = next(model.batches())
    block = _activations(model, first, spec) if spec.kind in ("penultimate", "layer") else _gradients(model, spec)
    few = model.seen(first.positions[:FEW], rows(first.batch, slice(0, FEW)))

    def read() -> Iterator[tuple[slice, Tensor]]:
        start = 0
        for batch in model.batches():
            yield slice(start, start + len(batch.positions)), block(batch)
            start += len(batch.positions)

    seen = block(few)
    if len(ids) * seen.shape[1] * seen.element_size() <= ON_DISK:
        return Features(spec, ids, seen.shape[1], read)
    filed = _Filed(spec, (len(ids), seen.shape[1]), seen.dtype, read)
    return Features(spec, ids, seen.shape[1], filed.read, whole=filed.whole)


@dataclasses.dataclass(frozen=True, eq=False)
class _Filed:
    """Features in a temporary file, which has no name, so that the system takes it away when the last reader lets go, or dies.

    Attributes:
        spec: The kind of features, for messages.
        shape: Rows, and numbers in each.
        dtype: Of the numbers.
        make: Makes the blocks, from the first to the last; called once.
    """

    spec: FeatureSpec
    shape: tuple[int, int]
    dtype: torch.dtype
    make: Callable[[], Iterator[tuple[slice, Tensor]]]

    @functools.cached_property
    def _file(self) -> Any:
        with self._writing():
            file = tempfile.TemporaryFile(prefix="assay-features-")  # noqa: SIM115
        weakref.finalize(self, file.close)
        for _, block in self.make():
            with self._writing():
                # Not through the mapping: on a full disk that would end the process.
                file.write(np.ascontiguousarray(block.numpy()).data)
        with self._writing():
            file.flush()
        return file

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            size = self.shape[0] * self.shape[1] * self.dtype.itemsize
            raise NotWritten(
                f"features={self.spec} take {size / 1e9:.1f} GB and cannot be written to {tempfile.gettempdir()} ({error}); make room there, "
                "or set TMPDIR to a folder that has it."
            ) from error

    def whole(self) -> Tensor:
        """All rows, as a memory map of the file; what a reader writes into them stays private to the reader."""
        return torch.from_numpy(np.memmap(self._file, torch.empty(0, dtype=self.dtype).numpy().dtype, "c", shape=self.shape))

    def read(self) -> Iterator[tuple[slice, Tensor]]:
        """The blocks, each a copy in memory."""
        rows = self.whole()
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            yield part, rows[part].clone()


def _activations(model: CheckpointModel, first: ModelBatch, spec: FeatureSpec) -> Block:
    functional = first.functional

    def forward(batch: Any) -> Tensor:
        # By the losses, which every training has; not every one says how it makes logits.
        with torch.no_grad():
            return functional(first.params, first.buffers, batch)

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
                forward(batch.batch)
        except Unseen as error:
            cure = fitting(functional.model, lambda: forward(few), "features=layer:")
            raise UsageError(f"features={spec}: {str(error).split(';')[0]}; {cure}.") from error
        value = taken[0]
        # What has no third axis is a row already, whatever the inputs are.
        tokens = value.ndim == 3 and not functional.inputs(first.params, first.buffers, batch.batch).is_floating_point()
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
