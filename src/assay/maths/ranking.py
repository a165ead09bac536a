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


def normal_scores(values: Float[Tensor, "methods examples"]) -> Float64[Tensor, "methods examples"]:
    """Normal score of each value in its row: the quantile of the standard normal distribution at rank / (examples + 1); equal values share their mean rank.

    Returns:
        Of the shape of `values`; each row is symmetric about 0 where there are no ties.

    Raises:
        ValueError: A value is NaN.

    Source: van der Waerden 1952. Departures: none.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    rows = _numbers(values)
    return torch.from_numpy(ndtri(rankdata(rows, axis=1) / (rows.shape[1] + 1)))


def detection_areas(
    suspicion: Float[Tensor, "methods examples"], wrong: Bool[Tensor, " examples"]
) -> tuple[Float64[Tensor, " methods"], Float64[Tensor, "methods methods"]]:
    """Area under the ROC curve of several rankings of the same examples, and the covariance of these areas.

    The area is the chance that a wrong label ranks before a right one, ties counted half. The covariance is over drawing other wrong and other right
    examples; it is 0 where a ranking makes no mistake, which does not say that the area is known exactly.

    Args:
        suspicion: One row per method; larger is more suspect.
        wrong: Which labels are wrong, at least two, and at least two are not.

    Returns:
        The areas, in 0..1, and their covariance.

    Raises:
        ValueError: A value is NaN, or there are fewer than two wrong or two right labels.

    Source: DeLong et al. 1988; Sun and Xu 2014 for the ranks. Departures: none.
    """
    from scipy.stats import rankdata

    rows, hits = _numbers(suspicion), wrong.detach().cpu().numpy().astype(bool)
    if hits.sum() < 2 or (~hits).sum() < 2:
        raise ValueError(f"{int(hits.sum())} wrong and {int((~hits).sum())} right labels have no covariance; give two of each.")
    ranks = rankdata(rows, axis=1)
    of_wrong = (ranks[:, hits] - rankdata(rows[:, hits], axis=1)) / (~hits).sum()
    of_right = 1 - (ranks[:, ~hits] - rankdata(rows[:, ~hits], axis=1)) / hits.sum()
    covariance = np.atleast_2d(np.cov(of_wrong)) / hits.sum() + np.atleast_2d(np.cov(of_right)) / (~hits).sum()
    return torch.from_numpy(of_wrong.mean(1)), torch.from_numpy(covariance)


def area_interval(area: float, variance: float, wrong: int, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of an area under the ROC curve by its variance, on the scale of the logit; None where it would mislead.

    None for fewer than 5 wrong labels, and where fewer than 0.1 of them are misplaced (wrong times 1 - area): so few mistakes show no spread.

    Args:
        area: The area, in 0..1.
        variance: Its variance, as `detection_areas` gives it.
        wrong: How many labels are wrong.
        level: Wanted coverage, in (0, 1).

    Returns:
        (low, high) in 0..1, or None.
    """
    if wrong < 5 or wrong * min(area, 1 - area) < 0.1 or variance <= 0:
        return None
    from scipy.special import expit, logit
    from scipy.stats import norm

    half = norm.ppf((1 + level) / 2) * variance**0.5 / (area * (1 - area))
    return float(expit(logit(area) - half)), float(expit(logit(area) + half))


def correlation_interval(value: float, n: int, variance: tuple[float, int], level: float = 0.95) -> tuple[float, float]:
    """Interval of a rank correlation over the draw of examples, by Fisher's transformation.

    Args:
        value: The correlation, in -1..1, or NaN.
        n: How many examples it is over.
        variance: (a, b) of the variance a / (n - b) on the transformed scale: (1 + rho^2 / 2, 3) of Spearman's rho, (0.437, 4) of Kendall's tau.
        level: Wanted coverage, in (0, 1).

    Returns:
        (low, high) in -1..1; NaN where the correlation is NaN or there are too few examples; the value itself where it is 1 or -1.

    Source: Fieller, Hartley and Pearson 1957; Bonett and Wright 2000. Departures: none.
    """
    factor, fewer = variance
    if np.isnan(value) or n <= fewer:
        return float("nan"), float("nan")
    if abs(value) == 1:
        return value, value
    from scipy.stats import norm

    half = norm.ppf((1 + level) / 2) * (factor / (n - fewer)) ** 0.5
    return float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half))


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
