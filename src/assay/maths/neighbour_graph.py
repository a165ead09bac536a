"""The exact k nearest neighbours of every example among the others, ties by rank, and the graph that joins them."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from .neighbours import check_k
from .ranking import places_within

TILE_BYTES = 32 * 2**20
"""What the distances of some examples to all may take at once."""
COLUMNS = 8192
"""Rows that are copied at once, at most."""
PAIRS = 2**20
"""Numbers in the rows of pairs that are compared at once, at most."""


def k_nearest(
    rows: Float[Tensor, "examples dims"], k: int, ranks: Int[Tensor, " examples"]
) -> tuple[Int[Tensor, "examples k"], Float64[Tensor, "examples k"]]:
    """The k nearest others of each example in Euclidean distance, nearest first; of equally near ones those of lowest rank.

    Inner products in the precision of the rows, for some examples against all at a time, tell which pairs may be among the nearest, with a
    bound of their rounding; the distances of those are computed in float64 from differences. The order of the rows changes nothing.

    Args:
        rows: One for each example.
        k: How many neighbours, in 1..examples - 1.
        ranks: Rank of each example, from 0.

    Returns:
        Positions of the neighbours, and their distances.

    Raises:
        ValueError: There are fewer than k others, or distances are not finite.
    """
    n = len(rows)
    check_k(k, n - 1)
    mean = (torch.stack([part.to(torch.float64).sum(0) for part in rows.split(COLUMNS)]).sum(0) / n).to(rows.dtype)
    sizes = torch.cat([torch.linalg.vector_norm(part - mean, dim=1) for part in rows.split(COLUMNS)])
    slack = 8 * (rows.shape[1] + 4) * torch.finfo(rows.dtype).eps
    which = torch.empty(n, k, dtype=torch.int64)
    apart = torch.empty(n, k, dtype=torch.float64)
    step = max(1, min(COLUMNS, TILE_BYTES // (rows.element_size() * n)))
    for start in range(0, n, step):
        here = slice(start, min(start + step, n))
        queries = rows[here] - mean
        gaps = sizes[here, None].square() + sizes.square()
        for first in range(0, n, COLUMNS):
            tile = slice(first, first + COLUMNS)
            gaps[:, tile].addmm_(queries, (rows[tile] - mean).T, alpha=-2)
        gaps.diagonal(start).fill_(torch.inf)
        if not bool(gaps.isfinite().sum() == gaps.numel() - len(queries)):
            raise ValueError("Distances are not finite; rows must be finite, and not so large that their squares overflow.")
        unsure = slack * (sizes[here] + sizes.max()).square()
        last = gaps.topk(k, 1, largest=False).values[:, -1]
        place, other = (gaps <= (last + 2 * unsure)[:, None]).nonzero(as_tuple=True)
        parts = zip(
            (place + start).split(max(1, PAIRS // rows.shape[1])), other.split(max(1, PAIRS // rows.shape[1])), strict=True
        )
        exact = torch.cat([(rows[one].to(torch.float64) - rows[two].to(torch.float64)).square().sum(1) for one, two in parts])
        order = torch.argsort(ranks[other], stable=True)
        order = order[torch.argsort(exact[order], stable=True)]
        order = order[torch.argsort(place[order], stable=True)]
        order = order[places_within(place[order]) < k]
        which[here], apart[here] = other[order].view(-1, k), exact[order].sqrt().view(-1, k)
    return which, apart


def joined(
    which: Int[Tensor, "examples k"], apart: Float64[Tensor, "examples k"], ranks: Int[Tensor, " examples"]
) -> tuple[Int[Tensor, " edges"], Int[Tensor, " edges"], Float64[Tensor, " edges"]]:
    """The undirected graph in which two examples are joined if either is among the nearest of the other.

    Args:
        which: The nearest of each example.
        apart: Their distances.
        ranks: Rank of each example, from 0.

    Returns:
        The edges, each in both directions: positions of their ends, and their lengths; sorted by the rank of the first end and then of the second.
    """
    n, k = which.shape
    one, two = torch.arange(n).repeat_interleave(k), which.flatten()
    keys = torch.cat([ranks[one] * n + ranks[two], ranks[two] * n + ranks[one]])
    kept, first = torch.unique(keys, return_inverse=True)
    lengths = torch.empty(len(kept), dtype=torch.float64)
    # Both directions of an edge have the same length, whichever is written last.
    lengths[first] = apart.flatten().repeat(2)
    by_rank = torch.argsort(ranks)
    return by_rank[kept // n], by_rank[kept % n], lengths
