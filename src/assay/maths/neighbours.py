"""The exact nearest neighbours of examples among others, and their votes."""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

Tie = Literal["low", "high", "nearest"]
ROWS, COLUMNS = 2048, 8192
"""Distances that are held at once, at most."""
TIED = 1e-12
"""Distances no further apart than this part of half the squared sizes of the two rows count as equal."""
TILE_BYTES = 64 * 2**20
"""What the distances of some examples to all may take at once."""
DIMS = 2048
"""Dimensions that are taken at once, so that what stands beside the rows themselves is small."""


def nearest(
    queries: Float[Tensor, "queries dims"],
    supports: Float[Tensor, "supports dims"],
    k: int,
    own: Int[Tensor, " queries"] | None = None,
) -> Int[Tensor, "queries k"]:
    """Which supports are nearest in Euclidean distance, nearest first.

    |q - s|^2 = |q|^2 + |s|^2 - 2 <q, s>, tile by tile, in the precision given; after centering on the supports' mean, against cancellation.

    Args:
        queries: Rows whose neighbours are looked for.
        supports: Rows that may be neighbours.
        k: How many.
        own: Position of the support that is the query itself and is left out; -1 where none is.

    Returns:
        int64 positions among the supports.

    Raises:
        ValueError: There are fewer than k others, or distances are not finite.
    """
    there = len(supports) - int(own is not None and bool((own >= 0).any()))
    if not 1 <= k <= there:
        raise ValueError(f"k={k} neighbours are asked for and there are {there}; take a k of at most that.")
    centre = supports.mean(0)
    sides = [slice(start, start + DIMS) for start in range(0, supports.shape[1], DIMS)]
    sizes = torch.cat([sum((tile[:, side] - centre[side]).square().sum(1) for side in sides) for tile in supports.split(COLUMNS)])
    found = []
    for first in range(0, len(queries), ROWS):
        part = queries[first : first + ROWS]
        best = torch.full((len(part), k), torch.inf, dtype=part.dtype, device=part.device)
        which = torch.zeros((len(part), k), dtype=torch.int64, device=part.device)
        for start in range(0, len(supports), COLUMNS):
            tile = supports[start : start + COLUMNS]
            # Without |q|^2, which is the same for all supports of a query.
            gaps = sizes[start : start + COLUMNS].repeat(len(part), 1)
            for side in sides:
                gaps.addmm_(part[:, side] - centre[side], (tile[:, side] - centre[side]).T, alpha=-2)
            if own is not None:
                at = own[first : first + len(part)] - start
                here = ((at >= 0) & (at < len(tile))).nonzero().flatten()
                gaps[here, at[here]] = torch.inf
            near = gaps.topk(min(k, len(tile)), dim=1, largest=False)
            both, order = torch.cat([best, near.values], 1).topk(k, dim=1, largest=False)
            best, which = both, torch.cat([which, near.indices + start], 1).gather(1, order)
        if not bool(best.isfinite().all()):
            raise ValueError("Distances are not finite; rows must be finite, and not so large that their squares overflow.")
        found.append(which)
    return torch.cat(found)


def disagreeing(
    rows: Float[Tensor, "examples dims"],
    labels: Int[Tensor, " examples"],
    k: int,
    *,
    cosine: bool = True,
    weighted: bool = False,
) -> Float64[Tensor, " examples"]:
    """Part of each example's k nearest other examples that is of another class, in 0..1.

    Where several are as near as the k-th, each of them counts by the same share, so that k count in all: no order of the examples decides.
    Distances that differ by at most `TIED` times the squared norms count as equal, because of rounding. Computed in float64, for some
    examples against all at a time.

    Args:
        rows: One row of finite numbers per example.
        labels: Class of each.
        k: How many neighbours.
        cosine: 1 - cosine as distance, in which rows of zeros are at right angles to all; else half the squared Euclidean distance, which has
            the same neighbours as the Euclidean.
        weighted: Whether a neighbour at distance d counts exp(-d / d_k), with d_k the distance of the k-th, and not 1.

    Returns:
        In the order of the rows.

    Raises:
        ValueError: There are fewer than k others, or distances are not finite.
    """
    count = len(rows)
    if not 1 <= k < count:
        raise ValueError(f"k={k} neighbours are asked for and there are {count - 1}; take a k of at most that.")
    # By the largest number first, so that no square overflows or is lost.
    largest = torch.cat([part.abs().amax(1) for part in rows.split(COLUMNS)]).to(torch.float64)
    if not bool(largest.isfinite().all()):
        raise ValueError("Distances are not finite; rows must be finite.")
    scale = largest.where(largest > 0, 1.0)[:, None] if cosine else largest.max().clamp(min=torch.finfo(torch.float64).tiny)
    centre = torch.zeros(rows.shape[1], dtype=torch.float64)

    def directed(at: slice) -> Tensor:
        part = rows[at].to(torch.float64) / (scale[at] if cosine else scale)
        if not cosine:
            return part - centre
        norms = part.norm(dim=1, keepdim=True)
        return part / norms.where(norms > 0, 1.0)

    # Half of the squared sizes: that of two rows less their inner product is half their squared distance, or 1 - cosine.
    halves = torch.full((count,), 0.5, dtype=torch.float64)
    if not cosine:
        # About the mean, so that little is cancelled.
        centre = torch.stack([directed(at).sum(0) for at in _parts(count)]).sum(0) / count
        halves = torch.cat([directed(at).square().sum(1) for at in _parts(count)]) / 2
    found = torch.empty(count, dtype=torch.float64)
    step = max(1, min(ROWS, TILE_BYTES // (8 * count)))
    for start in range(0, count, step):
        queries = directed(here := slice(start, start + step))
        gaps = halves[here, None] + halves
        for at in _parts(count):
            gaps[:, at].addmm_(queries, directed(at).T, alpha=-1)
        gaps.diagonal(start).fill_(torch.inf)
        nearest_ones = gaps.topk(k, 1, largest=False)
        last, at_last = nearest_ones.values[:, -1], nearest_ones.indices[:, -1]
        own = halves[here]
        # What may count, which is little more than k of each row.
        place, other = (gaps <= (last + TIED * (own + halves.max()))[:, None]).nonzero(as_tuple=True)
        gap, slack = gaps[place, other], TIED * (own[place] + halves[other])
        nearer = gap < last[place] - slack
        tied = (gap <= last[place] + slack) & ~nearer
        few, many = (torch.bincount(place[kind], minlength=len(queries)).to(torch.float64) for kind in (nearer, tied))
        counts = torch.where(nearer, 1.0, ((k - few) / many)[place] * tied)
        if weighted:
            unit = last.where(last > TIED * (own + halves[at_last]), torch.inf)
            counts *= torch.exp(-gap.where(gap > slack, 0.0) / unit[place])
        wrong, whole = torch.zeros(2, len(queries), dtype=torch.float64)
        wrong.index_add_(0, place, counts * (labels[other] != labels[here][place]))
        found[here] = wrong / whole.index_add_(0, place, counts)
    # A sum of shares may round to above the whole.
    return found.clamp(0, 1)


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + COLUMNS) for start in range(0, count, COLUMNS))


def votes(neighbours: Int[Tensor, "queries k"], labels: Int[Tensor, " supports"], classes: int) -> Int[Tensor, "queries classes"]:
    """How many neighbours are of each class."""
    counts = torch.zeros(len(neighbours), classes, dtype=torch.int64, device=neighbours.device)
    return counts.scatter_add_(1, labels[neighbours], torch.ones_like(neighbours))


def majority_label(
    neighbours: Int[Tensor, "queries k"], labels: Int[Tensor, " supports"], classes: int, tie: Tie = "low"
) -> Int[Tensor, " queries"]:
    """The class that most neighbours are of.

    Args:
        neighbours: Nearest first.
        labels: Labels of the supports.
        classes: How many there are.
        tie: Which tied class is taken: the `low`est class, the `high`est, or that of the `nearest` neighbour that is of one of them.

    Returns:
        One class per query, in 0..classes - 1.
    """
    counts = votes(neighbours, labels, classes)
    most = counts == counts.amax(1, keepdim=True)
    if tie == "low":
        return most.to(torch.uint8).argmax(1)
    if tie == "high":
        return classes - 1 - most.flip(1).to(torch.uint8).argmax(1)
    given = labels[neighbours]
    first = most.gather(1, given).to(torch.uint8).argmax(1)
    return given.gather(1, first[:, None])[:, 0]
