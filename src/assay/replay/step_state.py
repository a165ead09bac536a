"""States of methods that run along with the optimizer's steps, as flat tensors and one text, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core.errors import RunError, UsageError
from ..runs.packing import pack, unpack
from ..training.batches import MicroBatches, placed
from .functional import Functional
from .losses import WeightedBatch
from .model_batches import ModelBatch

BATCH = "a batch"
"""Marks a mapping that stands for a `ModelBatch`."""
SEVERAL = "several batches"
"""Marks a mapping that stands for `MicroBatches`."""
WEIGHTED = "a weighted batch"
"""Marks a mapping that stands for a `WeightedBatch`."""


def encode(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """A state as `runs.packing` writes it; batches become mappings."""
    return pack({"state": _plain(state)})


def decode(tensors: Mapping[str, Tensor], text: str, functional: Functional) -> Any:
    """The inverse of `encode`.

    Args:
        tensors, text: The two results of `encode`.
        functional: The model for the batches in the state.
    """
    # Copied to memory that begins where torch's own does: sums over tensors that lie otherwise differ in their last bits.
    return _whole(unpack({name: tensor.clone() for name, tensor in tensors.items()}, text)["state"], functional)


def _plain(value: Any) -> Any:
    if isinstance(value, ModelBatch):
        held = {"positions": value.positions, "params": value.params, "buffers": value.buffers, "batch": value.batch}
        return {BATCH: _plain(held)}
    for kind, mark in ((WeightedBatch, WEIGHTED), (MicroBatches, SEVERAL)):
        if isinstance(value, kind):
            return {mark: _plain(value._asdict())}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_plain(inner) for inner in value)
    if value is None or isinstance(value, (Tensor, bool, int, float, str)):
        return value
    raise UsageError(
        f"A batch of a {type(value).__name__} is kept from one epoch to the next, which a checkpoint cannot hold without pickle; let collate_fn return "
        "tensors in dicts, lists or tuples, or score the finished run"
    )


def _whole(value: Any, functional: Functional) -> Any:
    if isinstance(value, dict):
        # Parameters and batches stand where the model does; what is counted by example stays on the CPU.
        try:
            if BATCH in value:
                held = _whole(value[BATCH], functional)
                params, buffers, batch = (_placed(held[name], functional) for name in ("params", "buffers", "batch"))
                return ModelBatch(held["positions"], params, functional, buffers, batch)
            if WEIGHTED in value:
                held = _whole(value[WEIGHTED], functional)
                return WeightedBatch(held["batch"], held["weights"])
            if SEVERAL in value:
                return MicroBatches(**_whole(value[SEVERAL], functional))
        except KeyError as error:
            raise RunError(f"A checkpoint is damaged (no {error} of a batch); record again.") from error
        if value.keys() == set(functional.names):
            return _placed(value, functional)
        return {key: _whole(inner, functional) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_whole(inner, functional) for inner in value)
    return value


def _placed(value: Any, functional: Functional) -> Any:
    device = next(functional.model.parameters()).device
    return placed(value, device)
