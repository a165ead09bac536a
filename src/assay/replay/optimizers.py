"""torch's optimizers as update rules that can be differentiated, and their settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.models import WeightDecay
from ..maths.trajectories import AdamUpdate, SGDUpdate, Update
from .joined import owner_of

COUPLED = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.RMSprop,
    torch.optim.ASGD,
)
"""torch's optimizers that add their weight decay to the gradient, unless a group says `decoupled_weight_decay`."""
TORCH_CLIP = 1e-6
"""The number that torch's clip_grad_norm_ adds to the norm."""


def update_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Update:
    """The update rule of one parameter group of a torch optimizer.

    Raises:
        UsageError: Another optimizer than SGD, Adam and AdamW, or a variant of them that is not differentiated here.
    """
    optimizer = owner_of(optimizer, group)
    kind = type(optimizer)
    for flag in ("amsgrad", "maximize"):
        if group.get(flag):
            raise UsageError(f"{kind.__name__} with {flag}=True cannot be differentiated; train without it.")
    if kind is torch.optim.SGD:
        return SGDUpdate(float(group["momentum"]), float(group["dampening"]), group["nesterov"], float(group["weight_decay"]))
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        decoupled = kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))
        first, second = group["betas"]
        return AdamUpdate((float(first), float(second)), float(group["eps"]), float(group["weight_decay"]), decoupled)
    raise UsageError(
        f"{kind.__name__} cannot be differentiated; torch's SGD, Adam and AdamW can. For an optimizer of your own, give update=..."
    )


def beyond_sgd(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> tuple[str, ...]:
    """What a step of a parameter group does besides subtracting rate times gradient, in words.

    Returns:
        Empty for plain SGD.
    """
    optimizer = owner_of(optimizer, group)
    found = [] if type(optimizer) is torch.optim.SGD else [f"the steps of {type(optimizer).__name__}"]
    found += ["momentum"] if group.get("momentum") else []
    return (*found, *(["weight decay"] if group.get("weight_decay") else []))


@dataclasses.dataclass(frozen=True)
class Momentum:
    """Momentum of SGD.

    Attributes:
        factor: What is kept of the buffer in each step; a number, or one for each step.
        dampening: What the gradient loses before it is added.
    """

    factor: float | Tensor
    dampening: float

    @property
    def gain(self) -> float | Tensor:
        """How many times its rate a step goes along a gradient that stays the same."""
        plain = self.factor == 0
        gain = (1 - self.dampening) / (1 - self.factor)
        # Without momentum there is no buffer, and nothing is dampened.
        return torch.where(plain, 1.0, gain) if isinstance(plain, Tensor) else 1.0 if plain else gain


def momentum_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Momentum | None:
    """The momentum of a parameter group of SGD; None for optimizers whose steps are no multiples of past gradients."""
    if type(owner_of(optimizer, group)) is not torch.optim.SGD:
        return None
    return Momentum(float(group["momentum"]), float(group["dampening"]))


def weight_decay_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> WeightDecay:
    """The weight decay of a parameter group: its factor beside the loss of a step, and whether it is added to the gradient of that loss.

    Raises:
        UsageError: The optimizer has a weight decay, and how its steps apply it is not known.
    """
    kind, factor = type(owner_of(optimizer, group)), float(group.get("weight_decay", 0.0))
    if factor and kind is not torch.optim.AdamW and kind not in COUPLED:
        raise UsageError(
            f"What {kind.__name__} does with weight_decay={factor:g} is not known; leave it out by decay=none, and give a damping of that size "
            "if it is added to the gradient."
        )
    return WeightDecay(factor, coupled=kind is not torch.optim.AdamW and not group.get("decoupled_weight_decay"))
