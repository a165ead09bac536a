"""How alike every two examples are, a tile at a time; a matrix of examples by examples is kept only where it is small."""

import functools
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from .example_vectors import DenseVectors, Vectors

Similar = Literal["cosine", "euclidean"]
WHOLE_BYTES = 2**28
"""Bytes of similarities, in double precision, up to which they are computed once and kept: 5,792 examples."""
TILE = 256
"""Examples whose similarities with all others are held at once."""
LARGE = 1e30
"""Factor from which a row is made longer in two steps."""
CANCELLED = 16
"""Units of the last digit of the two squared lengths below which their squared distance counts as 0."""


class Similarity:
    r"""Similarities of examples in 0..1, each with itself most alike.

    `cosine` is $(1 + \cos) / 2$, with a row of zeros at right angles to all; `euclidean` is $1 - \lVert x - y \rVert / c$, with $c$ twice the
    greatest distance from the mean (of outer products, twice the greatest length), which no distance of two exceeds.
    Up to `WHOLE_BYTES` they are in float64 and kept, beyond in the precision of the vectors and computed when they are asked for, so that memory
    holds some rows of them only.
    """

    def __init__(self, vectors: Vectors, kind: Similar = "cosine"):
        """Get ready.

        Raises:
            ValueError: A squared length is not finite.
        """
        self.kind = kind
        self._kept = len(vectors) ** 2 * 8 <= WHOLE_BYTES
        if self._kept:
            vectors = vectors.to(torch.float64)
        vectors = vectors.centred() if kind == "euclidean" else vectors
        sizes = vectors.sq_norms()
        if not bool(sizes.isfinite().all()):
            raise ValueError("Similarities are not finite; rows must be finite, and not so large that their squares overflow.")
        if kind == "cosine":
            factors = torch.where(sizes > 0, sizes, torch.inf).rsqrt()
            # A factor of a row that is nearly 0 may be above the largest number of its precision.
            steps = [factors.sqrt()] * 2 if bool((factors > LARGE).any()) else [factors]
            for step in steps:
                vectors = vectors.times(step)
        self.vectors, self._sizes = vectors, sizes.to(vectors.dtype)
        self._reach = 2 * float(sizes.max().sqrt()) if len(vectors) else 0.0
        self.slack = (8 * torch.finfo(torch.float64).eps if self._kept else torch.finfo(vectors.dtype).eps) * len(vectors)
        """Sums over all examples that differ by less are equal, but for rounding."""

    def __len__(self) -> int:
        return len(self.vectors)

    @functools.cached_property
    def _whole(self) -> Tensor:
        every = slice(None)
        whole = torch.empty(len(self), len(self), dtype=torch.float64)
        for part in torch.arange(len(self)).split(TILE):
            whole[part] = self._made(part, every)
        return whole

    def _made(self, left: Tensor, right: slice | Tensor) -> Tensor:
        found = self.vectors.dots(left, right)
        if self.kind == "cosine":
            return found.mul_(0.5).add_(0.5).clamp_(0, 1)
        if not self._reach:
            return torch.ones_like(found)
        both = self._sizes[left][:, None] + self._sizes[right]
        found = torch.sub(both, found, alpha=2, out=found)
        # Of equal rows the squares do not cancel wholly, and the root would make much of what is left.
        found.masked_fill_(found <= both.mul_(CANCELLED * torch.finfo(both.dtype).eps), 0)
        return found.sqrt_().mul_(-1 / self._reach).add_(1)

    def rows(self, positions: Int[Tensor, " some"]) -> Float[Tensor, "some examples"]:
        """Similarities of some examples with all, which the caller may write into."""
        return self._whole[positions] if self._kept else self._made(positions, slice(None))

    def between(self, left: Int[Tensor, " left"], right: Int[Tensor, " right"]) -> Float64[Tensor, "left right"]:
        """Similarities of some examples with some others."""
        return (self._whole[left[:, None], right] if self._kept else self._made(left, right)).to(torch.float64)

    def totals(self) -> Float64[Tensor, " examples"]:
        """Sum of the similarities of each example with all."""
        if self.kind == "cosine":
            ones = torch.ones(len(self), dtype=torch.float64)
            return 0.5 * len(self) + 0.5 * self.vectors.along(self.vectors.total(ones))
        return torch.cat([self.rows(part).sum(1, dtype=torch.float64) for part in torch.arange(len(self)).split(TILE)])

    @property
    def rank(self) -> int | None:
        """How many numbers a row of `factors` has; None where there are none."""
        if self.kind != "cosine" or not isinstance(self.vectors, DenseVectors):
            return None
        return self.vectors.rows.shape[1] + 1

    def factors(self, positions: Int[Tensor, " some"]) -> Float64[Tensor, "some factors"]:
        r"""Rows whose inner products are the similarities of these examples, of cosines of rows: $(1, \hat{x}) / \sqrt{2}$."""
        assert isinstance(self.vectors, DenseVectors)
        return torch.nn.functional.pad(self.vectors.rows[positions].to(torch.float64), (1, 0), value=1.0).mul_(0.5**0.5)

    def own(self) -> Float64[Tensor, " examples"]:
        """Similarity of each example with itself."""
        if self.kind == "euclidean":
            return torch.ones(len(self), dtype=torch.float64)
        return torch.where(self._sizes > 0, 1.0, 0.5).to(torch.float64)
