"""The interval that the benchmark of LDS reports, against simulation."""

import importlib.util
import pathlib

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp

PATH = pathlib.Path(__file__).parent.parent / "benchmarks" / "crossed.py"
SPEC = importlib.util.spec_from_file_location("crossed", PATH)
crossed = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(crossed)


def measured(draw, subsets, queries, shared):
    """What was predicted and what was seen; retraining without a subset has noise that all queries share."""
    signal = draw.normal(size=(subsets, queries))
    gain = np.clip(1 + 0.3 * draw.normal(size=queries), 0, None)
    noise = shared * draw.normal(size=(subsets, 1)) + draw.normal(size=(subsets, queries))
    return signal + 0.5 * shared * draw.normal(size=(subsets, 1)), gain * signal + noise


def covered(subsets, queries, shared, trials):
    """Part of the crossed intervals, and of Student's over queries alone, that hold the mean over all that could have been drawn."""
    draw = np.random.default_rng(subsets)
    true = np.mean([crossed.correlations(*measured(draw, subsets, queries, shared)).mean() for _ in range(2000)])
    both = alone = 0
    for _ in range(trials):
        found = measured(draw, subsets, queries, shared)
        low, high = crossed.interval(*found)
        ends = ttest_1samp(crossed.correlations(*found), 0).confidence_interval(0.95)
        both += low <= true <= high
        alone += ends[0] <= true <= ends[1]
    return both / trials, alone / trials


def test_correlations_are_spearmans():
    one, other = measured(np.random.default_rng(0), 20, 4, 1.0)
    expected = [spearmanr(one[:, place], other[:, place]).statistic for place in range(4)]
    assert crossed.correlations(one, other) == pytest.approx(expected, rel=1e-12)
    assert crossed.correlations(np.ones((5, 1)), np.arange(5.0)[:, None]).tolist() == [0.0]


def test_the_interval_covers_where_one_over_queries_does_not():
    both, alone = covered(20, 10, 2.0, 60)
    assert alone < 0.94 - 3 * (0.94 * 0.06 / 60) ** 0.5 < both


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 1.0, 2.0])
def test_the_interval_covers_at_the_benchmarks_size(shared):
    both, alone = covered(100, 50, shared, 300)
    print(f"LDS, shared noise {shared:g}: covers {100 * both:.1f} %, over queries alone {100 * alone:.1f} %")
    assert both > 0.94 - 3 * (0.94 * 0.06 / 300) ** 0.5
