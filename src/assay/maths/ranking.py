"""How well a ranking finds what it should, and how alike two rankings are. Ties are handled exactly, never by arrival."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor


def places_within(groups: Int[Tensor, " examples"]) -> Int[Tensor, " examples"]:
    """Place of each element among those of its group, in the order given, from 0. Groups are numbered from 0."""
    order = torch.argsort(groups, stable=True)
    counts = torch.bincount(groups)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(groups)) - (counts.cumsum(0) - counts)[groups[order]]
    return places


def interleaved(groups: Int[Tensor, " examples"]) -> Int[Tensor, " examples"]:
    """An order of which every prefix holds each group in proportion, as nearly as whole examples allow.

    The j-th example of a group (from 0, in the given order) stands at (j + 1/2) / count of its group. These are Webster's quotients, so a longer
    prefix keeps every example of a shorter one; equal quotients stay in the given order.

    Returns:
        Positions, each once.
    """
    counts = torch.bincount(groups)
    return torch.argsort((places_within(groups) + 0.5) / counts[groups].to(torch.float64), stable=True)


def precision_at(suspicion: Float[Tensor, " examples"], wrong: Bool[Tensor, " examples"], count: int) -> float:
    """Fraction of wrong labels among the `count` most suspect; where a tie straddles the cut, the mean over its orders.

    Returns:
        In 0..1.

    Raises:
        ValueError: A value is NaN, no label is wrong, or `count` is outside 1..examples.
    """
    if not 1 <= count <= len(wrong):
        raise ValueError(f"count={count} is outside 1..{len(wrong)}, the number of examples.")
    return float(_found_among(suspicion, wrong, np.array([count]))[0]) / count


def recovered_fraction(
    suspicion: Float[Tensor, " examples"], wrong: Bool[Tensor, " examples"], inspected_fraction: float
) -> float:
    """Fraction of the wrong labels among the first floor(inspected_fraction * examples + 1e-9) of the ranking.

    Where a tie straddles the cut, the mean over its orders.

    Returns:
        In 0..1.

    Raises:
        ValueError: A value is NaN, no label is wrong, or the fraction is outside 0..1.
    """
    if not 0 <= inspected_fraction <= 1:
        raise ValueError(f"inspected_fraction={inspected_fraction} is outside 0..1.")
    count = int(np.floor(inspected_fraction * len(wrong) + 1e-9))
    return float(_found_among(suspicion, wrong, np.array([count]))[0]) / int(wrong.sum())


def detection_curve(
    suspicion: Float[Tensor, " examples"], wrong: Bool[Tensor, " examples"], points: int = 101
) -> tuple[tuple[float, float], ...]:
    """(fraction inspected, fraction of the wrong labels found) along the ranking, from (0, 0) to (1, 1).

    Evenly spaced, each at a whole number of examples, so fewer than `points` if there are fewer examples. Within a tie the
    found fraction is the mean over its orders. A ranking by chance gives the diagonal.

    Returns:
        Points of two fractions in 0..1, both rising.

    Raises:
        ValueError: A value is NaN, no label is wrong, or `points` is below 2.
    """
    if points < 2:
        raise ValueError(f"points={points} is below 2; a curve has two ends.")
    n = len(wrong)
    counts = np.unique(np.round(np.linspace(0, n, points)).astype(np.int64))
    found = _found_among(suspicion, wrong, counts)
    return tuple(zip((counts / n).tolist(), (found / int(wrong.sum())).tolist(), strict=True))


def rank_correlation(values: Float[Tensor, "methods examples"]) -> Float64[Tensor, "methods methods"]:
    """Spearman correlation of every two rows; equal values share their mean rank. Range -1..1.

    A row without any spread has no ranking, so its correlations are NaN, with itself too.

    Returns:
        Symmetric, exactly 1 where two rankings are equal.

    Raises:
        ValueError: A value is NaN.
    """
    from scipy.stats import rankdata

    rows = _numbers(values)
    # Doubled ranks about their mean are whole numbers: up to some 200,000 examples the sums are exact, so equal rankings
    # give exactly 1 and the matrix is exactly symmetric, as they are not of `scipy.stats.spearmanr`.
    ranks = 2 * rankdata(rows, axis=1) - (rows.shape[1] + 1)
    products = ranks @ ranks.T
    spread = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    with np.errstate(invalid="ignore"):
        ratio = np.where(spread > 0, products / spread, np.nan)
    # The root is rounded, so that the ratio of proportional ranks can pass 1 by an ulp.
    return torch.from_numpy(ratio.clip(-1, 1))


def concordance(one: Float[Tensor, " examples"], other: Float[Tensor, " examples"]) -> float:
    """Kendall's tau-b: pairs of examples that both rows order alike, less those that they order otherwise. Range -1..1, 0 is chance.

    The difference is divided by the geometric mean of the numbers of pairs that each row does not tie; NaN where a row has no spread.

    Returns:
        In -1..1, or NaN.

    Raises:
        ValueError: A value is NaN.

    Source: Kendall 1945. Departures: none.
    """
    rows = _numbers(one), _numbers(other)
    if any(len(np.unique(row)) < 2 for row in rows):
        return float("nan")
    from scipy.stats import kendalltau

    return float(kendalltau(*rows).statistic)


def _numbers(values: Tensor) -> np.ndarray:
    array = values.detach().cpu().to(torch.float64).numpy()
    if np.isnan(array).any():
        raise ValueError(f"{int(np.isnan(array).sum())} values are NaN and cannot be ranked.")
    return array


def _tied_counts(suspicion: Tensor, wrong: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Down to the end of each group of equal values, most suspect first: how many examples, how many of them wrong."""
    values, hits = _numbers(suspicion), wrong.detach().cpu().numpy()
    if values.shape != hits.shape:
        raise ValueError(f"{len(values)} values and {len(hits)} truths do not go together.")
    if not hits.any():
        raise ValueError("No label is wrong; there is nothing to detect.")
    _, group, counts = np.unique(-values, return_inverse=True, return_counts=True)
    return counts.cumsum(), np.bincount(group[hits], minlength=len(counts)).cumsum()


def _found_among(suspicion: Tensor, wrong: Tensor, counts: np.ndarray) -> np.ndarray:
    """How many wrong labels the first `counts` examples hold, in the mean over the orders of tied examples."""
    inspected, found = _tied_counts(suspicion, wrong)
    return np.interp(counts, np.concatenate([[0], inspected]), np.concatenate([[0], found]))
