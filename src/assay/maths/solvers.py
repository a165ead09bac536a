r"""Linear systems solved by products with their matrix.

Conjugate gradients (Hestenes and Stiefel 1952); a Neumann series, $x \leftarrow x + \alpha P (b - A x)$, over full passes (LiSSA: Agarwal et al. 2017,
https://arxiv.org/abs/1602.03943, without their sampling; with a preconditioner $P$ ASTRA: https://arxiv.org/abs/2507.14740); and Lanczos's method
(Schioppa et al. 2022, https://arxiv.org/abs/2112.03052, for a symmetric matrix).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from jaxtyping import Float64
from torch import Tensor

from .params import Params, flatten, unflatten

Vector = TypeVar("Vector", Tensor, Params)
"""One vector, a matrix of which every column is a vector of its own, or named tensors that together are one vector."""


LARGEST = 30
"""Products by which the largest eigenvalue is found, for the step of a Neumann series."""

SPENT = 1e-10
"""Part of a product's size below which what it adds to a subspace is rounding."""


class NotPositive(ValueError):
    """A matrix that must be positive definite is not.

    Attributes:
        curvature: The curvature along a direction, not above 0.
    """

    def __init__(self, message: str, curvature: float):
        super().__init__(message)
        self.curvature = curvature


@dataclasses.dataclass(frozen=True, eq=False)
class Solve(Generic[Vector]):
    """The result of an iteration for (A + damping I) x = b.

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
        least = min(least, _positive(float(curvature.min()), damping))
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


def neumann_series(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    most: int,
    damping: float = 0.0,
    rtol: float = 1e-8,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Solve[Tensor]:
    """Solve (A + damping I) x = b for a positive definite A + damping I by a Neumann series, with columns of `b` side by side.

    The step is 1 / (the largest eigenvalue of P (A + damping I)), found by power iteration, and halved whenever residuals grow. Without a preconditioner
    that is near to the inverse it takes as many iterations as the largest eigenvalue is times the smallest.

    Args:
        matvec: A v from v.
        b: Right-hand side.
        most: The most iterations that are taken, those of the power iteration not counted.
        damping: Added to the diagonal of A.
        rtol: Stop when |residual| / |right-hand side| is at most this, of every column.
        precondition: P v from v, as for `conjugate_gradients`.

    Returns:
        The solution, how many iterations it took, and the relative residual; `curvature` is the smallest one along a correction that was made.

    Raises:
        ValueError: The matrix is not positive definite, or a product is not finite.
    """

    def near(v: Tensor) -> Tensor:
        return v if precondition is None else precondition(v)

    def product(v: Tensor) -> Tensor:
        return matvec(v) + damping * v

    scale = b.norm(dim=0)
    if not bool((scale > 0).any()):
        return Solve(torch.zeros_like(b), 0, 0.0, float("inf"))
    step = 1 / _largest(product, near, b)
    x, residual = torch.zeros_like(b), b.clone()
    move = near(residual)
    left, least, taken = 1.0, float("inf"), 0
    while taken < most and left > rtol:
        image = product(move)
        length = move.square().sum(0)
        least = _positive(min(least, float(torch.where(length > 0, (move * image).sum(0) / length, torch.inf).min())), damping)
        taken += 1
        after = residual - step * image
        next_move = near(after)
        # In the norm of P the residual falls at every step below twice the right one.
        if float((after * next_move).sum()) > float((residual * move).sum()):
            step /= 2
            continue
        x, residual, move = x + step * move, after, next_move
        left = float(torch.where(scale > 0, residual.norm(dim=0) / scale, 0.0).max())
    return Solve(x, taken, left, least)


def _largest(product: Callable[[Tensor], Tensor], near: Callable[[Tensor], Tensor], b: Tensor) -> float:
    """The largest eigenvalue of P A, from below."""
    start = b if b.ndim == 1 else b.sum(1)
    u = (
        start
        + torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(b) * start.abs().mean()
    )
    largest = 0.0
    for _ in range(LARGEST):
        v = near(u)
        image = product(v if b.ndim == 1 else v[:, None]).reshape(v.shape)
        largest = max(largest, float((v * image).sum() / (v * u).sum()))
        u = image / image.norm()
    if not 0 < largest < float("inf"):
        raise ValueError(
            "the matrix has no eigenvalue above 0, or its products are not finite; look for NaN and overflow in the model"
        )
    return largest


def _positive(curvature: float, damping: float) -> float:
    """A curvature along some direction, refused where the matrix cannot be positive definite.

    Returns:
        The curvature, which is above 0.

    Raises:
        NotPositive: It is not above 0; says which damping helps.
        ValueError: It is no number.
    """
    if curvature != curvature:
        raise ValueError("a product with the matrix is not finite; look for NaN and overflow in what it is made of")
    if not curvature > 0:
        raise NotPositive(
            f"the matrix is not positive definite: with damping {damping:g} its curvature along a direction is {curvature:.3g}; give a damping above "
            f"{damping - 2 * min(curvature, 0.0) or 1e-6:.2g}",
            curvature,
        )
    return curvature


@dataclasses.dataclass(frozen=True, eq=False)
class RitzPairs:
    """Approximate eigenvalues and eigenvectors of a symmetric matrix, from the subspace that its powers make of a vector.

    Attributes:
        values: Of the subspace, increasing.
        vectors: A column for each, orthonormal.
        weights: Square of the start's part along each vector; they add up to 1.
        whole: Whether nothing is left outside of the subspace that the start's solutions have a part in.
    """

    values: Float64[Tensor, " rank"]
    vectors: Float64[Tensor, "entries rank"]
    weights: Float64[Tensor, " rank"]
    whole: bool


def lanczos(matvec: Callable[[Tensor], Tensor], start: Tensor, rank: int) -> RitzPairs:
    """Ritz pairs of a symmetric matrix by Lanczos's method, each new vector made orthogonal to all before it, twice.

    Where the powers of the matrix make no more directions of the start, the subspace goes on from a vector drawn at random.

    Args:
        matvec: A v from v.
        start: The first direction; not 0.
        rank: Dimensions of the subspace, at most as many as the start has entries.

    Returns:
        As many pairs as the rank.

    Raises:
        ValueError: A product is not finite.
    """
    rank, draw = min(rank, len(start)), torch.Generator().manual_seed(0)
    basis = torch.zeros(len(start), rank, dtype=torch.float64)
    images = torch.zeros_like(basis)
    vector, largest, whole = start / start.norm(), 0.0, False
    for place in range(rank):
        basis[:, place] = vector
        image = matvec(vector)
        if not bool(image.isfinite().all()):
            raise ValueError("a product with the matrix is not finite; look for NaN and overflow in what it is made of")
        images[:, place] = image
        largest = max(largest, float(image.norm()))
        known = basis[:, : place + 1]
        vector = _orthogonal(image, known)
        if float(vector.norm()) <= SPENT * largest:
            whole = True
            vector = _orthogonal(torch.randn(len(start), generator=draw, dtype=torch.float64), known)
        vector = vector / vector.norm()
    small = basis.T @ images
    values, turn = torch.linalg.eigh((small + small.T) / 2)
    return RitzPairs(values, basis @ turn, turn[0].square(), whole or rank == len(start))


def _orthogonal(vector: Tensor, known: Tensor) -> Tensor:
    """The part of a vector that is orthogonal to orthonormal columns."""
    for _ in range(2):
        vector = vector - known @ (known.T @ vector)
    return vector
