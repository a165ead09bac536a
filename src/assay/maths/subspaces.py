"""Coverage and redundancy of examples in random planes of their features."""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from . import draws

TILE_BYTES = 4 * 2**20
"""What the distances of all examples to some drawn points may take at once."""
COLUMNS = 8192
"""Examples that are copied at once, at most."""
AT_ONCE = 2**20
"""Points that are drawn at once, at most."""


def covered_less_redundant(
    rows: Float[Tensor, "examples dims"],
    ranks: Int[Tensor, " examples"],
    samples: int,
    seed: int,
    neighbours: int = 1000,
    exponent: float = 4.0,
) -> Float64[Tensor, "2 examples"]:
    r"""How often each example is the one that covers a point drawn in a random plane, and how often it stands beside the one that does.

    Each of the samples takes two of the dimensions, and in each of them a number from the triangular distribution between the least and the
    greatest value with its mode at the median. The example nearest to that point by the sum of absolute differences covers it: it gets 1. Its
    nearest others, at distances d from it in that plane, share 1 of redundancy in proportion to $d^{-\mathrm{exponent}}$; where some are at
    distance 0, these alone share it.

    Args:
        rows: One for each example; of one dimension only, this is taken in the place of a plane.
        ranks: Rank of each example, from 0: of examples equally near to a point, the one of lowest rank covers it.
        samples: How many points are drawn.
        seed: Seed of the points.
        neighbours: How many others share; all as near as the last of them do.
        exponent: How fast the share falls with the distance.

    Returns:
        Coverage and redundancy of each example; each sums to the number of samples (redundancy of a single example is 0).

    Raises:
        ValueError: A distance is not finite.

    Source: Griffin, Marks and Corso 2024.
    """
    n, dims = rows.shape
    order = torch.argsort(ranks)
    columns = torch.empty(dims, n, dtype=rows.dtype)
    for start in range(0, n, COLUMNS):
        columns[:, start : start + COLUMNS] = rows[order[start : start + COLUMNS]].T
    lowest, highest = columns.amin(1), columns.amax(1)
    if not bool((highest - lowest).isfinite().all()):
        raise ValueError("Distances are not finite; rows must be finite, and not so large that their differences overflow.")
    middle = torch.cat([torch.from_numpy(np.median(part.numpy(), axis=1)) for part in columns.split(64)])
    totals = np.zeros((2, n))
    step = max(1, TILE_BYTES // (columns.element_size() * n))
    for first in range(0, samples, AT_ONCE):
        planes, points = _drawn(np.arange(first, min(first + AT_ONCE, samples), dtype=np.uint64), lowest, middle, highest, seed)
        for plane, point in zip(planes.split(step), points.split(step), strict=True):
            gaps = _apart(columns, plane, point)
            covers = gaps.argmin(1)
            totals[0] += np.bincount(covers.numpy(), minlength=n)
            if n > 1:
                beside = _apart(columns, plane, columns[plane, covers[:, None]])
                beside.scatter_(1, covers[:, None], torch.inf)
                which, shares = _shared(beside.to(torch.float64), min(neighbours, n - 1), exponent)
                totals[1] += np.bincount(which.numpy(), shares.numpy(), minlength=n)
    found = torch.empty(2, n, dtype=torch.float64)
    found[:, order] = torch.from_numpy(totals)
    return found


def _drawn(keys: np.ndarray, lowest: Tensor, middle: Tensor, highest: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """For each sample the dimensions of its plane, and the point in it."""
    dims = len(lowest)
    planes = draws.integers(keys, dims, seed, "planes", 0)[:, None]
    if dims > 1:
        other = draws.integers(keys, dims - 1, seed, "planes", 1)[:, None]
        planes = torch.cat([planes, other + (other >= planes)], 1)
    chance = torch.stack([draws.uniform(keys, seed, "points", side) for side in range(planes.shape[1])], 1)
    low, mode, high = (bound.to(torch.float64)[planes] for bound in (lowest, middle, highest))
    rising = low + (chance * (high - low) * (mode - low)).sqrt()
    falling = high - ((1 - chance) * (high - low) * (high - mode)).sqrt()
    return planes, torch.where(chance * (high - low) < mode - low, rising, falling).to(lowest.dtype)


def _apart(columns: Tensor, planes: Tensor, points: Tensor) -> Float[Tensor, "samples examples"]:
    """Sums of absolute differences between all examples and a point of each plane."""
    gaps = (columns[planes[:, 0]] - points[:, :1]).abs_()
    for side in range(1, planes.shape[1]):
        gaps += (columns[planes[:, side]] - points[:, side, None]).abs_()
    return gaps


def _shared(gaps: Tensor, neighbours: int, exponent: float) -> tuple[Int[Tensor, " pairs"], Float64[Tensor, " pairs"]]:
    """Which examples share the redundancy of each sample, and their shares."""
    last = gaps.topk(neighbours, 1, largest=False).values[:, -1]
    place, which = (gaps <= last[:, None]).nonzero(as_tuple=True)
    gap, least = gaps[place, which], gaps.amin(1)[place]
    # By the least distance, so that no power overflows.
    parts = torch.where(least > 0, (least / gap) ** exponent, (gap == 0).to(torch.float64))
    whole = torch.from_numpy(np.bincount(place.numpy(), parts.numpy(), minlength=len(gaps)))
    return which, parts / whole[place]
