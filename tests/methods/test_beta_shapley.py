"""Beta Shapley: its weights, and against the sum over all coalitions."""

import itertools
import math

import pytest
import torch
from scipy.special import beta as beta_function

from assay.core.scoring import score
from assay.maths.games import beta_weights
from assay.methods.beta_shapley import BetaShapley, beta_shapley
from assay.methods.shapley import Shapley, shapley
from methods.game_worlds import Table, evidence, planted, semivalue, six_values
from methods.test_shapley import random_game

VARIANTS = [{"learner": "knn:k=3", "permutations": 24, "utility": "prob", "alpha": 4.0}]
"""Options that the laws run it with."""

REFUSED = ["alpha=0", "beta=-1", "permutations=1", "alpha=inf"]
"""Options that are refused."""


def weight(players, alpha, beta):
    """Weight of the marginal contribution to one coalition of that size, by SciPy's beta function."""
    return lambda size: beta_function(size + beta, players - 1 - size + alpha) / beta_function(alpha, beta)


def BRUTE(inputs, labels, method):
    """The sum over all coalitions."""
    return semivalue(six_values(inputs, labels, method), weight(len(labels), method.alpha, method.beta))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (16.0, 1.0), (1.0, 16.0), (0.5, 3.0)])
def test_weights_are_those_of_the_formula_and_of_a_mean(alpha, beta):
    for players in (1, 2, 7, 300):
        found = beta_weights(players, alpha, beta)
        assert float(found.mean()) == pytest.approx(1)
        if players < 10:
            by_hand = [players * math.comb(players - 1, size) * weight(players, alpha, beta)(size) for size in range(players)]
            torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64))
    if alpha == beta == 1:
        torch.testing.assert_close(found, torch.ones(300, dtype=torch.float64))
    assert alpha == beta or (found[0] > found[-1]) == (alpha > beta)


@pytest.mark.parametrize("alpha", [1e-6, 1e6, 1e12, 1e300])
def test_weights_of_strange_options_are_those_of_the_formula(alpha):
    # With beta = 1, B(1, n - 1 + alpha) / B(alpha, 1) has a closed form.
    found = beta_weights(5, alpha, 1.0)
    assert float(found.mean()) == pytest.approx(1, rel=1e-12)
    assert float(found[0]) == pytest.approx(5 * alpha / (4 + alpha), rel=1e-12)
    assert float(beta_weights(5, 1.0, alpha)[-1]) == pytest.approx(5 * alpha / (4 + alpha), rel=1e-12)


def test_all_orders_are_the_sum_over_all_coalitions():
    values, orders = random_game(5), torch.tensor(list(itertools.permutations(range(5))))
    paths = Table(None, values).path_values(orders)[0]
    for alpha, beta in ((16.0, 1.0), (1.0, 4.0)):
        torch.testing.assert_close(beta_shapley(orders, paths, alpha, beta), semivalue(values, weight(5, alpha, beta)))
    torch.testing.assert_close(beta_shapley(orders, paths, 1.0, 1.0), shapley(orders, paths))


def test_of_equal_weights_it_is_data_shapley():
    given = evidence(*planted())
    options = {"learner": "knn", "permutations": 8}
    found, expected = (score([cls], given)[0] for cls in (BetaShapley(alpha=1.0, beta=1.0, **options), Shapley(**options)))
    torch.testing.assert_close(found.values, expected.values, rtol=1e-12, atol=1e-12)
