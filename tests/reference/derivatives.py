"""The slow obvious way: one example at a time, one backward pass each, in whatever precision is given."""

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel


def gradients_one_by_one(module, params, inputs, targets, loss):
    """Flat gradient of each example's own loss, (batch, params), in the order of `params`."""
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        value = loss(functional_call(module, leaves, (x[None],)), y[None]).sum()
        parts = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def hessian_by_columns(losses, params, weights):
    """Hessian of sum_i w_i l_i, (params, params): the gradient differentiated entry by entry."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    with sdpa_kernel(SDPBackend.MATH):
        total = (weights * losses(leaves)).sum()
    first = torch.autograd.grad(total, list(leaves.values()), create_graph=True, materialize_grads=True)
    rows = []
    for entry in torch.cat([part.flatten() for part in first]):
        if not entry.requires_grad:
            rows.append(torch.zeros(sum(value.numel() for value in leaves.values()), dtype=entry.dtype))
            continue
        second = torch.autograd.grad(entry, list(leaves.values()), retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in second]))
    return torch.stack(rows)


def flat(params):
    """All values in one row."""
    return torch.cat([value.flatten() for value in params.values()])
