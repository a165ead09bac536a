"""Interval of a mean Spearman correlation over queries, where all queries are held against the same drawn subsets."""

import numpy as np
from scipy.stats import rankdata, t


def correlations(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Spearman's rho over subsets, by query; both are (subsets, queries). 0 where a query has no spread."""
    ranks = [rankdata(values, axis=0) for values in (predicted, actual)]
    one, other = (rank - rank.mean(0) for rank in ranks)
    spread = np.sqrt((one**2).sum(0) * (other**2).sum(0))
    return np.divide((one * other).sum(0), spread, out=np.zeros(spread.shape), where=spread > 0)


def interval(predicted: np.ndarray, actual: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Of the mean rho over all queries and all subsets that could have been drawn.

    Queries and subsets are crossed: what one subset adds by chance, such as the noise of its retraining, all queries share, and an interval
    over queries alone does not see it. The variance is the sum of the one over queries and the jackknife's over subsets; Student's t with
    one degree less than the fewer of the two. Errs on the wide side, because what is random in both counts twice.

    Source: Owen 2007, The pigeonhole bootstrap (the sum of both variances); Tukey 1958 for the jackknife.
    """
    rhos = correlations(predicted, actual)
    subsets, queries = predicted.shape
    left = np.array([correlations(np.delete(predicted, n, 0), np.delete(actual, n, 0)).mean() for n in range(subsets)])
    variance = rhos.var(ddof=1) / queries + (subsets - 1) / subsets * np.square(left - left.mean()).sum()
    half = float(t.ppf((1 + level) / 2, min(subsets, queries) - 1)) * variance**0.5
    return float(rhos.mean() - half), float(rhos.mean() + half)
