import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths.ranking import (
    auc,
    average_precision,
    concordance,
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


@settings(deadline=None)
@given(rankings())
def test_auc_against_scikit_learn_and_all_pairs(case):
    from sklearn.metrics import roc_auc_score

    values, wrong = case
    pairs = values[wrong][:, None] - values[~wrong]
    assert auc(values, wrong) == pytest.approx(float((pairs.sign() / 2 + 0.5).mean()), abs=1e-12)
    assert auc(values, wrong) == pytest.approx(roc_auc_score(wrong.numpy(), values.numpy()), abs=1e-12)
    assert auc(values, wrong) + auc(-values, wrong) == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(rankings())
def test_average_precision_against_scikit_learn(case):
    from sklearn.metrics import average_precision_score

    values, wrong = case
    assert average_precision(values, wrong) == pytest.approx(average_precision_score(wrong.numpy(), values.numpy()), abs=1e-12)


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
    assert auc(values, wrong) == (1 + 1 + 0.5 + 1) / 4
    assert average_precision(values, wrong) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert precision_at(values, wrong, 2) == 0.75
    assert recovered_fraction(values, wrong, 0.25) == 0.5
    assert recovered_fraction(values, wrong, 0.0) == 0.0
    assert recovered_fraction(values, wrong, 1.0) == 1.0
    assert detection_curve(values, wrong) == ((0.0, 0.0), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 1.0))


def test_perfect_reversed_and_flat():
    wrong = torch.tensor([True] * 3 + [False] * 7)
    perfect = wrong.double()
    assert (auc(perfect, wrong), average_precision(perfect, wrong), precision_at(perfect, wrong, 3)) == (1, 1, 1)
    assert auc(-perfect, wrong) == 0
    flat = torch.zeros(10)
    assert auc(flat, wrong) == 0.5
    assert average_precision(flat, wrong) == pytest.approx(0.3)
    assert all(found == pytest.approx(inspected) for inspected, found in detection_curve(flat, wrong))


def test_infinities_rank():
    values = torch.tensor([math.inf, 1.0, -math.inf, math.inf])
    assert auc(values, torch.tensor([True, False, False, True])) == 1.0


def test_curve_is_short_and_exact_at_its_points():
    draw = np.random.default_rng(0)
    values, wrong = torch.from_numpy(draw.normal(size=5003)), torch.from_numpy(draw.random(5003) < 0.1)
    curve = detection_curve(values + 2 * wrong, wrong, points=51)
    assert len(curve) == 51 and curve[0] == (0, 0) and curve[-1] == (1, 1)
    order = torch.argsort(values + 2 * wrong, descending=True)
    for inspected, found in curve:
        count = round(inspected * 5003)
        assert found == pytest.approx(int(wrong[order[:count]].sum()) / int(wrong.sum()), abs=1e-12)


@pytest.mark.parametrize("measure", [auc, average_precision, detection_curve])
def test_what_cannot_be_measured_is_refused(measure):
    with pytest.raises(ValueError, match="No label is wrong"):
        measure(torch.tensor([1.0, 2.0]), torch.tensor([False, False]))
    with pytest.raises(ValueError, match="1 values are NaN"):
        measure(torch.tensor([1.0, torch.nan]), torch.tensor([False, True]))


def test_ranges_are_refused():
    values, wrong = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    with pytest.raises(ValueError, match="All labels are wrong"):
        auc(values, torch.tensor([True, True]))
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
