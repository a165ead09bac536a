"""Linear systems solved by products with their matrix."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .params import Params, flatten, unflatten

Vector = TypeVar("Vector", Tensor, Params)
"""One vector, a matrix of which every column is a vector of its own, or named tensors that together are one vector."""


@dataclasses.dataclass(frozen=True, eq=False)
class Solve(Generic[Vector]):
    """The result of conjugate gradients for (A + damping I) x = b.

    Attributes:
        x: The solution, or of several right-hand sides a column each.
        iterations: How many were taken.
        residual: |b - (A + damping I) x| / |b|, as updated by the iterations, not recomputed; of several right-hand sides the largest.
        curvature: The smallest d'(A + damping I) d / |d|^2 of any direction d that was taken: not below the smallest eigenvalue of
            A + damping I. Infinity where no direction was taken.
    """

    x: Vector
    iterations: int
    residual: float
    curvature: float


def conjugate_gradients(
    matvec: Callable[[Vector], Vector],
    b: Vector,
    *,
    most: int,
    damping: float = 0.0,
    rtol: float = 1e-8,
    precondition: Callable[[Vector], Vector] | None = None,
) -> Solve[Vector]:
    """Solve (A + damping I) x = b for a positive definite A + damping I, by products with A only; columns of `b` side by side.

    Args:
        matvec: A v from v.
        b: Right-hand side.
        most: The most iterations that are taken.
        damping: Added to the diagonal of A.
        rtol: Stop when |residual| / |right-hand side| is at most this.
        precondition: P v from v, where P is near to the inverse of A + damping I, symmetric and positive definite.

    Returns:
        The solution, how many iterations it took, and the relative residual.

    Raises:
        ValueError: The curvature along a direction is not above 0, so the matrix is not positive definite; says how far below.
    """
    if isinstance(b, Mapping):
        like: Params = b
        flat = conjugate_gradients(
            lambda v: flatten(matvec(unflatten(v, like))),  # type: ignore[arg-type]
            flatten(like),
            most=most,
            damping=damping,
            rtol=rtol,
            precondition=None if precondition is None else lambda v: flatten(precondition(unflatten(v, like))),  # type: ignore[arg-type]
        )
        return Solve(unflatten(flat.x, like), flat.iterations, flat.residual, flat.curvature)  # type: ignore[arg-type]

    def product(v: Tensor) -> Tensor:
        return matvec(v) + damping * v if damping else matvec(v)

    x, residual = torch.zeros_like(b), b.clone()
    near = residual if precondition is None else precondition(residual)
    direction, scale = near.clone(), b.norm(dim=0)
    square = (residual * near).sum(0)
    open_ = scale > 0
    taken, left, least = 0, float(open_.any()), float("inf")
    while taken < most and left > rtol:
        image = product(direction)
        along, length = (direction * image).sum(0), direction.square().sum(0)
        curvature = torch.where(open_, along / length, float("inf"))
        here = float(curvature.min())
        if here != here:
            raise ValueError("a product with the matrix is not finite; look for NaN and overflow in what it is made of")
        least = min(least, here)
        if not least > 0:
            raise ValueError(
                f"the matrix is not positive definite: with damping {damping:g} its curvature along a direction is {least:.3g}; give a damping above "
                f"{damping - 2 * min(least, 0.0) or 1e-6:.2g}"
            )
        # A column that is solved to the last bit has no direction left.
        step = torch.where(along > 0, square / along, 0.0)
        x += step * direction
        residual -= step * image
        near = residual if precondition is None else precondition(residual)
        before, square = square, (residual * near).sum(0)
        direction = near + torch.where(before > 0, square / before, 0.0) * direction
        sizes = residual.norm(dim=0) if precondition is not None else square.sqrt()
        parts = torch.where(scale > 0, sizes / scale, 0.0)
        open_ = parts > rtol
        taken, left = taken + 1, float(parts.max())
    return Solve(x, taken, left, least)
