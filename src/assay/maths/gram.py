"""The kernel of the infinitely wide two-layer ReLU net whose first layer is trained, and its inverse, exact or by iteration.

With unit rows x and g = <x_i, x_j>: H_ij = g (pi - arccos g) / (2 pi), 1/2 on the diagonal (Arora et al. 2019).
"""

import dataclasses
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

EQUAL = 1e-12
"""Rows whose cosine is no further from 1 point the same way: rounding leaves such cosines on either side of 1."""
TILE = 2048
"""Rows and columns of the kernel that are made at once."""
CACHE_BYTES = 2**30
"""What `Tiles` may hold of the kernel instead of making it anew for every product."""


def unit_rows(inputs: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows dims"]:
    """Each input flattened and divided by its Euclidean norm, in the precision given.

    Returns:
        Rows of norm 1.

    Raises:
        ValueError: An input is all zeros, which has no direction; names the rows.
    """
    rows = inputs.flatten(1)
    norms = rows.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        where = (norms.flatten() == 0).nonzero().flatten().tolist()
        raise ValueError(
            f"Rows {where[:5]} of the inputs are all zeros and have no direction; leave the {len(where)} of them out."
        )
    return rows / norms


def relu_gram(
    rows: Float[Tensor, "rows dims"], others: Float[Tensor, "others dims"] | None = None
) -> Float[Tensor, "rows others"]:
    """H between the unit rows `rows` and `others`, or between `rows` and themselves. Rows that point the same way have exactly 1/2."""
    others = rows if others is None else others
    gram = rows @ others.T
    # Tile by tile, so that what stands beside the kernel itself is small.
    for part in gram.split(max(1, TILE * TILE // max(len(others), 1))):
        equal = part >= 1 - max(EQUAL, 4 * torch.finfo(part.dtype).eps)
        part.clamp_(-1, 1)
        part.mul_((math.pi - part.arccos()) / (2 * math.pi))
        part[equal] = 0.5
    if others is rows:
        gram.diagonal().fill_(0.5)
    return gram


def parallel_rows(rows: Float[Tensor, "rows dims"]) -> Int[Tensor, " rows"]:
    """For each unit row the first that points the same way, which is the row itself where it is alone."""
    first = torch.arange(len(rows))
    for start in range(0, len(rows), TILE):
        part = rows[start : start + TILE]
        for before in range(0, start + 1, TILE):
            here, there = (part @ rows[before : before + TILE].T >= 1 - EQUAL).nonzero(as_tuple=True)
            here, there = here + start, there + before
            earlier = there < here
            first.scatter_reduce_(0, here[earlier], there[earlier], "amin")
    return first


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """Products with a kernel's inverse, and the diagonal of the inverse.

    Attributes:
        products: (H + jitter I)^-1 y, one column for each y.
        diagonal: diag((H + jitter I)^-1), above 0.
    """

    products: Float[Tensor, "rows columns"]
    diagonal: Float[Tensor, " rows"]


def solve(gram: Float[Tensor, "rows rows"], signs: Float[Tensor, "rows columns"], jitter: float = 0.0) -> Solution | None:
    """Solve (H + jitter I) x = y for each column y of `signs` by Cholesky. The diagonal of `gram` is overwritten.

    Returns:
        x and the inverse's diagonal; None if the matrix is not positive definite up to rounding.
    """
    gram.diagonal().fill_(0.5 + jitter)
    lower, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        return None
    inverse = torch.cholesky_inverse(lower)
    return Solution(inverse @ signs, inverse.diagonal().clone())


class Tiles:
    """The kernel of many rows as an operator, in float32: made tile by tile; the tiles that fit into `CACHE_BYTES` are made only once."""

    def __init__(self, rows: Float[Tensor, "rows dims"], jitter: float = 0.0):
        self._rows, self._jitter = rows.to(torch.float32), jitter
        self._starts = range(0, len(rows), TILE)
        self._cache: dict[tuple[int, int], Tensor] = {}
        self._room = CACHE_BYTES

    def _tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        for a in self._starts:
            for b in self._starts[self._starts.index(a) :]:
                tile = self._cache.get((a, b))
                if tile is None:
                    left = self._rows[a : a + TILE]
                    tile = relu_gram(left) if a == b else relu_gram(left, self._rows[b : b + TILE])
                    if tile.nbytes <= self._room:
                        self._room -= tile.nbytes
                        self._cache[a, b] = tile
                yield a, b, tile

    def times(self, vectors: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """(H + jitter I) v, each tile on both sides of the diagonal at once; the result in the precision of `vectors`."""
        single = vectors.to(torch.float32)
        product = torch.zeros_like(single)
        for a, b, tile in self._tiles():
            product[a : a + TILE] += tile @ single[b : b + TILE]
            if a != b:
                product[b : b + TILE] += tile.T @ single[a : a + TILE]
        return product.to(vectors.dtype) + self._jitter * vectors
