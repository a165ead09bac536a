"""The intervals that benchmarks report, against simulation."""

import importlib.util
import pathlib

import numpy as np
import pytest
from scipy.stats import norm, spearmanr, ttest_1samp


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).parent.parent / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


crossed, over_seeds = benchmark("crossed"), benchmark("over_seeds")


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
    both, alone = covered(100, 50, shared, 150)
    print(f"LDS, shared noise {shared:g}: covers {100 * both:.1f} %, over queries alone {100 * alone:.1f} %")
    assert both > 0.94 - 3 * (0.94 * 0.06 / 150) ** 0.5


def detected(draw, auc, wrong, trials):
    """AUC of a score of 1,000 examples, by seed, whose distance between wrong labels and right ones differs from seed to seed too."""
    score = draw.normal(size=(trials, 1000))
    score[:, :wrong] += norm.ppf(auc) * 2**0.5 + 0.1 * draw.normal(size=(trials, 1))
    ranks = score.argsort(1).argsort(1) + 1
    return (ranks[:, :wrong].sum(1) - wrong * (wrong + 1) / 2) / (wrong * (1000 - wrong))


@pytest.mark.parametrize("n", (3, 5, 10))
@pytest.mark.parametrize(("auc", "wrong"), [(0.9, 100), (0.9932, 100), (0.999, 100), (0.99, 20), (0.9994, 20), (0.98, 5)])
def test_intervals_of_detection_cover_what_they_say_or_are_not_there(auc, wrong, n):
    draw = np.random.default_rng(n)
    values = detected(draw, auc, wrong, 300 * n)
    true, rows = detected(draw, auc, wrong, 3000).mean(), values.reshape(-1, n)
    shown = [found for row in rows if (found := over_seeds.detection_interval(row, row, wrong)) is not None]
    # At the very end of the range there is none.
    assert len(shown) < 10 if wrong * (1 - auc) < 0.02 else len(shown) > 0.3 * len(rows)
    if len(shown) > 20:
        held = np.mean([low - 5e-5 <= true <= high + 5e-5 for low, high in shown])
        assert held > 0.94 - 3 * (0.94 * 0.06 / len(shown)) ** 0.5
    assert all(0 <= low <= high <= 1 for low, high in shown)


def test_few_wrong_labels_have_no_interval():
    assert over_seeds.detection_interval([0.8, 0.9, 0.85], [0.8, 0.9, 0.85], 4) is None
    assert over_seeds.interval([0.5, 0.9, 0.95]) == [0.0, 1.0] and over_seeds.interval([0.5, 0.5]) is None
    assert over_seeds.interval([-0.5, 0.9, 0.95], -1.0) == [-1.0, 1.0]
