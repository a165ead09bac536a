"""The slow obvious way: one example at a time, one backward pass each, in whatever precision is given."""

import torch
from torch.func import functional_call


def gradients_one_by_one(module, params, inputs, targets, loss):
    """Flat gradient of each example's own loss, (batch, params), in the order of `params`."""
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        value = loss(functional_call(module, leaves, (x[None],)), y[None]).sum()
        parts = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def slopes_and_product(losses, params, weights, direction):
    """Slope of each loss along the direction, and the Hessian of sum_i w_i l_i times it, by name."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    weights = weights.detach().clone().requires_grad_()
    first = torch.autograd.grad((weights * losses(leaves)).sum(), list(leaves.values()), create_graph=True)
    along = torch.stack([(part * direction[name]).sum() for name, part in zip(leaves, first, strict=True)]).sum()
    slopes, *product = torch.autograd.grad(along, [weights, *leaves.values()])
    return slopes, dict(zip(leaves, product, strict=True))


def flat(params):
    """All values in one row."""
    return torch.cat([value.flatten() for value in params.values()])
