"""Power laws of the error, their intervals, and the frontier."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from assay.maths.power_law import PowerLaw, exponent_interval, fit, frontier

SIZES = [100, 200, 400, 800, 1600]


@given(st.floats(0.1, 10), st.floats(0.05, 2))
@settings(max_examples=50, deadline=None)
def test_a_law_is_found_again(scale, exponent):
    law = PowerLaw(scale, exponent)
    found = fit(SIZES, [law(n) for n in SIZES])
    assert (
        found.scale == pytest.approx(scale, rel=1e-8) and found.exponent == pytest.approx(exponent, rel=1e-8) and found.floor == 0
    )


@given(st.floats(0.5, 5), st.floats(0.3, 1.5), st.floats(0.01, 0.2))
@settings(max_examples=30, deadline=None)
def test_a_floor_is_found_again(scale, exponent, floor):
    law = PowerLaw(scale, exponent, floor)
    found = fit(SIZES, [law(n) for n in SIZES], floor=True)
    for n in (50, 300, 5000):
        assert found(n) == pytest.approx(law(n), rel=1e-3)
    straight = PowerLaw(scale, exponent)
    assert fit(SIZES, [straight(n) for n in SIZES], floor=True).floor <= 1e-3 * straight(1600)


def test_the_published_line_of_the_course_is_told():
    # err% = 10^3.169 n^-0.428
    law = PowerLaw(10**3.169, 0.428)
    assert law(50_000) == pytest.approx(14.4, abs=0.1)


def curves(draw, count, shared=0.1, noise=0.1):
    """Errors of some seeds about one law; a seed's own level is shared by its sizes."""
    law = PowerLaw(2, 0.4)
    return [[law(n) * np.exp(shared * level + noise * draw.normal()) for n in SIZES] for level in draw.normal(size=count)]


def test_intervals_are_students_over_the_exponents_of_single_seeds():
    draw = np.random.default_rng(0)
    rows = curves(draw, 6)
    exponents = [fit(SIZES, row).exponent for row in rows]
    expected = ttest_1samp(exponents, 0).confidence_interval(0.95)
    assert exponent_interval(SIZES, rows) == pytest.approx(tuple(expected), rel=1e-9)
    few, many = exponent_interval(SIZES, curves(draw, 4)), exponent_interval(SIZES, curves(draw, 40))
    assert many[0] < 0.4 < many[1] and many[1] - many[0] < few[1] - few[0]


def covered(count, trials):
    draw = np.random.default_rng(count)
    found = [exponent_interval(SIZES, curves(draw, count, shared=0.2, noise=0.3)) for _ in range(trials)]
    return np.mean([low <= 0.4 <= high for low, high in found])


def test_intervals_of_exponents_cover_what_they_say():
    # Three deviations of 150 draws; the percentile bootstrap of mean curves covered 75 %.
    assert covered(3, 150) > 0.94 - 3 * np.sqrt(0.94 * 0.06 / 150)


@pytest.mark.slow
@pytest.mark.parametrize("count", (3, 5, 10, 20))
def test_the_whole_table_of_coverage(count):
    part = covered(count, 1000)
    print(f"exponents, {count} seeds: covers {100 * part:.1f} %")
    assert part > 0.94 - 2 * np.sqrt(0.94 * 0.06 / 1000)


def test_the_frontier_is_what_nothing_beats():
    points = [(10, 0.5), (20, 0.6), (20, 0.3), (30, 0.3), (40, 0.1), (10, 0.5), (5, 0.9)]
    assert frontier(points) == [6, 0, 2, 4]
    draw = np.random.default_rng(1)
    many = [tuple(row) for row in draw.integers(0, 12, size=(60, 2)).tolist()]
    kept = frontier(many)
    for place, (n, error) in enumerate(many):
        beaten = any(m <= n and e < error for m, e in many)
        assert (place in kept) <= (not beaten)
        assert beaten or any(many[at] == (n, error) or (many[at][1] <= error and many[at][0] <= n) for at in kept)
    assert frontier([]) == []


@pytest.mark.parametrize(
    ("n", "errors", "words"),
    [
        ([10, 10], [0.1, 0.2], "errors at 2 sizes at least; there are 1"),
        ([10, 20], [0.1], "errors at 2 sizes"),
        ([10, 20], [0.1, 0.0], "must be finite and above 0"),
        ([10, 20], [0.1, float("nan")], "must be finite and above 0"),
    ],
)
def test_what_no_law_can_be_fitted_to_is_refused(n, errors, words):
    with pytest.raises(ValueError, match=words):
        fit(n, errors)


def test_few_or_equal_curves_have_no_interval():
    assert exponent_interval(SIZES, [[0.1, 0.09, 0.08, 0.07, 0.06]] * 2) is None
    assert exponent_interval(SIZES, [[0.1, 0.09, 0.08, 0.07, 0.06]] * 5) is None
    with pytest.raises(ValueError, match="must be finite and above 0"):
        exponent_interval(SIZES, [[0.1] * 5, [0.1] * 5, [0.0] * 5])
