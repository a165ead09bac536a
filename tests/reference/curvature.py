"""The slow obvious way: whole matrices, in double precision."""

import torch
from torch.autograd.functional import hessian as dense_hessian
from torch.autograd.functional import jacobian


def hessian(losses, params):
    """Of the sum of the losses, (entries, entries), in the order of `params`."""
    row = torch.cat([value.flatten() for value in params.values()])
    return dense_hessian(lambda flat: losses(_named(flat, params)).sum(), row)


def gauss_newton(outputs, losses_of, params):
    """J' H J of the sum of the losses, (entries, entries); H is that of the whole batch's outputs, side by side."""
    row = torch.cat([value.flatten() for value in params.values()])
    z = outputs(params).detach()
    J = jacobian(lambda flat: outputs(_named(flat, params)), row).reshape(z.numel(), -1)
    return J.T @ dense_hessian(lambda flat: losses_of(flat.view(z.shape)).sum(), z.flatten()) @ J


def _named(flat, params):
    parts = flat.split([value.numel() for value in params.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(params.items(), parts, strict=True)}
