"""Data Banzhaf: against the sum over all coalitions, its axioms, errors, and the rule that stops."""

import pytest
import torch

from assay.core.errors import UsageError
from assay.core.evidence import Evidence
from assay.core.held_out import HeldOut
from assay.core.ids import Ids
from assay.core.scoring import score
from assay.methods.banzhaf import Banzhaf, banzhaf
from methods.game_worlds import Table, every_coalition, evidence, planted, semivalue, six_values
from methods.test_shapley import random_game

VARIANTS = [{"learner": "knn:k=3", "subsets": 250, "utility": "prob"}]
"""Options that the laws run it with."""

REFUSED = ["subsets=1", "error=-1", "utility=loss"]
"""Options that are refused."""


def BRUTE(inputs, labels, method):
    """The sum over all coalitions."""
    return semivalue(six_values(inputs, labels, method), lambda _: 2.0 ** (1 - len(labels)))


def of_table(values, players, **options):
    ids = Ids(range(players))
    held = HeldOut.of("validation", torch.zeros(1, 2), torch.zeros(1), 2)
    given = Evidence(
        ids, 2, labels=torch.arange(players) % 2, inputs=torch.zeros(players, 2), games=lambda *_: Table(ids, values)
    )
    return score([Banzhaf(**options)], given.beside({"validation": held}))[0]


def test_all_coalitions_are_the_sum_over_all_coalitions():
    for players in (1, 2, 6, 10):
        values = random_game(players)
        exact = semivalue(values, lambda _, players=players: 2.0 ** (1 - players))
        torch.testing.assert_close(banzhaf(every_coalition(players), values), exact, rtol=1e-12, atol=1e-12)
    members = every_coalition(6)
    null = random_game(6)[(members.long() * 2 ** torch.arange(6)).sum(1) & ~4]
    assert abs(float(banzhaf(members, null)[2])) < 1e-15
    alike = banzhaf(members, random_game(7)[members.sum(1)])
    torch.testing.assert_close(alike, alike.mean().expand(6), rtol=1e-12, atol=1e-12)
    assert bool(banzhaf(members[:1], null[:1]).isnan().all())


def test_errors_are_those_that_it_has():
    players, values = 6, random_game(6)
    exact = semivalue(values, lambda _: 2.0 ** (1 - players))
    found = [of_table(values, players, subsets=80, seed=seed) for seed in range(60)]
    off = torch.stack([one.values for one in found]) - exact
    told = torch.stack([one.repeats.var(0) / len(one.repeats) for one in found]).mean(0)
    torch.testing.assert_close(found[0].repeats.mean(0), found[0].values)
    assert abs(float((off.square().mean(0) / told).mean()) - 1) < 0.3 and bool(
        (off.mean(0).abs() < 4 * (told / len(found)).sqrt()).all()
    )
    low, high = zip(*(one.interval() for one in found), strict=True)
    assert float(((torch.stack(low) <= exact) & (exact <= torch.stack(high))).double().mean()) > 0.93


def test_it_stops_at_an_error_or_says_that_it_did_not_reach_it():
    found = of_table(random_game(6), 6, subsets=20_000, error=0.02)
    assert 64 <= found.diagnostics["subsets"] < 20_000 and found.diagnostics["standard error: largest"] <= 0.02
    few = of_table(random_game(6), 6, subsets=64, error=0.001)
    assert "After 64 subsets the largest standard error is" in few.warnings[0]


def test_examples_that_no_subset_leaves_out_have_no_value():
    found = of_table(random_game(6), 6, subsets=2)
    assert 0 < len(found.unscored) < 6 and "in every subset or in none, and have no value, ids" in found.warnings[0]
    with pytest.raises(UsageError, match="give more subsets, or more examples"):
        of_table(random_game(1), 1, subsets=2, seed=next(seed for seed in range(99) if one_sided(seed)))


def one_sided(seed):
    from assay.maths.games import subset

    first, second = (bool(subset(Ids(range(1)).keys, seed, number)) for number in range(2))
    return first == second


def test_wrong_labels_are_found():
    rows, labels, held = planted()
    wrong = torch.zeros(24, dtype=torch.bool)
    wrong[::6] = True
    (found,) = score([Banzhaf(learner="ridge", subsets=300)], evidence(rows, labels, held))
    assert float((found.values[wrong][:, None] < found.values[~wrong]).double().mean()) > 0.85
