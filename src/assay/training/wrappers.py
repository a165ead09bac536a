"""The wrappers around a model while it is trained: torch.compile, DataParallel and DistributedDataParallel."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without what torch.compile and the parallel wrappers put around it; the same parameters."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (DataParallel, DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def wrapped_alike(model: nn.Module, other: nn.Module) -> nn.Module:
    """Another model in the same wrappers as `model`, except DistributedDataParallel, which would wait for other processes.

    Args:
        model: Perhaps wrapped.
        other: A copy of the model inside.
    """
    compiled = getattr(model, "dynamo_ctx", None)
    inner = getattr(model, "_orig_mod", None)
    if compiled is not None and isinstance(inner, nn.Module):
        return compiled(wrapped_alike(inner, other))
    if isinstance(model, DataParallel):
        return DataParallel(
            wrapped_alike(model.module, other), model.device_ids or None, model.output_device if model.device_ids else None
        )
    if isinstance(model, DistributedDataParallel):
        return wrapped_alike(model.module, other)
    return other


def names_inside(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """A state with its names changed to those of `model`, if it was saved from a wrapper around such a model, or the other way round.

    Args:
        state: A dict whose keys are names of parameters and buffers.
        model: The model whose names the result has.
    """
    places: dict[str, list[str]] = {}
    for name in model.state_dict():
        places.setdefault(_bare(name), []).append(name)
    renamed = {places.get(_bare(name), [name])[0]: value for name, value in state.items()}
    plain = len(renamed) == len(state) and all(len(names) == 1 for names in places.values())
    return renamed if plain else dict(state)


def _bare(name: str) -> str:
    """A name without what wrappers put into it, also around a layer inside."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)
