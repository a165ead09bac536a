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


def leave_one_out_hvps(
    losses: Losses, params: Params, directions: Sequence[Params], left_out: Sequence[Sequence[int] | Tensor]
) -> tuple[dict[str, Tensor], list[tuple[dict[str, Tensor], dict[str, Tensor]]]]:
    """For each direction, the Hessian of the sum of all losses but some, times the direction, and the gradient of those that are left out.

    Args:
        losses: The batch, as a function of these parameters.
        params: Where to differentiate.
        directions: Of the same names and shapes, each.
        left_out: For each direction, places in the batch; none for the Hessian of all losses, with a gradient of 0.

    Returns:
        The gradient of the sum of all losses; and product and gradient for each direction.

    Raises:
        NotImplementedError: An operation of the model has no second derivative.
    """
    with torch.enable_grad(), math_attention(), DifferentiableOperations():
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        values, found = losses(leaves), []
        first = torch.autograd.grad(values.sum(), list(leaves.values()), create_graph=True, materialize_grads=True)
        for direction, rows in zip(map(detached, directions), left_out, strict=True):
            product = _second_derivative(first, leaves, direction, retain=True)
            gradient = {name: torch.zeros_like(value) for name, value in product.items()}
            if len(rows):
                own = torch.autograd.grad(values[rows].sum(), list(leaves.values()), create_graph=True, materialize_grads=True)
                less = _second_derivative(own, leaves, direction, retain=True)
                product = {name: value - less[name] for name, value in product.items()}
                gradient = {name: value.detach() for name, value in zip(leaves, own, strict=True)}
            found.append((product, gradient))
    return {name: value.detach() for name, value in zip(leaves, first, strict=True)}, found


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


def _second_derivative(first: Sequence[Tensor], leaves: Params, along: Params, retain: bool = False) -> dict[str, Tensor]:
    product = dot(dict(zip(leaves, first, strict=True)), along)
    if not product.requires_grad:
        return {name: torch.zeros_like(value) for name, value in leaves.items()}
    check_twice_differentiable(product)
    found = torch.autograd.grad(product, list(leaves.values()), retain_graph=retain, materialize_grads=True)
    return {name: part.detach() for name, part in zip(leaves, found, strict=True)}
