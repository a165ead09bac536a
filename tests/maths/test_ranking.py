import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths.ranking import (
    area_interval,
    concordance,
    detection_areas,
    detection_curve,
    places_within,
    precision_at,
    rank_correlation,
    recovered_fraction,
)


@st.composite
def rankings(draw, largest=40):
    """Values with many ties, at least one wrong and one right label."""
    n = draw(st.integers(2, largest))
    values = draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))
    wrong = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda row: any(row) and not all(row)))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(wrong)


def orders(values):
    """Every order that sorts the values downwards."""
    for order in itertools.permutations(range(len(values))):
        if all(values[i] >= values[j] for i, j in itertools.pairwise(order)):
            yield list(order)


@settings(deadline=None)
@given(rankings(largest=6), st.data())
def test_cuts_through_ties_are_the_mean_over_all_orders(case, data):
    values, wrong = case
    count = data.draw(st.integers(1, len(values)))
    found = float(torch.stack([wrong[order][:count].double().sum() for order in orders(values.tolist())]).mean())
    assert precision_at(values, wrong, count) == pytest.approx(found / count, abs=1e-12)
    assert recovered_fraction(values, wrong, count / len(values)) == pytest.approx(found / int(wrong.sum()), abs=1e-12)


def test_by_hand():
    values = torch.tensor([4.0, 3.0, 3.0, 1.0])
    wrong = torch.tensor([True, True, False, False])
    assert precision_at(values, wrong, 2) == 0.75
    assert recovered_fraction(values, wrong, 0.25) == 0.5
    assert recovered_fraction(values, wrong, 0.0) == 0.0
    assert recovered_fraction(values, wrong, 1.0) == 1.0
    assert detection_curve(values, wrong) == ((0.0, 0.0), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 1.0))


def test_perfect_reversed_and_flat():
    wrong = torch.tensor([True] * 3 + [False] * 7)
    perfect = wrong.double()
    assert (precision_at(perfect, wrong, 3), precision_at(-perfect, wrong, 3)) == (1, 0)
    flat = torch.zeros(10)
    assert all(found == pytest.approx(inspected) for inspected, found in detection_curve(flat, wrong))


def test_infinities_rank():
    values = torch.tensor([math.inf, 1.0, -math.inf, math.inf])
    assert precision_at(values, torch.tensor([True, False, False, True]), 2) == 1.0


def test_curve_is_short_and_exact_at_its_points():
    draw = np.random.default_rng(0)
    values, wrong = torch.from_numpy(draw.normal(size=5003)), torch.from_numpy(draw.random(5003) < 0.1)
    curve = detection_curve(values + 2 * wrong, wrong, points=51)
    assert len(curve) == 51 and curve[0] == (0, 0) and curve[-1] == (1, 1)
    order = torch.argsort(values + 2 * wrong, descending=True)
    for inspected, found in curve:
        count = round(inspected * 5003)
        assert found == pytest.approx(int(wrong[order[:count]].sum()) / int(wrong.sum()), abs=1e-12)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="No label is wrong"):
        detection_curve(torch.tensor([1.0, 2.0]), torch.tensor([False, False]))
    with pytest.raises(ValueError, match="1 values are NaN"):
        detection_curve(torch.tensor([1.0, torch.nan]), torch.tensor([False, True]))


def test_ranges_are_refused():
    values, wrong = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    for count in (0, 3):
        with pytest.raises(ValueError, match="count"):
            precision_at(values, wrong, count)
    for fraction in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="inspected_fraction"):
            recovered_fraction(values, wrong, fraction)
    with pytest.raises(ValueError, match="points"):
        detection_curve(values, wrong, points=1)


@settings(deadline=None)
@given(st.integers(2, 4), st.integers(3, 30), st.integers(0, 1000))
def test_rank_correlation_against_scipy(rows, columns, seed):
    from scipy.stats import spearmanr

    values = np.random.default_rng(seed).integers(0, 6, (rows, columns)).astype(float)
    values[:, 0], values[:, 1] = 0, 9  # so that no row is constant
    found = rank_correlation(torch.from_numpy(values)).numpy()
    for i, j in itertools.combinations(range(rows), 2):
        assert found[i, j] == found[j, i] == pytest.approx(spearmanr(values[i], values[j]).statistic, abs=1e-12)
    assert (found.diagonal() == 1).all()


def test_equal_rankings_correlate_by_exactly_one():
    """As SciPy's do not: of these numbers its `spearmanr` gives 0.9999999999999999 at some lengths, and a page says 1."""
    from scipy.stats import spearmanr

    rows = [np.random.default_rng(n).normal(size=n) for n in range(3, 60)]
    for row in rows:
        assert (rank_correlation(torch.from_numpy(np.stack([row, 2 * row + 1, row]))) == 1).all()
    assert any((spearmanr(np.stack([row, 2 * row + 1, row]), axis=1).statistic != 1).any() for row in rows)


def test_rank_correlation_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, -8.0, -9.0, -20.0], [1.0, 1.0, 2.0, 2.0]])
    expected = torch.tensor([[1, -1, 0.8**0.5], [-1, 1, -(0.8**0.5)], [0.8**0.5, -(0.8**0.5), 1]], dtype=torch.float64)
    torch.testing.assert_close(rank_correlation(values), expected)


def test_a_row_without_spread_has_no_correlation():
    found = rank_correlation(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    assert float(found[0, 0]) == 1
    assert bool(found[1].isnan().all()) and bool(found[:, 1].isnan().all())


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_concordance_counts_all_pairs(n, seed):
    one, other = np.random.default_rng(seed).integers(0, 4, (2, n)).astype(float)
    one[0], one[1], other[0], other[1] = 0, 9, 9, 0  # so that neither row is constant
    signs = [(np.sign(one[i] - one[j]), np.sign(other[i] - other[j])) for i, j in itertools.combinations(range(n), 2)]
    ordered = [sum(pair[row] != 0 for pair in signs) for row in (0, 1)]
    expected = sum(a * b for a, b in signs) / math.sqrt(ordered[0] * ordered[1])
    assert concordance(torch.from_numpy(one), torch.from_numpy(other)) == pytest.approx(expected, abs=1e-12)


def test_concordance_refuses_and_needs_spread():
    assert math.isnan(concordance(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])))
    with pytest.raises(ValueError, match="NaN"):
        concordance(torch.tensor([1.0, torch.nan]), torch.zeros(2))


def test_rank_correlation_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        rank_correlation(torch.tensor([[1.0, torch.nan]]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=30))
def test_places_within(groups):
    seen = dict.fromkeys(range(5), 0)
    expected = []
    for group in groups:
        expected.append(seen[group])
        seen[group] += 1
    assert places_within(torch.tensor(groups, dtype=torch.int64)).tolist() == expected


def slow_areas(rows, wrong):
    """DeLong's placements by comparing every wrong label with every right one."""
    areas, of_wrong, of_right = [], [], []
    for row in rows.tolist():
        pairs = [
            [1.0 if row[i] > row[j] else 0.5 if row[i] == row[j] else 0.0 for j in range(len(row)) if not wrong[j]]
            for i in range(len(row))
            if wrong[i]
        ]
        of_wrong.append([sum(line) / len(line) for line in pairs])
        of_right.append([sum(line[j] for line in pairs) / len(pairs) for j in range(len(pairs[0]))])
        areas.append(sum(of_wrong[-1]) / len(pairs))
    m, n = len(of_wrong[0]), len(of_right[0])
    return areas, np.atleast_2d(np.cov(of_wrong)) / m + np.atleast_2d(np.cov(of_right)) / n


def test_areas_and_their_covariance_are_those_of_all_pairs():
    draw = torch.Generator().manual_seed(0)
    wrong = torch.arange(40) % 5 == 0
    rows = (torch.randn(3, 40, generator=draw) + wrong).mul(2).round().double()
    areas, covariance = detection_areas(rows, wrong)
    slow, slow_covariance = slow_areas(rows, wrong.tolist())
    assert areas.tolist() == pytest.approx(slow) and covariance.numpy() == pytest.approx(slow_covariance)
    with pytest.raises(ValueError, match="two of each"):
        detection_areas(rows, torch.arange(40) == 0)


def test_the_interval_of_an_area_covers_it():
    draw, hits = np.random.default_rng(0), 0
    true = 0.5 * (1 + math.erf(2.0 / 2))
    for _ in range(200):
        values = torch.from_numpy(np.concatenate([draw.normal(2, 1, 25), draw.normal(0, 1, 300)]))
        areas, covariance = detection_areas(values[None], torch.arange(325) < 25)
        low, high = area_interval(float(areas[0]), float(covariance[0, 0]), 25)
        hits += low <= true <= high
    assert hits >= 184
    assert area_interval(0.9, 0.01, 4) is None and area_interval(1.0, 0.0, 50) is None and area_interval(0.999, 1e-6, 50) is None
