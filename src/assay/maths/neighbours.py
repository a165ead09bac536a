"""The exact nearest neighbours of examples among others, and their votes."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

Metric = Literal["cosine", "euclidean"]
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
    check_k(k, there)
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


class Gaps:
    """Half the squared Euclidean distances of queries to supports, or 1 - cosine, in float64, for some queries and all supports at a time.

    Attributes:
        halves: What two rows' sizes add up to before their product is subtracted: half the squared sizes of the supports, or 1/2.
        query_halves: The same of the queries.
        scale: What Euclidean distances are divided by.
        has_queries: Whether queries were given; else the supports are asked about each other.
    """

    def __init__(
        self, supports: Float[Tensor, "supports dims"], queries: Float[Tensor, "queries dims"] | None = None, *, cosine: bool
    ):
        """Look at the sizes of all rows; no distance is computed yet.

        Args:
            supports: Rows of finite numbers.
            queries: Rows whose distances are asked for; None for those of the supports to each other, of which none is near itself.
            cosine: 1 - cosine as distance, in which rows of zeros are at right angles to all; else half the squared Euclidean distance, which has the
                same neighbours as the Euclidean.

        Raises:
            ValueError: A row is not finite.
        """
        self._supports, self._queries, self._cosine = supports, supports if queries is None else queries, cosine
        self.has_queries = queries is not None
        sides = [self._supports, self._queries] if self.has_queries else [supports]
        # By the largest number first, so that no square overflows or is lost.
        largest = [torch.cat([part.abs().amax(1) for part in side.split(COLUMNS)]).to(torch.float64) for side in sides]
        if not all(bool(one.isfinite().all()) for one in largest):
            raise ValueError("Distances are not finite; rows must be finite.")
        top = max(float(one.max()) for one in largest)
        self.scale = 1.0 if cosine else max(top, torch.finfo(torch.float64).tiny)
        self._each = [one.where(one > 0, 1.0)[:, None] for one in largest]
        self._centre = torch.zeros(supports.shape[1], dtype=torch.float64)
        # Half of the squared sizes: that of two rows less their inner product is half their squared distance, or 1 - cosine.
        self.halves = torch.full((len(supports),), 0.5, dtype=torch.float64)
        if not cosine:
            # About the mean, so that little is cancelled.
            whole = range(len(supports))
            self._centre = torch.stack([self._rows(at).sum(0) for at in _parts(len(whole))]).sum(0) / len(whole)
            self.halves = torch.cat([self._rows(at).square().sum(1) for at in _parts(len(whole))]) / 2
        self.query_halves = self.halves
        if self.has_queries:
            wanted = slice(0, len(self._queries))
            self.query_halves = (
                self._rows(wanted, 1).square().sum(1) / 2
                if not cosine
                else torch.full((len(self._queries),), 0.5, dtype=torch.float64)
            )

    def _rows(self, at: slice, side: int = 0) -> Float64[Tensor, "rows dims"]:
        rows = (self._queries if side else self._supports)[at].to(torch.float64)
        if not self._cosine:
            return rows / self.scale - self._centre
        rows = rows / self._each[side][at]
        norms = rows.norm(dim=1, keepdim=True)
        return rows / norms.where(norms > 0, 1.0)

    def tiles(self, room: int | None = None) -> Iterator[tuple[slice, Float64[Tensor, "queries supports"]]]:
        """Some queries against all supports at a time; the reader may modify the numbers.

        Args:
            room: Bytes that one tile may take, beyond one query.

        Yields:
            The queries, and their distances; infinite to the row itself where supports are asked about each other.
        """
        count, side = len(self._supports), int(self.has_queries)
        step = max(1, min(ROWS, (TILE_BYTES if room is None else room) // (8 * count)))
        for start in range(0, len(self._queries), step):
            here = slice(start, min(start + step, len(self._queries)))
            queries = self._rows(here, side)
            gaps = self.query_halves[here, None] + self.halves
            for at in _parts(count):
                gaps[:, at].addmm_(queries, self._rows(at).T, alpha=-1)
            if not self.has_queries:
                gaps.diagonal(start).fill_(torch.inf)
            yield here, gaps

    def slack(self, here: slice) -> Float64[Tensor, " queries"]:
        """What rounding may change in any distance of these queries."""
        return TIED * (self.query_halves[here] + self.halves.max())

    def without_rounding(self, here: slice, gaps: Float64[Tensor, "queries some"]) -> Float64[Tensor, "queries some"]:
        """The numbers of a tile, with those that may be rounding alone set to 0."""
        return gaps.masked_fill(gaps <= self.slack(here)[:, None], 0.0)

    def distances(self, gaps: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Distances in the rows' own unit: Euclidean ones, or 1 - cosine; at least 0."""
        gaps = gaps.clamp(min=0)
        return gaps if self._cosine else (2 * gaps).sqrt() * self.scale

    def gap(self, distance: float) -> float:
        """What a distance in the rows' own unit is here."""
        if self._cosine:
            return distance
        # A product overflows to infinity, a power is an error.
        scaled = distance / self.scale
        return scaled * scaled / 2


def ascending(gaps: Float64[Tensor, "queries supports"]) -> Int[Tensor, "queries supports"]:
    """For each query the supports by their distance, nearest first; those at one distance in any order."""
    # NumPy's sort takes a quarter of the time of torch's on one thread.
    return torch.from_numpy(np.argsort(gaps.numpy(), axis=1))


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
    check_k(k, count - 1)
    near = Gaps(rows, cosine=cosine)
    halves = near.halves
    found = torch.empty(count, dtype=torch.float64)
    for here, gaps in near.tiles():
        nearest_ones = gaps.topk(k, 1, largest=False)
        last, at_last = nearest_ones.values[:, -1], nearest_ones.indices[:, -1]
        own = halves[here]
        # What may count, which is little more than k of each row.
        place, other = (gaps <= (last + near.slack(here))[:, None]).nonzero(as_tuple=True)
        gap, slack = gaps[place, other], TIED * (own[place] + halves[other])
        nearer = gap < last[place] - slack
        tied = (gap <= last[place] + slack) & ~nearer
        few, many = (torch.bincount(place[kind], minlength=len(gaps)).to(torch.float64) for kind in (nearer, tied))
        counts = torch.where(nearer, 1.0, ((k - few) / many)[place] * tied)
        if weighted:
            unit = last.where(last > TIED * (own + halves[at_last]), torch.inf)
            counts *= torch.exp(-gap.where(gap > slack, 0.0) / unit[place])
        wrong, whole = torch.zeros(2, len(gaps), dtype=torch.float64)
        wrong.index_add_(0, place, counts * (labels[other] != labels[here][place]))
        found[here] = wrong / whole.index_add_(0, place, counts)
    # A sum of shares may round to above the whole.
    return found.clamp(0, 1)


def nearest_distances(rows: Float[Tensor, "examples dims"], k: int, *, cosine: bool = True) -> Float64[Tensor, "examples k"]:
    """Distances of each example to the k nearest others, nearest first: Euclidean, or 1 - cosine; 0 up to rounding is 0.

    Returns:
        In the order of the rows.

    Raises:
        ValueError: There are fewer than k others, or a row is not finite.
    """
    check_k(k, len(rows) - 1)
    near, found = Gaps(rows, cosine=cosine), torch.empty(len(rows), k, dtype=torch.float64)
    for here, gaps in near.tiles():
        found[here] = near.distances(near.without_rounding(here, gaps.topk(k, 1, largest=False).values))
    return found


def class_distances(
    rows: Float[Tensor, "examples dims"], labels: Int[Tensor, " examples"], *, cosine: bool = True
) -> tuple[Float64[Tensor, " examples"], Float64[Tensor, " examples"]]:
    """Distance of each example to the nearest other of its class, and to the nearest of another class; infinite where there is none.

    Returns:
        Two numbers per example, in the order of the rows.

    Raises:
        ValueError: A row is not finite.
    """
    near = Gaps(rows, cosine=cosine)
    own, other = torch.empty(2, len(rows), dtype=torch.float64)
    for here, gaps in near.tiles():
        same = labels[here, None] == labels
        for found, barred in ((own, ~same), (other, same)):
            found[here] = near.distances(near.without_rounding(here, gaps.masked_fill(barred, torch.inf).amin(1, keepdim=True)))[
                :, 0
            ]
    return own, other


def close_pairs(
    rows: Float[Tensor, "examples dims"], within: float, *, cosine: bool = True
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Float64[Tensor, " pairs"]]:
    """All pairs of examples that are no further apart than a distance: the earlier, the later, and their distance.

    Returns:
        In the order of the earlier, then of the later.

    Raises:
        ValueError: A row is not finite.
    """
    near, found = Gaps(rows, cosine=cosine), list[tuple[Tensor, Tensor, Tensor]]()
    for here, gaps in near.tiles():
        gaps = near.without_rounding(here, gaps)
        first, second = (gaps <= (near.gap(within) + near.slack(here) * (within > 0))[:, None]).nonzero(as_tuple=True)
        later = second > first + here.start
        first, second = first[later], second[later]
        found.append((first + here.start, second, near.distances(gaps[first, second])))
    one, two, apart = zip(*found, strict=True)
    return torch.cat(one), torch.cat(two), torch.cat(apart)


def check_k(k: int, there: int) -> None:
    """Refuse more neighbours than there are.

    Raises:
        ValueError: There are fewer than k, or k is below 1.
    """
    if not 1 <= k <= there:
        raise ValueError(f"k={k} neighbours are asked for and there are {there}; take a k of at most that.")


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
