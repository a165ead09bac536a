"""Finds the torch optimizer inside the wrappers of other libraries."""

from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer

from ..core.errors import UsageError


@runtime_checkable
class HoldsOptimizer(Protocol):
    """A wrapper that holds an optimizer, as those of accelerate and Lightning do."""

    optimizer: Any


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
            "each rate, or give the one that trains most and leave methods that read steps out of Recording(live=...)."
        )
    return f"optimizer= is a {type(optimizer).__name__}, no torch optimizer; give the torch.optim.Optimizer that takes the steps."
