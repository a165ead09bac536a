"""Data Shapley: against the sum over all coalitions, the axioms, truncation, the rule that stops, errors that cover, and what is refused."""

import itertools

import pytest
import torch

import assay
from assay.core.errors import MissingEvidence, NumericalError, UnknownName, UsageError
from assay.core.evidence import Evidence
from assay.core.held_out import HeldOut
from assay.core.ids import Ids
from assay.core.scoring import score
from assay.experiments.evidence import gather_inputs
from assay.methods.shapley import Shapley, shapley
from methods.game_worlds import Table, every_coalition, evidence, planted, semivalue, shapley_weight, six_values

VARIANTS = [{"learner": "knn:k=3", "permutations": 24, "utility": "prob"}]
"""Options that the laws run it with."""

REFUSED = [
    "permutations=1",
    "truncate=-0.1",
    "error=-1",
    "error=inf",
    "utility=loss",
    "learner=",
    "target=",
    "seed=-1",
    "features=x",
]
"""Options that are refused."""


def BRUTE(inputs, labels, method):
    """The sum over all coalitions."""
    return semivalue(six_values(inputs, labels, method), shapley_weight(len(labels)))


def scored(given, **options):
    return score([Shapley(**options)], given)[0]


def random_game(players, seed=0):
    return torch.rand(2**players, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_table(values, players, **options):
    ids = Ids(range(players))
    held = HeldOut.of("validation", torch.zeros(1, 2), torch.zeros(1), 2)
    given = Evidence(
        ids, 2, labels=torch.arange(players) % 2, inputs=torch.zeros(players, 2), games=lambda *_: Table(ids, values)
    )
    return scored(given.beside({"validation": held}), **options)


def test_all_orders_are_the_sum_over_all_coalitions():
    for players in (1, 2, 5):
        values = random_game(players)
        orders = torch.tensor(list(itertools.permutations(range(players))))
        found = shapley(orders, Table(None, values).path_values(orders)[0])
        torch.testing.assert_close(found, semivalue(values, shapley_weight(players)), rtol=1e-12, atol=1e-12)


def test_the_axioms_hold_in_every_estimate():
    players = 8
    values = random_game(players)
    found = of_table(values, players, permutations=40)
    # Efficiency, of any number of orders.
    assert float(found.values.sum()) == pytest.approx(float(values[-1] - values[0]), abs=1e-12)
    assert found.diagnostics["sum of the values"] == pytest.approx(
        found.diagnostics["value of all examples"] - found.diagnostics["value of no examples"], abs=1e-12
    )
    # A player who changes nothing.
    members = every_coalition(players)
    null = values[(members.long() * 2 ** torch.arange(players)).sum(1) & ~1]
    assert float(of_table(null, players, permutations=40).values[0]) == 0
    # Linearity.
    other = random_game(players, 1)
    both = of_table(2 * values - other, players, permutations=40).values
    torch.testing.assert_close(both, 2 * found.values - of_table(other, players, permutations=40).values, rtol=1e-12, atol=1e-12)
    # Symmetry, of the exact values.
    size = members.sum(1)
    exact = semivalue(random_game(players)[:9][size], shapley_weight(players))
    torch.testing.assert_close(exact, exact.mean().expand(players), rtol=1e-12, atol=1e-12)


def test_errors_are_those_that_it_has():
    players, values = 6, random_game(6)
    exact = semivalue(values, shapley_weight(players))
    found = [of_table(values, players, permutations=30, seed=seed) for seed in range(80)]
    off = torch.stack([one.values for one in found]) - exact
    told = torch.stack([one.repeats.var(0) / len(one.repeats) for one in found]).mean(0)
    assert (
        bool(((off.square().mean(0) / told - 1).abs() < 0.5).all())
        and abs(float((off.square().mean(0) / told).mean()) - 1) < 0.15
    )
    assert bool((off.mean(0).abs() < 4 * (told / len(found)).sqrt()).all())
    low, high = zip(*(one.interval() for one in found), strict=True)
    covered = (torch.stack(low) <= exact) & (exact <= torch.stack(high))
    assert float(covered.double().mean()) > 0.93
    largest = torch.tensor([one.diagnostics["standard error: largest"] for one in found])
    assert abs(float(largest.mean() / told.sqrt().max()) - 1) < 0.3


def test_it_stops_at_an_error_or_says_that_it_did_not_reach_it():
    values = random_game(6)
    found = of_table(values, 6, permutations=2000, error=0.02)
    assert 32 < found.diagnostics["permutations"] < 2000 and found.diagnostics["permutations"] % 32 == 0
    assert found.diagnostics["standard error: largest"] <= 0.02 and not found.warnings
    few = of_table(values, 6, permutations=32, error=0.001)
    assert (
        "After 32 permutations the largest standard error is" in few.warnings[0] and "give more permutations" in few.warnings[0]
    )
    same = of_table(values, 6, permutations=found.diagnostics["permutations"])
    assert torch.equal(same.values, found.values)


def test_a_truncated_order_adds_nothing_more():
    rows, labels, held = planted()
    full = scored(evidence(rows, labels, held), learner="knn:k=3", permutations=64)
    cut = scored(evidence(rows, labels, held), learner="knn:k=3", permutations=64, truncate=0.05)
    name = "examples trained on before an order is cut: mean"
    assert full.diagnostics[name] == 24 and 1 < cut.diagnostics[name] < 20
    # What is left of each order is at most `truncate`.
    assert float((cut.values - full.values).abs().sum()) < 0.05 * 24
    assert abs(float(cut.values.sum() - full.values.sum())) <= 0.05
    assert float(torch.corrcoef(torch.stack([full.values, cut.values]))[0, 1]) > 0.9


def test_a_learner_with_a_form_of_its_own_gives_what_trainings_give(monkeypatch):
    rows, labels, held = planted()
    for learner in ("knn:k=3", "ridge"):
        found = scored(evidence(rows, labels, held), learner=learner, permutations=4, utility="prob")
        cut = scored(evidence(rows, labels, held), learner=learner, permutations=4, utility="prob", truncate=0.1)
        with monkeypatch.context() as without:
            cls = type(assay.learners.parse(learner))
            without.setattr(cls, "grow", lambda *_: None)
            without.setattr(cls, "train_many", lambda *_: None)
            slow = scored(evidence(rows, labels, held), learner=learner, permutations=4, utility="prob")
            slow_cut = scored(evidence(rows, labels, held), learner=learner, permutations=4, utility="prob", truncate=0.1)
        torch.testing.assert_close(found.values, slow.values, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(cut.values, slow_cut.values, rtol=1e-9, atol=1e-12)
        assert found.diagnostics.keys() == slow.diagnostics.keys() and not torch.equal(cut.values, found.values)


@pytest.mark.parametrize("utility", ["accuracy", "prob", "log_prob"])
def test_wrong_labels_are_found_by_every_utility(utility):
    rows, labels, held = planted()
    found = scored(evidence(rows, labels, held), learner="ridge:penalty=10", permutations=32, utility=utility)
    wrong = torch.zeros(24, dtype=torch.bool)
    wrong[::6] = True
    # A logarithm weighs few bad predictions of small sets most.
    least = 0.7 if utility == "log_prob" else 0.9
    assert float((found.values[wrong][:, None] < found.values[~wrong]).double().mean()) > least
    assert found.unit.startswith("mean change of: ") and found.direction.value == "low is suspect"


def test_without_held_out_examples_or_a_sound_learner_there_is_no_value():
    rows, labels, held = planted()
    without = gather_inputs(Ids(range(24)), rows, labels)
    with pytest.raises(MissingEvidence, match=r"shapley needs held_out, .*gather_inputs\(\.\.\., held_out="):
        assay.score(without, "shapley", strict=True)
    other = gather_inputs(Ids(range(24)), rows, labels, {"mine": held})
    with pytest.raises(MissingEvidence, match="no held-out examples 'validation'; there are: mine"):
        assay.score(other, "shapley", strict=True)
    assert len(
        assay.score(other, "shapley:target=mine,learner=ridge,permutations=2")["shapley:learner=ridge,target=mine,permutations=2"]
    )
    with pytest.raises(UnknownName, match="Did you mean tree"):
        assay.score(evidence(rows, labels, held), "shapley:learner=tre")
    broken = "shapley:learner=sklearn.neighbors.KNeighborsClassifier:n_neighbors=9,permutations=2"
    with pytest.raises(NumericalError, match=r"trained on 2 of 24 examples \(ids \d+, \d+\): learner sklearn.*n_neighbors"):
        assay.score(evidence(rows, labels, held), broken, strict=True)
    strange = gather_inputs
    with pytest.raises(UsageError, match=r"labels 7 are outside 0\.\.2"):
        strange(Ids(range(24)), rows, labels, {"validation": (held[0], torch.full((60,), 7))})
    with pytest.raises(UsageError, match="inputs of 1 are NaN or infinite; ids 3"):
        bad = held[0].clone()
        bad[3, 0] = torch.nan
        strange(Ids(range(24)), rows, labels, {"validation": (bad, held[1])})
    with pytest.raises(UsageError, match="do not go together"):
        strange(Ids(range(24)), rows, labels, {"validation": (held[0][:5], held[1])})
