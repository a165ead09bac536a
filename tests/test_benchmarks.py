"""The intervals that benchmarks report, against simulation."""

import importlib.util
import pathlib

import numpy as np
import pytest
from scipy.stats import norm


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).parent.parent / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


over_seeds = benchmark("over_seeds")


def detected(draw, auc, wrong, trials):
    """AUC of a score of 1,000 examples, by seed, whose distance between wrong labels and right ones differs from seed to seed too."""
    score = draw.normal(size=(trials, 1000))
    score[:, :wrong] += norm.ppf(auc) * 2**0.5 + 0.1 * draw.normal(size=(trials, 1))
    ranks = score.argsort(1).argsort(1) + 1
    return (ranks[:, :wrong].sum(1) - wrong * (wrong + 1) / 2) / (wrong * (1000 - wrong))


@pytest.mark.slow
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
