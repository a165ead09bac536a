"""Least core: against all constraints by another solver, its axioms, and what sets that were not drawn say."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from assay.core.errors import NumericalError
from assay.core.scoring import score
from assay.methods.least_core import LeastCore, least_core
from methods.game_worlds import every_coalition, evidence, planted, six_values
from methods.test_shapley import random_game

VARIANTS = [{"learner": "knn:k=3", "subsets": 200, "utility": "prob"}]
"""Options that the laws run it with."""

REFUSED = ["subsets=1", "utility=loss"]
"""Options that are refused."""


def by_all_constraints(values):
    """The least core of a game, the solution of the smallest norm by a general solver of SciPy."""
    players = int(np.log2(len(values)))
    held, worth = every_coalition(players)[1:-1].numpy().astype(float), (values - values[0]).numpy()
    whole, worth = worth[-1], worth[1:-1]
    programme = linprog(
        [0.0] * players + [1.0],
        A_ub=np.c_[-held, -np.ones(len(held))],
        b_ub=-worth,
        A_eq=[[1.0] * players + [0.0]],
        b_eq=[whole],
        bounds=[(None, None)] * (players + 1),
        method="highs-ipm",
    )
    short = programme.x[-1]
    found = minimize(
        lambda x: x @ x,
        programme.x[:-1],
        jac=lambda x: 2 * x,
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda x: x.sum() - whole, "jac": lambda x: np.ones(players)},
            {"type": "ineq", "fun": lambda x: held @ x + short + 1e-9 - worth, "jac": lambda x: held},
        ],
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert found.success, found.message
    return torch.from_numpy(found.x), short


def BRUTE(inputs, labels, method):
    """By all constraints."""
    return by_all_constraints(six_values(inputs, labels, method))[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("players", [2, 4, 7])
def test_it_is_the_least_core_by_all_constraints(players, seed):
    values = random_game(players, seed)
    sets = every_coalition(players)[1:-1]
    found, short = least_core(sets, values[1:-1] - values[0], float(values[-1] - values[0]))
    expected, least = by_all_constraints(values)
    assert short == pytest.approx(least, abs=1e-7)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(found.sum()) == pytest.approx(float(values[-1] - values[0]), abs=1e-9)
    missed = values[1:-1] - values[0] - short - sets.double() @ found
    assert float(missed.max()) < 1e-7


def test_alike_players_have_alike_shares_and_a_worthless_one_what_no_set_asks_for():
    # Every set is worth what its size says.
    sets = every_coalition(6)[1:-1]
    size = sets.sum(1).double()
    found, short = least_core(sets, size**2 / 36, 1.0)
    torch.testing.assert_close(found, torch.full((6,), 1 / 6, dtype=torch.float64), rtol=1e-7, atol=1e-9)
    assert short <= 0
    # A simple majority of three: e = 1/3.
    sets = every_coalition(3)[1:-1]
    found, short = least_core(sets, (sets.sum(1) >= 2).double(), 1.0)
    assert short == pytest.approx(1 / 3) and found.tolist() == pytest.approx([1 / 3] * 3)
    # All worth is the first player's.
    found, short = least_core(sets, sets[:, 0].double(), 1.0)
    assert short == pytest.approx(0, abs=1e-9) and found.tolist() == pytest.approx([1, 0, 0], abs=1e-6)


def test_a_single_example_has_the_whole_value():
    rows, labels, held = planted()
    alike = held[1] == labels[0]
    (found,) = score([LeastCore(learner="ridge")], evidence(rows[:1], labels[:1], (held[0][alike], held[1][alike])))
    # No example predicts one of two classes at random, and a single one its own.
    assert found.values.tolist() == [0.5]
    assert least_core(torch.zeros(0, 1, dtype=torch.bool), torch.zeros(0), 0.25)[0].tolist() == [0.25]


def test_without_complements_there_may_be_none():
    with pytest.raises(NumericalError, match="was not solved"):
        least_core(torch.tensor([[True, False]]), torch.tensor([0.5]), 1.0)


def test_sets_that_were_not_drawn_tell_how_far_it_holds():
    rows, labels, held = planted()
    few, many = (score([LeastCore(learner="knn", subsets=number)], evidence(rows, labels, held))[0] for number in (40, 2000))
    name = "sets that were not drawn: share that falls short by more"
    assert few.diagnostics[name] > many.diagnostics[name] and many.diagnostics[name] < 0.1
    # More constraints need no less.
    assert many.diagnostics["largest shortfall of a set (e)"] >= few.diagnostics["largest shortfall of a set (e)"]
    wrong = torch.zeros(24, dtype=torch.bool)
    wrong[::6] = True
    assert float((many.values[wrong][:, None] < many.values[~wrong]).double().mean()) > 0.8
    everything = score([LeastCore(learner="knn", subsets=70)], evidence(rows[:6], labels[:6], held))[0]
    assert everything.diagnostics["sets of examples"] == 62 and name not in everything.diagnostics
