"""Linear systems solved by products with their matrix."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Iterated:
    """Where conjugate gradients stopped.

    Attributes:
        solutions: One column per right-hand side.
        iterations: How many were taken.
        residual: Largest norm over columns of what is left, as a part of the right-hand side.
    """

    solutions: Float[Tensor, "rows columns"]
    iterations: int
    residual: float


def conjugate_gradients(
    times: Callable[[Tensor], Tensor], right: Float[Tensor, "rows columns"], iterations: int, tolerance: float
) -> Iterated:
    """Solve A X = right for a positive definite A, all columns side by side, by products with A only.

    Args:
        times: A V from V.
        right: Right-hand sides, none all zeros.
        iterations: The most that are taken.
        tolerance: Stop when every column's residual is at most this part of its right-hand side.
    """
    solution, residual = torch.zeros_like(right), right.clone()
    direction, scale = residual.clone(), right.norm(dim=0)
    square = residual.square().sum(0)
    taken, left = 0, 1.0
    while taken < iterations and left > tolerance:
        product = times(direction)
        along = (direction * product).sum(0)
        # A column that is solved to the last bit has no direction left.
        step = torch.where(along > 0, square / along, 0.0)
        solution += step * direction
        residual -= step * product
        before, square = square, residual.square().sum(0)
        direction = residual + torch.where(before > 0, square / before, 0.0) * direction
        taken, left = taken + 1, float((square.sqrt() / scale).max())
    return Iterated(solution, taken, left)
