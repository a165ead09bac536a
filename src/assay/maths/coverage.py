"""Choosing a few points so that every point is near to one of them (k-center)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 8192
"""Rows that are copied at once, at most."""


def farthest_first(
    rows: Float[Tensor, "examples dims"], count: int, ranks: Int[Tensor, " examples"]
) -> tuple[Int[Tensor, " count"], Float[Tensor, " count"]]:
    r"""Greedy k-center: centers one after another, each the row farthest from those before it; the first is the row nearest to the mean.

    $$ c_1 = \arg\min_i \lVert x_i - \bar x \rVert, \qquad c_{j+1} = \arg\max_i \min_{l \le j} \lVert x_i - x_{c_l} \rVert. $$

    The greatest distance of any row to its nearest center, the cover radius, is at most twice that of the best choice of as many centers.
    Distances are Euclidean, differences taken before squares, in the precision of the rows; those to the mean in float64. Beyond the rows
    memory holds a few numbers per example. Neither the order of the rows nor the order of summation changes the centers.

    Args:
        rows: One for each example.
        count: How many centers, in 0..examples.
        ranks: Rank of each example, from 0, which breaks ties: of rows at equal distance, the one of lowest rank is taken.

    Returns:
        Positions of the centers in the order in which they are taken, and the cover radius with each and those before it, which never rises.

    Raises:
        ValueError: The count is outside its range, or a distance is not finite.
    """
    n = len(rows)
    if not 0 <= count <= n:
        raise ValueError(f"count={count} is outside 0..{n}, the number of examples.")
    order = torch.zeros(count, dtype=torch.int64)
    radii = torch.zeros(count, dtype=rows.dtype)
    if not count:
        return order, radii
    by_rank = torch.argsort(ranks)
    mean = torch.zeros(rows.shape[1], dtype=torch.float64)
    for part in by_rank.split(ROWS):
        mean += rows[part].to(torch.float64).sum(0)
    mean /= n
    apart = torch.cat([(part.to(torch.float64) - mean).square().sum(1) for part in rows.split(ROWS)])
    center = _lowest_rank(apart == apart.min(), ranks)
    nearest = torch.full((n,), torch.inf, dtype=rows.dtype)
    taken = torch.zeros(n, dtype=torch.bool)
    for j in range(count):
        order[j], taken[center] = center, True
        gaps = torch.cdist(rows, rows[center : center + 1], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
        if not bool(gaps.isfinite().all()):
            raise ValueError("Distances are not finite; rows must be finite, and not so large that their squares overflow.")
        nearest = torch.minimum(nearest, gaps)
        radii[j] = nearest.max()
        if j + 1 < count:
            # A center stays taken where all that is left lies upon centers.
            left = nearest.masked_fill(taken, -1)
            center = _lowest_rank(left == left.max(), ranks)
    return order, radii


def _lowest_rank(candidates: Tensor, ranks: Tensor) -> int:
    where = candidates.nonzero().flatten()
    return int(where[ranks[where].argmin()])
