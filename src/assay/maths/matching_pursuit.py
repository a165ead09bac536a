r"""Matching pursuit: few vectors with weights of at least 0 whose sum comes near to a given one.

$$ \min_{w \ge 0,\; |\mathrm{supp}\, w| \le k} \; E(w) = \lVert \sum_i w_i v_i - t \rVert^2 + \lambda \lVert w \rVert^2. $$
"""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from .example_vectors import Vectors

TIED = 1e-9
"""Inner products with the rest that differ by less than this part of the largest possible one are equal."""


def matching_pursuit(
    vectors: Vectors, target: Float64[Tensor, "..."], count: int, ridge: float
) -> tuple[Int[Tensor, " support"], Float64[Tensor, " support"], Float64[Tensor, " steps"]]:
    r"""Orthogonal matching pursuit with weights of at least 0.

    Each step adds the vector of the largest inner product with what is left of the target, $t - \sum_i w_i v_i$, and solves for the weights of all that
    are in; one whose weight would fall below 0 goes out, by the active set of Lawson and Hanson (1974). $E$ falls with every step. It ends with `count` vectors, or
    when no other has an inner product above 0: then these weights are the best of all vectors.

    Args:
        vectors: A vector for each example.
        target: A direction of the same space (see `Vectors`).
        count: How many vectors, at most.
        ridge: $\lambda$, at least 0, in units of a squared length.

    Returns:
        The examples that are in, in the order in which they came, the lowest number first among equals; their weights, above 0; and $E$ after each step.

    Raises:
        ValueError: An inner product is not finite.
    """
    aims = vectors.along(target)
    sizes, length = vectors.sq_norms(), float(target.square().sum())
    if not bool(aims.isfinite().all() & sizes.isfinite().all()) or not length < torch.inf:
        raise ValueError("Inner products are not finite; rows must be finite, and not so large that their squares overflow.")
    slack = max(TIED, 8 * torch.finfo(vectors.dtype).eps) * float((sizes.max() * length).sqrt()) if len(vectors) else 0.0
    held = _Support(count, aims, ridge)
    rests, left_out = [], torch.zeros(len(vectors), dtype=torch.bool)
    while len(held.inside) < count:
        pulls = aims.clone()
        if held.inside:
            every = torch.zeros(len(vectors), dtype=torch.float64).index_copy(0, torch.tensor(held.inside), held.weights)
            pulls = vectors.along(target - vectors.total(every))
        pulls[held.inside] = -torch.inf
        pulls[left_out] = -torch.inf
        most = float(pulls.max()) if len(pulls) else -torch.inf
        if most <= slack:
            break
        new = int((pulls >= most - slack).nonzero()[0, 0])
        held.add(new, vectors.dots(torch.tensor([new]), torch.tensor([*held.inside, new])).to(torch.float64)[0])
        # One that goes out at once does so by rounding, and would come back at once.
        left_out = torch.zeros_like(left_out) if new in held.inside else left_out.index_fill(0, torch.tensor([new]), True)
        rests.append(length + held.rest())
    return torch.tensor(held.inside, dtype=torch.int64), held.weights, torch.tensor(rests, dtype=torch.float64).clamp(min=0)


class _Support:
    """The vectors that are in, with the best weights of at least 0 for them."""

    def __init__(self, count: int, aims: Tensor, ridge: float):
        self.inside: list[int] = []
        self.weights = torch.zeros(0, dtype=torch.float64)
        self._aims, self._ridge = aims, ridge
        self._gram, self._lower = torch.zeros(2, count, count, dtype=torch.float64)

    def rest(self) -> float:
        """What the weights make of E, beyond the target's squared length."""
        size = len(self.inside)
        return float(self.weights @ (self._gram[:size, :size] @ self.weights)) - 2 * float(self.weights @ self._aims[self.inside])

    def add(self, new: int, row: Float64[Tensor, " inside"]) -> None:
        """Let a vector in, given its inner products with those that are in and with itself; others may go out."""
        size = len(self.inside)
        self._gram[size, : size + 1] = self._gram[: size + 1, size] = row
        self._gram[size, size] += self._ridge
        along = torch.linalg.solve_triangular(self._lower[:size, :size], row[:size, None], upper=False)[:, 0]
        left = float(self._gram[size, size] - along.square().sum())
        if left <= 1e-12 * float(self._gram[size, size]):
            # Those that are in make it up already, and there is no ridge to tell it from them.
            return
        self._lower[size, :size], self._lower[size, size] = along, left**0.5
        self.inside.append(new)
        self.weights = torch.cat([self.weights, torch.zeros(1, dtype=torch.float64)])
        while True:
            size = len(self.inside)
            lower = self._lower[:size, :size]
            best = torch.cholesky_solve(self._aims[self.inside][:, None], lower)[:, 0]
            below = best <= 0
            if not bool(below.any()):
                self.weights = best
                return
            # As far towards the best weights as none falls below 0.
            ways = self.weights[below] / (self.weights[below] - best[below]).clamp(min=torch.finfo(torch.float64).tiny)
            moved = self.weights + ways.min() * (best - self.weights)
            first = below.nonzero().flatten()[ways.argmin()]
            stays = ~(below & (moved <= 1e-14 * moved.abs().max()))
            stays[first] = False
            self._keep(stays.nonzero().flatten(), moved)

    def _keep(self, places: Tensor, weights: Tensor) -> None:
        size = len(places)
        self.inside, self.weights = [self.inside[place] for place in places.tolist()], weights[places]
        self._gram[:size, :size] = self._gram[places[:, None], places]
        self._lower[:size, :size] = torch.linalg.cholesky(self._gram[:size, :size])
