"""Finds the torch optimizer inside the wrappers of other libraries."""

from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer

from ..core.errors import UsageError
from .joined import JoinedOptimizers


@runtime_checkable
class HoldsOptimizer(Protocol):
    """A wrapper that holds an optimizer, as those of accelerate and Lightning do."""

    optimizer: Any


def inner_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers such as accelerate's and Lightning's, which hand `step` on to it; several, joined.

    Raises:
        UsageError: There is none, or several share a parameter.
    """
    if isinstance(optimizer, JoinedOptimizers):
        return optimizer
    if isinstance(optimizer, (list, tuple)) and optimizer:
        parts = [inner_optimizer(one) for one in optimizer]
        return parts[0] if len(parts) == 1 else JoinedOptimizers(parts)
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
    return f"optimizer= is of type {type(optimizer).__name__} and no torch optimizer; give the torch.optim.Optimizer that takes the steps."
