"""The nearest neighbours of examples among others, exactly, and what they vote for."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Tie = Literal["low", "high", "nearest"]
ROWS, COLUMNS = 2048, 8192
"""Distances that are held at once, at most."""
DIMS = 2048
"""Dimensions that are taken at once, so that what stands beside the rows themselves is small."""


def nearest(
    queries: Float[Tensor, "queries dims"],
    supports: Float[Tensor, "supports dims"],
    k: int,
    own: Int[Tensor, " queries"] | None = None,
) -> Int[Tensor, "queries k"]:
    """Which supports are nearest in Euclidean distance, nearest first.

    |q - s|^2 = |q|^2 + |s|^2 - 2 <q, s>, tile by tile, in the precision given; about the supports' mean, so that little is cancelled.

    Args:
        queries, supports: Rows.
        k: How many.
        own: Which support is the query itself, and not its neighbour; -1 where none is.

    Raises:
        ValueError: There are fewer than k others, or distances are not finite.
    """
    there = len(supports) - int(own is not None and bool((own >= 0).any()))
    if not 1 <= k <= there:
        raise ValueError(f"k={k} neighbours are asked for and there are {there}.")
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


def votes(neighbours: Int[Tensor, "queries k"], labels: Int[Tensor, " supports"], classes: int) -> Int[Tensor, "queries classes"]:
    """How many neighbours are of each class."""
    counts = torch.zeros(len(neighbours), classes, dtype=torch.int64, device=neighbours.device)
    return counts.scatter_add_(1, labels[neighbours], torch.ones_like(neighbours))


def elected(
    neighbours: Int[Tensor, "queries k"], labels: Int[Tensor, " supports"], classes: int, tie: Tie = "low"
) -> Int[Tensor, " queries"]:
    """The class that most neighbours are of.

    Args:
        neighbours: Nearest first.
        labels: Of the supports.
        classes: How many there are.
        tie: Which of several: the `low`est class, the `high`est, or that of the `nearest` neighbour that is of one of them.
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
