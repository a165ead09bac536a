"""How far a step on one example alone would go towards a reference: what OTI and LiveVal are made of.

With D = reference - theta and a solo step theta - R g (R the learning rates), what is left after it is u = D + R g, and

    gain = |D| - |u|                  normalised: (|D| - |u|) / (|D| + |u|) = -(2 <D, R g> + |R g|^2) / (|D| + |u|)^2

The last form has no difference of nearly equal numbers in it.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from .derivatives import directional

Params = Mapping[str, Tensor]
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
    """Gain of solo steps; 0 where the reference is reached already and the gradient is 0.

    Args:
        inner: <D, R g> of each example.
        length: |R g|^2.
        distance: |D|^2.
        normalised: In [-1, 1]; otherwise in units of the parameters.
        left: |u|^2 where it is known better than from the other three.
    """
    change = 2 * inner + length
    remains = (distance + change).clamp(min=0) if left is None else left
    both = distance.sqrt() + remains.sqrt()
    value = -change / (both.square() if normalised else both)
    return torch.where(both > 0, value, 0.0)


def solo_gains(
    losses: Callable[[dict[str, Tensor]], Tensor],
    squares: Callable[[Params], Tensor],
    params: Params,
    reference: Params,
    rates: Mapping[str, float],
    *,
    normalised: bool = True,
    by_tensor: bool = False,
    ways: set[str] | None = None,
) -> Float[Tensor, " batch"]:
    """Gain of a solo step of each example of a batch from `params` towards `reference`, in float64.

    Args:
        losses: Loss of each example, differentiable, at some of the parameters (the others as in `params`).
        squares: Squared norm of each example's gradient by some of the parameters.
        params: Where the step starts.
        reference: Where it should go.
        rates: Learning rate of each parameter.
        normalised: As in `gain`.
        by_tensor: Norms of single tensors are added, instead of one norm over all parameters.
        ways: Gets the way in which slopes were taken (see `derivatives.Slopes`).
    """
    groups = [(name,) for name in params] if by_tensor else [tuple(params)]
    distances, remaining, changes = [], [], []
    for names in groups:
        apart = {name: reference[name] - params[name] for name in names}
        here = {name: params[name] for name in names}
        found = directional(losses, here, {name: rates[name] * value for name, value in apart.items()})
        if ways is not None:
            ways.add(f"slopes: {found.way}")
        inner = found.slopes.to(torch.float64)
        distance = torch.stack([value.to(torch.float64).square().sum() for value in apart.values()]).sum()
        length = torch.zeros_like(inner)
        for rate in sorted({rates[name] for name in names}):
            own = {name: value for name, value in here.items() if rates[name] == rate}
            length += rate**2 * squares(own).to(torch.float64)
        left = (distance + 2 * inner + length).clamp(min=0)
        for place in (left < CLOSE * distance).nonzero().flatten().tolist():
            left[place] = _left(losses, here, apart, rates, place)
        distances.append(distance)
        remaining.append(left)
        changes.append(2 * inner + length)
    if not by_tensor:
        return gain((changes[0] - length) / 2, length, distances[0], normalised=normalised, left=remaining[0])
    before = torch.stack([distance.sqrt() for distance in distances]).sum()
    after = torch.stack([left.sqrt() for left in remaining]).sum(0)
    both = before + after
    return torch.where(both > 0, (before - after) / (both if normalised else 1.0), 0.0)


def _left(
    losses: Callable[[dict[str, Tensor]], Tensor], here: Params, apart: Params, rates: Mapping[str, float], place: int
) -> Tensor:
    """|D + R g|^2 of one example, from its own gradient."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in here.items()}
        gradients = torch.autograd.grad(losses(leaves)[place], list(leaves.values()), materialize_grads=True)
    parts = [apart[name] + rates[name] * g for name, g in zip(leaves, gradients, strict=True)]
    return torch.stack([part.to(torch.float64).square().sum() for part in parts]).sum()
