"""How far a step on one example alone would go towards a reference: the building block of OTI and LiveVal.

With D = reference - theta and a single-example step theta - R g (g its gradient, R the learning rates), what is left is u = D + R g, and

    gain = |D| - |u|                  normalised: (|D| - |u|) / (|D| + |u|) = -(2 <D, R g> + |R g|^2) / (|D| + |u|)^2

The last form has no difference of nearly equal numbers in it.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .params import Params


@runtime_checkable
class Batch(Protocol):
    """What a batch must offer here; `core.models.Batch`, which is not imported here, fits."""

    @property
    def params(self) -> Params:
        """Where the steps start."""
        ...

    def losses(self, params: Params) -> Tensor:
        """Loss of each example, differentiable."""
        ...

    def products(self, direction: Params) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
        """<direction, grad l_i> and |grad l_i|^2 for each example's loss l_i, by parameter; and how they were computed."""
        ...


CLOSE = 1e-6
"""|u|^2 as a part of |D|^2 below which it is computed from the gradient itself: the sum of its parts has no digits left there."""


def gain(
    inner: Float[Tensor, " batch"],
    length: Float[Tensor, " batch"],
    distance: Float[Tensor, ""] | Float[Tensor, " batch"],
    *,
    normalised: bool = True,
    left: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """Gain of single-example steps; 0 where the reference is reached already and the gradient is 0.

    Args:
        inner: <D, R g> of each example.
        length: |R g|^2.
        distance: |D|^2.
        normalised: Whether to normalise to [-1, 1]; otherwise the gain is in units of the parameters.
        left: |u|^2, if known more precisely than the other three give it.

    Returns:
        One per example: in [-1, 1] if normalised, else in units of the parameters.
    """
    change = 2 * inner + length
    remains = (distance + change).clamp(min=0) if left is None else left
    both = distance.sqrt() + remains.sqrt()
    value = -change / (both.square() if normalised else both)
    return torch.where(both > 0, value, 0.0)


def single_step_gains(
    batch: Batch,
    reference: Params,
    rates: Mapping[str, float],
    *,
    normalised: bool = True,
    by_tensor: bool = False,
) -> tuple[Float[Tensor, " batch"], str]:
    """Gain of a single-example step towards `reference` for each example of a batch, in float64; and how it was computed, in words.

    Args:
        batch: The examples, and where their steps start.
        reference: Where the steps should go.
        rates: Learning rate of each parameter.
        normalised: As in `gain`.
        by_tensor: Norms of single tensors are added, instead of one norm over all parameters.

    Returns:
        One gain per example, and which backend gave the derivatives.
    """
    params = batch.params
    apart = {name: reference[name] - params[name] for name in params}
    grad_dots, grad_sq_norms, backend = batch.products(apart)
    groups = [(name,) for name in params] if by_tensor else [tuple(params)]
    distances, remaining = [], []
    for names in groups:
        inner = torch.stack([rates[name] * grad_dots[name].to(torch.float64) for name in names]).sum(0)
        length = torch.stack([rates[name] ** 2 * grad_sq_norms[name].to(torch.float64) for name in names]).sum(0)
        distance = torch.stack([apart[name].to(torch.float64).square().sum() for name in names]).sum()
        left = (distance + 2 * inner + length).clamp(min=0)
        for place in (left < CLOSE * distance).nonzero().flatten().tolist():
            left[place] = _left(batch, {name: apart[name] for name in names}, rates, place)
        distances.append(distance)
        remaining.append(left)
    if not by_tensor:
        return gain(inner, length, distances[0], normalised=normalised, left=remaining[0]), backend
    before = torch.stack([distance.sqrt() for distance in distances]).sum()
    after = torch.stack([left.sqrt() for left in remaining]).sum(0)
    both = before + after
    return torch.where(both > 0, (before - after) / (both if normalised else 1.0), 0.0), backend


def _left(batch: Batch, apart: Params, rates: Mapping[str, float], place: int) -> Tensor:
    """|D + R g|^2 of one example, from its own gradient."""
    with torch.enable_grad():
        leaves = {name: batch.params[name].detach().requires_grad_() for name in apart}
        gradients = torch.autograd.grad(batch.losses(leaves)[place], list(leaves.values()), materialize_grads=True)
    parts = [apart[name] + rates[name] * g for name, g in zip(leaves, gradients, strict=True)]
    return torch.stack([part.to(torch.float64).square().sum() for part in parts]).sum()
