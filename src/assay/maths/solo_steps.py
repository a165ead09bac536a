"""How far a step on one example alone would go towards a reference: what OTI and LiveVal are made of.

With D = reference - theta and a solo step theta - R g (R the learning rates), what is left after it is u = D + R g, and

    gain = |D| - |u|                  normalised: (|D| - |u|) / (|D| + |u|) = -(2 <D, R g> + |R g|^2) / (|D| + |u|)^2

The last form has no difference of nearly equal numbers in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .derivatives import directional

Params = Mapping[str, Tensor]


@runtime_checkable
class Batch(Protocol):
    """What is asked of a batch here; `core.evidence.Batch`, which this room does not know, is one."""

    @property
    def params(self) -> Params:
        """Where the steps start."""
        ...

    @property
    def ways(self) -> set[str]:
        """Gets the ways in which derivatives were taken."""
        ...

    def losses(self, params: Params) -> Tensor:
        """Loss of each example, differentiable."""
        ...

    def squares(self, params: Params) -> Tensor:
        """Squared norm of each example's gradient."""
        ...

    def gradients(self, params: Params) -> Iterator[tuple[int, dict[str, Tensor]]] | None:
        """Each example's gradient, in chunks; None where one takes too much memory."""
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
    batch: Batch,
    reference: Params,
    rates: Mapping[str, float],
    *,
    normalised: bool = True,
    by_tensor: bool = False,
) -> Float[Tensor, " batch"]:
    """Gain of a solo step of each example of a batch from its parameters towards `reference`, in float64.

    Where the batch hands out the gradient of each example, slopes and norms are both read off it; else slopes are taken in forward
    mode and norms without the gradients.

    Args:
        batch: The examples, and where their steps start.
        reference: Where the steps should go.
        rates: Learning rate of each parameter.
        normalised: As in `gain`.
        by_tensor: Norms of single tensors are added, instead of one norm over all parameters.
    """
    params = batch.params
    groups = [(name,) for name in params] if by_tensor else [tuple(params)]
    apart = {name: reference[name] - params[name] for name in params}
    distance = {name: value.to(torch.float64).square().sum() for name, value in apart.items()}
    distances = [torch.stack([distance[name] for name in names]).sum() for names in groups]
    chunks = batch.gradients(params)
    if chunks is not None:
        found = _from_gradients(chunks, apart, rates, groups, distances)
    else:
        found = _from_products(batch, apart, rates, groups, distances)
    if not by_tensor:
        ((inner, length, left),) = found
        return gain(inner, length, distances[0], normalised=normalised, left=left)
    before = torch.stack([part.sqrt() for part in distances]).sum()
    after = torch.stack([left.sqrt() for _, _, left in found]).sum(0)
    both = before + after
    return torch.where(both > 0, (before - after) / (both if normalised else 1.0), 0.0)


Parts = list[tuple[Tensor, Tensor, Tensor]]
"""<D, R g>, |R g|^2 and |D + R g|^2 of each example, for each group of parameters."""


def _from_gradients(
    chunks: Iterator[tuple[int, dict[str, Tensor]]],
    apart: Params,
    rates: Mapping[str, float],
    groups: Sequence[tuple[str, ...]],
    distances: Sequence[Tensor],
) -> Parts:
    columns: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in groups]
    for _, chunk in chunks:
        for place, names in enumerate(groups):
            slopes = [rates[name] * (_rows(chunk[name]) @ apart[name].flatten()).to(torch.float64) for name in names]
            inner = torch.stack(slopes).sum(0)
            norms = [torch.linalg.vector_norm(_rows(chunk[name]), dim=1).to(torch.float64) for name in names]
            length = torch.stack([(rates[name] * norm).square() for name, norm in zip(names, norms, strict=True)]).sum(0)
            left = (distances[place] + 2 * inner + length).clamp(min=0)
            for row in (left < CLOSE * distances[place]).nonzero().flatten().tolist():
                left[row] = _remaining(apart, {name: chunk[name][row] for name in names}, rates)
            columns[place].append((inner, length, left))
    return [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in columns]  # type: ignore[misc]


def _rows(chunk: Tensor) -> Tensor:
    """Each example's gradient as a row; a parameter may be a single number."""
    return chunk.reshape(len(chunk), -1)


def _from_products(
    batch: Batch,
    apart: Params,
    rates: Mapping[str, float],
    groups: Sequence[tuple[str, ...]],
    distances: Sequence[Tensor],
) -> Parts:
    found: Parts = []
    for names, distance in zip(groups, distances, strict=True):
        here = {name: batch.params[name] for name in names}
        slopes = directional(batch.losses, here, {name: rates[name] * apart[name] for name in names})
        batch.ways.add(f"slopes: {slopes.way}")
        inner = slopes.slopes.to(torch.float64)
        length = torch.zeros_like(inner)
        for rate in sorted({rates[name] for name in names}):
            own = {name: value for name, value in here.items() if rates[name] == rate}
            length += rate**2 * batch.squares(own).to(torch.float64)
        left = (distance + 2 * inner + length).clamp(min=0)
        for place in (left < CLOSE * distance).nonzero().flatten().tolist():
            with torch.enable_grad():
                leaves = {name: value.detach().requires_grad_() for name, value in here.items()}
                gradients = torch.autograd.grad(batch.losses(leaves)[place], list(leaves.values()), materialize_grads=True)
            left[place] = _remaining(apart, dict(zip(leaves, gradients, strict=True)), rates)
        found.append((inner, length, left))
    return found


def _remaining(apart: Params, gradient: Params, rates: Mapping[str, float]) -> Tensor:
    """|D + R g|^2 of one example, from its own gradient."""
    parts = [apart[name] + rates[name] * g for name, g in gradient.items()]
    return torch.stack([part.to(torch.float64).square().sum() for part in parts]).sum()
