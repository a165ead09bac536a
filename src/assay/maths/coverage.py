"""Choosing a few points that stand for all: near to every point (k-center), or with the same mean (herding)."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

ROWS = 8192
"""Rows that are copied at once, at most."""
AHEAD = 16
"""Rows whose inner products with all others are taken at once, at most: it reads the rows once for all of them."""
FLOOR = 1e-12
"""Added to probabilities before their logarithm."""

Gaps = Callable[[int, Tensor], tuple[Tensor | None, Tensor]]
"""From a center and the distances to the nearest center so far to the distances to it: of all points, or of those that may be nearer to it."""


def farthest_first(
    rows: Float[Tensor, "examples dims"], count: int, ranks: Int[Tensor, " examples"]
) -> tuple[Int[Tensor, " count"], Float[Tensor, " count"]]:
    r"""Greedy k-center: centers one after another, each the row farthest from those before it; the first is the row nearest to the mean.

    $$ c_1 = \arg\min_i \lVert x_i - \bar x \rVert, \qquad c_{j+1} = \arg\max_i \min_{l \le j} \lVert x_i - x_{c_l} \rVert. $$

    The greatest distance of any row to its nearest center, the cover radius, is at most twice that of the best choice of as many centers.
    Distances are Euclidean, differences taken before squares, in the precision of the rows; those to the mean in float64. Inner products only
    tell which rows cannot be nearer to a new center, with a bound of their rounding. Beyond the rows memory holds some 20 numbers per example
    and the rows that may be nearer. Neither the order of the rows nor the order of summation changes the centers.

    Args:
        rows: One for each example.
        count: How many centers, in 0..examples.
        ranks: Rank of each example, from 0, which breaks ties: of rows at equal distance, the one of lowest rank is taken.

    Returns:
        Positions of the centers in the order in which they are taken, and the cover radius with each and those before it, which never rises.

    Raises:
        ValueError: The count is outside its range, or a distance is not finite.
    """
    _check_count(count, len(rows))
    if not count:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=rows.dtype)
    mean = _mean(rows, ranks)
    apart = torch.cat([(part.to(torch.float64) - mean).square().sum(1) for part in rows.split(ROWS)])
    sizes, slack = _sizes(rows), _slack(rows)
    products, used = dict[int, Tensor](), 0

    def gaps(center: int, nearest: Tensor) -> tuple[Tensor | None, Tensor]:
        nonlocal used
        if center not in products:
            # The farthest are the next centers, unless one of them covers others; more are taken at once while they are.
            ahead = nearest.topk(min(AHEAD, 2 * used, len(rows))).indices.tolist()
            ahead = list(dict.fromkeys([center, *ahead]))
            products.clear()
            products.update(zip(ahead, rows[ahead] @ rows.T, strict=True))
            used = 0
        used += 1
        row = rows[center]
        below = sizes.square() + sizes[center].square() - 2 * products[center] - slack * (sizes + sizes[center]).square()
        # What is no number may be nearer too, so that it is told of.
        maybe = ~(below >= (1 + slack) * nearest.square())
        where = maybe.nonzero().flatten() if 4 * int(maybe.sum()) < len(rows) else None
        part = rows if where is None else rows[where]
        return where, torch.cdist(part, row[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]

    return _greedily(_lowest_rank(apart == apart.min(), ranks), count, ranks, rows.dtype, gaps)


def most_divergent_first(
    probs: Float64[Tensor, "examples classes"], count: int, ranks: Int[Tensor, " examples"]
) -> tuple[Int[Tensor, " count"], Float64[Tensor, " count"]]:
    r"""Greedy k-center where the distance of two examples is the symmetric divergence of their probabilities, in nats.

    $$ d(p, q) = \tfrac12 \sum_c (p_c - q_c) \bigl(\ln(p_c + \varepsilon) - \ln(q_c + \varepsilon)\bigr), \qquad \varepsilon = 10^{-12}. $$

    The first center is the example nearest to the mean probabilities. This distance obeys no triangle inequality, so that no bound of the
    cover radius follows.

    Args:
        probs: Class probabilities of each example.
        count: How many centers, in 0..examples.
        ranks: Rank of each example, which breaks ties as in `farthest_first`.

    Returns:
        As `farthest_first`.

    Raises:
        ValueError: The count is outside its range, or a divergence is not finite.
    """
    _check_count(count, len(probs))
    if not count:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)

    def to(row: Tensor) -> Tensor:
        return torch.cat([symmetric_divergence(part, row) for part in probs.split(ROWS)])

    apart = to(_mean(probs, ranks))
    first = _lowest_rank(apart == apart.min(), ranks)
    return _greedily(first, count, ranks, torch.float64, lambda center, nearest: (None, to(probs[center])))


def symmetric_divergence(
    probs: Float64[Tensor, "*rows classes"], others: Float64[Tensor, "*others classes"]
) -> Float64[Tensor, "*rows"]:
    """The mean of KL(p || q) and KL(q || p), with 1e-12 added to probabilities inside the logarithms.

    Returns:
        In nats, at least 0 up to rounding; 27.6 for two certain predictions of different classes.
    """
    return ((probs - others) * ((probs + FLOOR).log() - (others + FLOOR).log())).sum(-1) / 2


def herded(
    rows: Float[Tensor, "examples dims"], count: int, ranks: Int[Tensor, " examples"]
) -> tuple[Int[Tensor, " count"], Float64[Tensor, " count"]]:
    r"""Herding: rows one after another, each the one that brings the mean of those taken nearest to the mean of all.

    $$ c_j = \arg\min_{x \notin S} \Bigl\lVert j \mu - \sum_{s \in S} s - x \Bigr\rVert. $$

    Computed in float64; inner products in the precision of the rows only tell which rows cannot be the nearest, with a bound of their rounding.
    Beyond the rows memory holds a few numbers per example. Neither the order of the rows nor the order of summation changes the choice.

    Args:
        rows: One for each example.
        count: How many are taken, in 0..examples.
        ranks: Rank of each example, from 0: of rows that bring the mean equally near, the one of lowest rank is taken.

    Returns:
        Positions in the order in which they are taken, and the distance of the mean of all to that of each and those before it.

    Raises:
        ValueError: The count is outside its range, or a distance is not finite.
    """
    _check_count(count, len(rows))
    order = torch.zeros(count, dtype=torch.int64)
    apart = torch.zeros(count, dtype=torch.float64)
    if not count:
        return order, apart
    mean, sizes, slack = _mean(rows, ranks), _sizes(rows), _slack(rows)
    wanted, taken = torch.zeros_like(mean), torch.zeros(len(rows), dtype=torch.bool)
    for j in range(count):
        wanted += mean
        far = sizes.square() / 2 - rows @ wanted.to(rows.dtype)
        unsure = slack * sizes * (sizes + wanted.norm().to(rows.dtype))
        maybe = ~(far - unsure > (far + unsure).masked_fill(taken, torch.inf).min()) & ~taken
        where = maybe.nonzero().flatten()
        gaps = torch.cat([(rows[part].to(torch.float64) - wanted).square().sum(1) for part in where.split(ROWS)])
        if not bool(gaps.isfinite().all()):
            raise ValueError("Distances are not finite; rows must be finite, and not so large that their squares overflow.")
        best = _lowest_rank(gaps == gaps.min(), ranks[where])
        order[j], apart[j] = where[best], gaps[best].sqrt() / (j + 1)
        taken[order[j]] = True
        wanted -= rows[order[j]].to(torch.float64)
    return order, apart


def _greedily(
    center: int, count: int, ranks: Tensor, dtype: torch.dtype, gaps: Gaps
) -> tuple[Int[Tensor, " count"], Float[Tensor, " count"]]:
    """Centers one after another, each the farthest from those before it, and the cover radii."""
    order = torch.zeros(count, dtype=torch.int64)
    radii = torch.zeros(count, dtype=dtype)
    nearest = torch.full((len(ranks),), torch.inf, dtype=dtype)
    taken = torch.zeros(len(ranks), dtype=torch.bool)
    for j in range(count):
        order[j], taken[center] = center, True
        where, apart = gaps(center, nearest)
        if not bool(apart.isfinite().all()):
            raise ValueError("Distances are not finite; rows must be finite, and not so large that their squares overflow.")
        if where is None:
            nearest = torch.minimum(nearest, apart)
        else:
            nearest[where] = torch.minimum(nearest[where], apart)
        radii[j] = nearest.max()
        if j + 1 < count:
            # A center stays taken where all that is left lies upon centers.
            left = nearest.masked_fill(taken, -1)
            center = _lowest_rank(left == left.max(), ranks)
    return order, radii


def _check_count(count: int, examples: int) -> None:
    if not 0 <= count <= examples:
        raise ValueError(f"count={count} is outside 0..{examples}, the number of examples.")


def _mean(rows: Tensor, ranks: Tensor) -> Float64[Tensor, " dims"]:
    """Mean of the rows, summed by rank, so that their order does not matter."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for part in torch.argsort(ranks).split(ROWS):
        total += rows[part].to(torch.float64).sum(0)
    return total / len(rows)


def _sizes(rows: Tensor) -> Float[Tensor, " examples"]:
    return torch.linalg.vector_norm(rows, dim=1)


def _slack(rows: Tensor) -> float:
    """How far rounding may put sums of squares and inner products off, as a part of the product of the sizes."""
    return 4 * (rows.shape[1] + 4) * torch.finfo(rows.dtype).eps


def _lowest_rank(candidates: Tensor, ranks: Tensor) -> int:
    where = candidates.nonzero().flatten()
    return int(where[ranks[where].argmin()])
