"""Named tensors, such as the parameters of a model, as one vector."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

Params = Mapping[str, Tensor]
"""Tensors by parameter name."""


def dot(first: Params, second: Params) -> Float[Tensor, ""]:
    """Inner product over the names of `first`; `second` may have more."""
    return torch.stack([(value * second[name]).sum() for name, value in first.items()]).sum()


def norm(params: Params) -> Float[Tensor, ""]:
    """Euclidean norm over all entries."""
    return torch.stack([value.square().sum() for value in params.values()]).sum().sqrt()


def flatten(params: Params) -> Float[Tensor, " entries"]:
    """All entries in one row, name after name."""
    return torch.cat([value.flatten() for value in params.values()])


def unflatten(row: Float[Tensor, " entries"], like: Params) -> dict[str, Tensor]:
    """The inverse of `flatten`, for names and shapes, types and devices of `like`."""
    parts = row.split([value.numel() for value in like.values()])
    return {name: part.view(value.shape).to(value) for (name, value), part in zip(like.items(), parts, strict=True)}


def scaled(params: Params, factor: float) -> dict[str, Tensor]:
    """Every entry times a number."""
    return {name: factor * value for name, value in params.items()}


def added(first: Params, second: Params, factor: float = 1.0) -> dict[str, Tensor]:
    """first + factor * second, over the names of `first`; `second` may have more."""
    return {name: value + factor * second[name] for name, value in first.items()}
