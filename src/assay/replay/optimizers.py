"""torch's optimizers as update rules that can be differentiated, and their settings."""

from collections.abc import Mapping
from typing import Any

import torch

from ..core.errors import UsageError
from ..maths.trajectories import AdamUpdate, SGDUpdate, Update

TORCH_CLIP = 1e-6
"""What torch's clip_grad_norm_ adds to the norm."""


def update_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Update:
    """What one parameter group of a torch optimizer does in a step.

    Raises:
        UsageError: Another optimizer than SGD, Adam and AdamW, or a variant of them that is not differentiated here.
    """
    kind = type(optimizer)
    for flag in ("amsgrad", "maximize"):
        if group.get(flag):
            raise UsageError(f"{kind.__name__} with {flag}=True cannot be walked backwards; train without it.")
    if kind is torch.optim.SGD:
        return SGDUpdate(float(group["momentum"]), float(group["dampening"]), group["nesterov"], float(group["weight_decay"]))
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        decoupled = kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))
        first, second = group["betas"]
        return AdamUpdate((float(first), float(second)), float(group["eps"]), float(group["weight_decay"]), decoupled)
    raise UsageError(
        f"{kind.__name__} cannot be walked backwards; torch's SGD, Adam and AdamW can. For an optimizer of your own, give update=..."
    )
