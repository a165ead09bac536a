"""What other libraries wrap around a model, an optimizer or a loader, and what stands inside."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..core.errors import UsageError


def inner_model(model: Any) -> nn.Module:
    """The model inside `torch.compile`, `DataParallel` and `DistributedDataParallel`, whose parameters are the same tensors.

    Raises:
        UsageError: It is no torch module.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model= is a {type(model).__name__}, no torch module; give the nn.Module that is trained.")
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        else:
            return model


def inner_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers such as accelerate's and Lightning's, which hand `step` on to it.

    Raises:
        UsageError: There is none, or there are several.
    """
    # A wrapper of these libraries is not built as an Optimizer, though it may inherit from it: it has no hooks of its own.
    while not (isinstance(optimizer, Optimizer) and hasattr(optimizer, "_optimizer_step_pre_hooks")):
        inside = getattr(optimizer, "optimizer", None)
        if inside is None or inside is optimizer:
            raise UsageError(_no_optimizer(optimizer))
        optimizer = inside
    return optimizer


def _no_optimizer(optimizer: Any) -> str:
    if optimizer is None:
        return (
            "optimizer= is None; make the optimizer before recording (of a Hugging Face Trainer by trainer.create_optimizer())."
        )
    if isinstance(optimizer, (list, tuple)):
        return (
            f"optimizer= is a {type(optimizer).__name__} of {len(optimizer)}; one optimizer is recorded, so give one with a parameter group for "
            "each rate, or give the one that trains most and leave live= out."
        )
    return f"optimizer= is a {type(optimizer).__name__}, no torch optimizer; give the torch.optim.Optimizer that takes the steps."


def bare_name(name: str) -> str:
    """A parameter's name without what `torch.compile` and parallel wrappers put into it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def fitted(state: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """A model's state under the names that this model has for its parameters, wherever one of the two was wrapped."""
    names = list(model.state_dict())
    if state.keys() == set(names):
        return state
    places = {bare_name(name): name for name in names}
    renamed = {places.get(bare_name(name), name): value for name, value in state.items()}
    return renamed if len(places) == len(names) and len(renamed) == len(state) else state
