"""Mean rank correlation over queries, where all queries are held against the same drawn subsets, and intervals of it."""

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

FEWEST = 4
"""Subsets below which no interval is given."""

Values = Float64[np.ndarray, "*pairs subsets queries"]


def query_correlations(predicted: Values, actual: Values) -> Float64[np.ndarray, " queries"]:
    """Spearman's rho over the subsets, by query; the mean over all pairs of predictions and truths, where there are several.

    Args:
        predicted: A number for each subset and query, in any unit.
        actual: What it is held against.

    Returns:
        In -1..1; 0 for a query whose predictions or truths are all equal, which rank nothing.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=-2) for values in (predicted, actual)]
    one, other = (rank - rank.mean(-2, keepdims=True) for rank in ranks)
    spread = np.sqrt((one**2).sum(-2) * (other**2).sum(-2))
    rhos = np.divide((one * other).sum(-2), spread, out=np.zeros(spread.shape), where=spread > 0)
    return rhos.reshape(-1, rhos.shape[-1]).mean(0)


def without_spread(values: Values) -> int:
    """How many queries have equal numbers for all subsets, in any of the pairs."""
    return int((values == values[..., :1, :]).all(-2).reshape(-1, values.shape[-1]).any(0).sum())


def crossed_interval(predicted: Values, actual: Values, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean rho over all queries and all subsets that could have been drawn.

    Queries and subsets are crossed: what one subset adds by chance, such as the noise of its retraining, all queries share, and an interval
    over queries alone does not see it. The variance is the sum of the one over queries and the jackknife's over subsets; Student's t with
    one degree less than the fewer of the two; ends beyond -1 or 1 are cut. Errs on the wide side, because what is random in both counts
    twice. Of a single query, the interval over subsets (`spearman_interval`).

    Args:
        predicted: As `query_correlations`.
        actual: As `query_correlations`.
        level: Wanted coverage, in (0, 1).

    Returns:
        Low and high end; None with fewer than 4 subsets, and where nothing varies, which shows no spread to make an interval of.

    Source: Owen 2007, The pigeonhole bootstrap (the sum of both variances); Tukey 1958 for the jackknife.
    """
    subsets, queries = predicted.shape[-2:]
    rhos = query_correlations(predicted, actual)
    if queries == 1:
        return spearman_interval(float(rhos[0]), subsets, level)
    if subsets < FEWEST:
        return None
    left = np.array([query_correlations(np.delete(predicted, n, -2), np.delete(actual, n, -2)).mean() for n in range(subsets)])
    variance = rhos.var(ddof=1) / queries + (subsets - 1) / subsets * np.square(left - left.mean()).sum()
    if not variance > 0:
        return None
    half = float(stdtrit(min(subsets, queries) - 1, (1 + level) / 2)) * variance**0.5
    return max(-1.0, float(rhos.mean() - half)), min(1.0, float(rhos.mean() + half))


def spearman_interval(rho: float, subsets: int, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of one Spearman correlation over subsets drawn independently, by Fisher's z with the variance (1 + rho^2 / 2) / (subsets - 3).

    Args:
        rho: The correlation.
        subsets: Over how many subsets.
        level: Wanted coverage, in (0, 1).

    Returns:
        Low and high end, in -1..1; None with fewer than 4 subsets, and for a rho of -1 or 1, which shows no spread.

    Source: Bonett and Wright 2000, Sample size requirements for estimating Pearson, Kendall and Spearman correlations. Departures: Student's
    t with subsets - 2 degrees of freedom in the normal's place, for few subsets.
    """
    if subsets < FEWEST or not abs(rho) < 1 - 1e-12:
        return None
    half = float(stdtrit(subsets - 2, (1 + level) / 2)) * ((1 + rho**2 / 2) / (subsets - 3)) ** 0.5
    return float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half))
