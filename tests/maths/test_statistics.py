import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths.statistics import bootstrap_interval, line, paired_test

accuracies = st.floats(0, 1).map(lambda value: round(value, 4))


def coverage(n, trials=500):
    draw = np.random.default_rng(n)
    intervals = (bootstrap_interval(draw.normal(0.3, 1, n), resamples=600) for _ in range(trials))
    return np.mean([low <= 0.3 <= high for low, high in intervals])


@pytest.mark.parametrize(("n", "promised"), [(2, 0.51), (5, 0.83), (20, 0.92)])
def test_coverage_is_what_the_docstring_says(n, promised):
    assert abs(coverage(n) - promised) < 4 * np.sqrt(promised * (1 - promised) / 500)


def test_interval_against_scipy():
    from scipy.stats import bootstrap

    row = np.random.default_rng(5).normal(1, 2, 15)
    other = bootstrap((row,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0))
    expected = other.confidence_interval.low, other.confidence_interval.high
    assert bootstrap_interval(row, resamples=20_000) == pytest.approx(expected, abs=0.04)


def test_interval_repeats_and_depends_on_the_seed_alone():
    row = [0.01, 0.03, -0.02, 0.004, 0.011]
    assert bootstrap_interval(row) == bootstrap_interval(row) == bootstrap_interval(row[::-1])
    assert (
        bootstrap_interval(row) == bootstrap_interval(np.array(row)) == bootstrap_interval(torch.tensor(row, dtype=torch.float64))
    )
    assert bootstrap_interval(row, resamples=50) != bootstrap_interval(row, resamples=50, seed=1)


def test_interval_does_not_depend_on_how_many_are_held_at_once(monkeypatch):
    row = np.random.default_rng(0).normal(size=7)
    whole = bootstrap_interval(row, resamples=500)
    monkeypatch.setattr("assay.maths.statistics._BLOCK", 50)
    assert bootstrap_interval(row, resamples=500) == whole


def test_two_differences_and_equal_ones():
    assert bootstrap_interval([0.1, 0.3]) == pytest.approx((0.1, 0.3))
    assert bootstrap_interval([0.1] * 3) == (0.1, 0.1)
    assert bootstrap_interval([0.0] * 5) == (0.0, 0.0)


@settings(deadline=None)
@given(st.lists(accuracies, min_size=2, max_size=9))
def test_interval_lies_within_the_differences(row):
    low, high = bootstrap_interval(row, resamples=200)
    assert min(row) - 1e-12 <= low <= high <= max(row) + 1e-12
    wider = bootstrap_interval(row, level=0.99, resamples=200)
    assert wider[0] <= low and high <= wider[1]


@pytest.mark.parametrize(
    ("row", "options", "word"),
    [
        ([0.1], {}, "at least 2"),
        ([0.1, float("nan")], {}, "finite"),
        ([0.1, float("inf")], {}, "finite"),
        ([0.1, 0.2], {"level": 1.0}, "level"),
        ([0.1, 0.2], {"level": 0.0}, "level"),
        ([0.1, 0.2], {"resamples": 0}, "resamples"),
    ],
)
def test_interval_refuses(row, options, word):
    with pytest.raises(ValueError, match=word):
        bootstrap_interval(row, **options)


@settings(deadline=None)
@given(st.lists(st.tuples(accuracies, accuracies), min_size=3, max_size=12))
def test_paired_test_against_scipy(pairs):
    from scipy.stats import ttest_rel

    a, b = (np.array(row) for row in zip(*pairs, strict=True))
    p, name = paired_test(a, b)
    if np.ptp(a - b) < 1e-9:
        assert name == "exact sign-flip permutation"
    else:
        assert name == "paired t"
        assert p == pytest.approx(ttest_rel(a, b).pvalue, rel=1e-6, abs=1e-12)
    assert paired_test(b, a) == (p, name)


def flips(differences):
    """p by trying every sign pattern."""
    row = np.array(differences)
    sums = np.array([np.dot(signs, row) for signs in itertools.product((1, -1), repeat=len(row))])
    return np.mean(np.abs(sums) >= abs(row.sum()) - 1e-12)


@pytest.mark.parametrize("row", [[0.1, 0.2], [-0.1, -0.3], [0.1, -0.2], [0.0, 0.2], [0.2] * 5, [-0.05] * 8, [0.0] * 4])
def test_sign_flips_against_all_patterns(row):
    a = 0.8 + np.array(row)
    assert paired_test(a, np.full(len(row), 0.8)) == (flips(row), "exact sign-flip permutation")


def test_differences_equal_up_to_rounding_have_no_spread():
    a, b = [0.9, 0.8, 0.7, 0.6, 0.5], [0.85, 0.75, 0.65, 0.55, 0.45]
    assert len({x - y for x, y in zip(a, b, strict=True)}) > 1
    assert paired_test(a, b) == (0.0625, "exact sign-flip permutation")
    assert paired_test([0.1 + 0.2, 0.5, 0.7], [0.3, 0.5, 0.7]) == (1.0, "exact sign-flip permutation")


def test_paired_t_holds_its_level():
    draw = np.random.default_rng(1)
    rejected = np.mean([paired_test(draw.normal(size=5), draw.normal(size=5))[0] < 0.05 for _ in range(1500)])
    assert abs(rejected - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 1500)


def test_paired_test_refuses():
    with pytest.raises(ValueError, match="not pairs"):
        paired_test([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="at least 2"):
        paired_test([0.1], [0.2])
    with pytest.raises(ValueError, match="b must be"):
        paired_test([0.1, 0.2], [0.1, float("nan")])


@settings(deadline=None)
@given(st.integers(3, 20), st.integers(0, 1000))
def test_line_against_numpy(n, seed):
    draw = np.random.default_rng(seed)
    x = draw.normal(3, 1, n)
    y = -2 * x + draw.normal(0, 1, n)
    slope, correlation = line(x, y)
    assert slope == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-9)
    assert correlation == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)


def test_line_by_hand_and_without_spread():
    assert line([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == (2.0, 1.0)
    assert line([0.0, 1.0, 2.0], [5.0, 3.0, 1.0]) == (-2.0, -1.0)
    assert all(np.isnan(line([0.1, 0.1, 0.1], [1.0, 2.0, 3.0])))
    slope, correlation = line([1.0, 2.0, 3.0], [0.1, 0.1, 0.1])
    assert slope == 0 and np.isnan(correlation)
    assert all(np.isnan(line([], [])))


def test_line_refuses():
    with pytest.raises(ValueError, match="not pairs"):
        line([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="x must be"):
        line([1.0, float("inf")], [1.0, 2.0])
