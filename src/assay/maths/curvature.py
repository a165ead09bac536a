r"""Products of a vector with the Hessian of a loss, and with its Gauss-Newton matrix, without either matrix.

With outputs $z(\theta)$ and a loss $L(z)$: $\nabla^2 L\, v = J^\top H_z J v + \sum_k \partial_{z_k} L\, \nabla^2 z_k\, v$, of which the first term is
Gauss-Newton's; $J = \partial z / \partial \theta$, $H_z = \nabla^2_z L$. The Gauss-Newton matrix has no negative eigenvalue where the loss is
convex in the outputs.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import jvp

from .derivatives import Losses, check_twice_differentiable, detached
from .differentiable import DifferentiableOperations, math_attention
from .params import Params, dot

Outputs = Callable[[dict[str, Tensor]], tuple[Tensor, ...]]
"""From parameters to what the losses are a function of."""
LossesOf = Callable[[Sequence[Tensor]], Tensor]
"""From outputs to the loss of each example, (batch,)."""


def hvp(losses: Losses, params: Params, direction: Params) -> dict[str, Tensor]:
    """Hessian of the sum of the losses, with respect to the parameters that `direction` names, times the direction.

    Args:
        losses: The batch, as a function of these parameters.
        params: Where to differentiate.
        direction: The same names and shapes.

    Returns:
        By the names of the direction, in their shapes.

    Raises:
        NotImplementedError: An operation of the model has no second derivative.
    """
    along = detached(direction)
    with torch.enable_grad(), math_attention(), DifferentiableOperations():
        leaves = {name: params[name].detach().requires_grad_() for name in along}
        first = torch.autograd.grad(losses(leaves).sum(), list(leaves.values()), create_graph=True, materialize_grads=True)
        return _second_derivative(first, leaves, along)


def ggnvp(outputs: Outputs, losses_of: LossesOf, params: Params, direction: Params) -> dict[str, Tensor]:
    """Gauss-Newton matrix J' H_z J of the sum of the losses, with respect to the parameters that `direction` names, times the direction.

    Forward mode ignores that torch gives some parameters no gradient: pass a direction that is 0 there (`mask_padding_rows`).

    Args:
        outputs: Outputs of the batch, as a function of these parameters.
        losses_of: The losses as a function of the outputs alone.
        params: Where to differentiate.
        direction: The same names and shapes.

    Returns:
        By the names of the direction, in their shapes.

    Raises:
        NotImplementedError: An operation of the model or of the losses has no derivative that is needed.
    """
    at, along = detached({name: params[name] for name in direction}), detached(direction)
    with torch.enable_grad(), math_attention(), DifferentiableOperations():
        leaves = {name: value.requires_grad_() for name, value in at.items()}
        values = outputs(leaves)
        moved = _jacobian_product(outputs, values, leaves, along)
        # The same numbers, by which the losses are derived without what made them.
        apart = {str(place): value.detach().requires_grad_() for place, value in enumerate(values)}
        losses = losses_of(tuple(apart.values())).sum()
        pull = torch.autograd.grad(losses, list(apart.values()), create_graph=True, materialize_grads=True)
        if not any(part.requires_grad for part in pull):
            raise NotImplementedError("the losses are linear in the outputs, so Gauss-Newton's matrix is 0 everywhere")
        curved = _second_derivative(pull, apart, {str(n): part for n, part in enumerate(moved)})
        found = torch.autograd.grad(values, list(leaves.values()), list(curved.values()), materialize_grads=True)
    return {name: part.detach() for name, part in zip(leaves, found, strict=True)}


def _jacobian_product(
    outputs: Outputs, values: tuple[Tensor, ...], leaves: Params, along: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    try:
        return tuple(part.detach() for part in jvp(outputs, (detached(leaves),), (along,))[1])  # type: ignore[misc]
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError):
        # No forward-mode rule: J v is the derivative of <J' c, v> by c, which is linear in c.
        factors = [torch.zeros_like(value).requires_grad_() for value in values]
        first = torch.autograd.grad(values, list(leaves.values()), factors, create_graph=True, materialize_grads=True)
        product = dot(dict(zip(leaves, first, strict=True)), along)
        check_twice_differentiable(product)
        return torch.autograd.grad(product, factors, materialize_grads=True)


def _second_derivative(first: Sequence[Tensor], leaves: Params, along: Params) -> dict[str, Tensor]:
    product = dot(dict(zip(leaves, first, strict=True)), along)
    if not product.requires_grad:
        return {name: torch.zeros_like(value) for name, value in leaves.items()}
    check_twice_differentiable(product)
    found = torch.autograd.grad(product, list(leaves.values()), materialize_grads=True)
    return {name: part.detach() for name, part in zip(leaves, found, strict=True)}
