"""The mean correlation over queries and its interval: by scipy's own, at the edges, and by how often the interval holds the truth."""

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp

from assay.maths import crossed


def world(rng, subsets, queries, shared, own):
    """Predictions and truths of one draw: each query has its own slope, and what a subset is and adds by chance all queries share in part."""
    predicted = shared * rng.normal(size=(subsets, 1)) + rng.normal(size=(subsets, queries))
    noise = shared * rng.normal(size=(subsets, 1)) + own * rng.normal(size=(subsets, queries))
    return predicted, rng.uniform(0.3, 1.5, size=queries) * predicted + noise


def test_it_is_the_mean_of_scipys_own():
    rng = np.random.default_rng(0)
    predicted, actual = world(rng, 20, 4, 0.5, 0.5)
    predicted[3] = predicted[7]
    wanted = [spearmanr(predicted[:, query], actual[:, query]).statistic for query in range(4)]
    assert crossed.query_correlations(predicted, actual) == pytest.approx(wanted, abs=1e-12)
    pairs = np.stack([actual, actual[::-1]])
    both = [crossed.query_correlations(predicted, one) for one in pairs]
    assert crossed.query_correlations(np.stack([predicted, predicted]), pairs) == pytest.approx(sum(both) / 2, abs=1e-12)


def test_what_ranks_nothing_counts_as_0_and_is_counted():
    rng = np.random.default_rng(0)
    predicted, actual = world(rng, 10, 3, 0, 1)
    predicted[:, 1] = 2.0
    rhos = crossed.query_correlations(predicted, actual)
    assert rhos[1] == 0 and rhos[0] != 0
    assert crossed.without_spread(predicted) == 1 and crossed.without_spread(actual) == 0
    assert crossed.without_spread(np.stack([predicted, actual])) == 1


def test_the_variance_is_that_of_the_pigeonhole_by_hand():
    rng = np.random.default_rng(1)
    predicted, actual = world(rng, 9, 5, 0.5, 1.5)
    rhos = crossed.query_correlations(predicted, actual)
    left = []
    for gone in range(9):
        stays = [n for n in range(9) if n != gone]
        left.append(np.mean([spearmanr(predicted[stays, q], actual[stays, q]).statistic for q in range(5)]))
    variance = np.var(rhos, ddof=1) / 5 + 8 / 9 * sum((one - np.mean(left)) ** 2 for one in left)
    low, high = crossed.crossed_interval(predicted, actual)
    assert (low + high) / 2 == pytest.approx(rhos.mean()) and (high - low) / 2 == pytest.approx(2.776445 * variance**0.5)


def test_no_interval_where_there_is_none():
    rng = np.random.default_rng(0)
    predicted, actual = world(rng, 10, 3, 0, 1)
    assert crossed.crossed_interval(predicted[:3], actual[:3]) is None
    assert crossed.crossed_interval(predicted, predicted) is None and crossed.spearman_interval(1.0, 50) is None
    assert crossed.spearman_interval(0.5, 3) is None
    low, high = crossed.crossed_interval(predicted[:, :2], actual[:, :2])
    assert -1 <= low < high <= 1
    one = crossed.query_correlations(predicted[:, :1], actual[:, :1])[0]
    assert crossed.crossed_interval(predicted[:, :1], actual[:, :1]) == crossed.spearman_interval(one, 10)


def measured(draw, subsets, queries, shared):
    """What was predicted and what was seen; retraining without a subset has noise that all queries share."""
    signal = draw.normal(size=(subsets, queries))
    gain = np.clip(1 + 0.3 * draw.normal(size=queries), 0, None)
    noise = shared * draw.normal(size=(subsets, 1)) + draw.normal(size=(subsets, queries))
    return signal + 0.5 * shared * draw.normal(size=(subsets, 1)), gain * signal + noise


def covered(subsets, queries, shared, trials):
    """Part of the crossed intervals, and of Student's over queries alone, that hold the mean over all that could have been drawn."""
    draw = np.random.default_rng(subsets)
    true = np.mean([crossed.query_correlations(*measured(draw, subsets, queries, shared)).mean() for _ in range(2000)])
    both = alone = 0
    for _ in range(trials):
        found = measured(draw, subsets, queries, shared)
        low, high = crossed.crossed_interval(*found)
        ends = ttest_1samp(crossed.query_correlations(*found), 0).confidence_interval(0.95)
        both += low <= true <= high
        alone += ends[0] <= true <= ends[1]
    return both / trials, alone / trials


def test_the_interval_covers_where_one_over_queries_does_not():
    both, alone = covered(20, 10, 2.0, 60)
    assert alone < 0.94 - 3 * (0.94 * 0.06 / 60) ** 0.5 < both


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 1.0, 2.0])
def test_the_interval_covers_at_the_benchmarks_size(shared):
    both, alone = covered(100, 50, shared, 150)
    print(f"LDS, shared noise {shared:g}: covers {100 * both:.1f} %, over queries alone {100 * alone:.1f} %")
    assert both > 0.94 - 3 * (0.94 * 0.06 / 150) ** 0.5


@pytest.mark.parametrize(("rho", "subsets"), [(0.0, 10), (0.5, 30), (0.9, 30), (0.9, 100)])
def test_the_interval_of_one_correlation_holds_it(rho, subsets):
    rng = np.random.default_rng(3)
    truth = 6 / np.pi * np.arcsin(rho / 2)
    held = []
    for _ in range(300):
        one = rng.normal(size=(subsets, 1))
        other = rho * one + (1 - rho**2) ** 0.5 * rng.normal(size=(subsets, 1))
        low, high = crossed.crossed_interval(one, other)
        held.append(low <= truth <= high)
    assert 0.92 <= np.mean(held) <= 1
