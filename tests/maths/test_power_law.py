"""Power laws of the error, their intervals, and the frontier."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_intervals_hold_the_exponent_and_shrink_with_more_seeds():
    draw = np.random.default_rng(0)
    law = PowerLaw(2, 0.4)

    def curves(count):
        return [[law(n) * np.exp(0.1 * draw.normal()) for n in SIZES] for _ in range(count)]

    few, many = exponent_interval(SIZES, curves(4)), exponent_interval(SIZES, curves(40))
    assert many[0] < 0.4 < many[1] and many[1] - many[0] < few[1] - few[0]
    same = [[law(n) for n in SIZES]] * 3
    low, high = exponent_interval(SIZES, same)
    assert low == pytest.approx(0.4) == high


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


def test_one_curve_has_no_interval():
    with pytest.raises(ValueError, match="1 curves have no spread"):
        exponent_interval(SIZES, [[0.1] * 5])
