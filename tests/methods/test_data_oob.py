"""Data-OOB: against scikit-learn by hand, against every bootstrap sample of six examples, and at its edges."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier
from torch.utils.data import TensorDataset

import assay
from assay.core.errors import Mismatch, MissingEvidence, NumericalError, UnknownName, UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.scores import Direction, Scores
from assay.core.scoring import score
from assay.experiments.evidence import data_of, gather_inputs
from assay.experiments.games import RetrainingGame, game_of
from assay.learners.net import Net
from assay.maths.games import bootstrap, out_of_bag_means, out_of_bag_sums, utilities
from assay.methods.data_oob import DataOOB, data_oob
from experiments.small import recorded
from replay.test_agreement import data, looped
from replay.test_agreement import recorded as recorded_loop

VARIANTS = [
    {"bags": 24, "learner": "knn:k=3", "score": "prob"},
    {"bags": 24},
    {"bags": 24, "learner": "ridge", "seed": 2},
]
"""Options that the laws run it with."""

REFUSED = ["bags=1", "bags=many", "seed=-1", "error=-1", "score=margin", "learner=", "features=pictures", "features=rows:"]
"""Options that are refused."""


SIX = torch.tensor([[0.0], [0.4], [1.0], [1.3], [2.0], [2.2]], dtype=torch.float64)


def planted(n=60, classes=3, seed=0):
    """One column, so that no two splits of a tree are equally good; every tenth label is wrong."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=n)
    rows = (labels + draw.normal(scale=0.6, size=n))[:, None]
    labels[::10] = (labels[::10] + 1) % classes
    return torch.from_numpy(rows), torch.from_numpy(labels)


def evidence(rows, labels, ids=None):
    return gather_inputs(ids if ids is not None else Ids(range(len(labels))), rows, labels)


def scored(rows, labels, ids=None, **options):
    return score([DataOOB(**options)], evidence(rows, labels, ids))[0]


@pytest.mark.parametrize("kind", ["correct", "prob"])
def test_it_is_the_formula_by_hand_with_scikit_learn_on_the_same_bags(kind):
    rows, labels = planted()
    ids = Ids(np.random.default_rng(1).permutation(1000)[: len(labels)])
    sums, outside = np.zeros(len(labels)), np.zeros(len(labels))
    for bag in range(30):
        drawn = bootstrap(len(labels), 5, bag)[ids.ranks].numpy()
        inside = np.repeat(np.arange(len(labels)), drawn)
        tree = DecisionTreeClassifier().fit(rows[inside].numpy(), labels[inside].numpy())
        for example in np.flatnonzero(drawn == 0):
            row, label = rows[example : example + 1].numpy(), int(labels[example])
            probs = dict(zip(tree.classes_, tree.predict_proba(row)[0], strict=True))
            sums[example] += float(tree.predict(row)[0] == label) if kind == "correct" else probs.get(label, 0.0)
            outside[example] += 1
    found = scored(rows, labels, ids, bags=30, seed=5, score=kind)
    torch.testing.assert_close(found.values, torch.from_numpy(sums / outside), rtol=1e-12, atol=1e-12)
    assert found.diagnostics["bags without an example: fewest"] == outside.min()


class Table:
    """A game whose predictions are all known."""

    def __init__(self, players, bags, probs, labels):
        self.players, self.remarks, self.labels = players, {}, labels
        self.known = {tuple(bag): one for bag, one in zip(bags.tolist(), probs, strict=True)}

    def player_utilities(self, coalitions, utility):
        probs = torch.stack([self.known[tuple(bag)] for bag in coalitions.tolist()])
        return utilities(probs, self.labels, utility)

    def values(self, *given):
        raise AssertionError("Data-OOB asks for what the players' predictions are worth alone")

    class_values = path_values = predictions = values


def every_bag(players):
    """Every bootstrap sample as counts, with its probability."""
    drawn = Counter(
        tuple(Counter(picks).get(player, 0) for player in range(players))
        for picks in itertools.product(range(players), repeat=players)
    )
    return torch.tensor(list(drawn)), torch.tensor([float(number) for number in drawn.values()]) / players**players


def BRUTE(inputs, labels, method):
    """Mean over every bootstrap sample without the example, each by its chance."""
    bags, chance = every_bag(len(labels))
    probs = game_of(Ids(range(len(labels))), inputs, labels, 2, method.learner).predictions(bags)
    own = probs[:, torch.arange(len(labels)), labels]
    terms = own if method.score == "prob" else ((own > 0.5) + 0.5 * (own == 0.5)).double()
    out = (bags == 0) * chance[:, None]
    return (out * terms).sum(0) / out.sum(0)


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "kind"), [("tree", "correct"), ("knn:k=2", "prob"), ("ridge", "prob")])
def test_it_converges_to_every_bootstrap_sample_of_six_examples(learner, kind):
    rows, labels, ids = SIX, torch.tensor([0, 0, 1, 0, 1, 1]), Ids(range(6))
    bags, chance = every_bag(6)
    assert len(bags) == math.comb(11, 5) and math.isclose(float(chance.sum()), 1)
    probs = game_of(ids, rows, labels, 2, learner).predictions(bags)
    ours, other = (probs[:, torch.arange(6), one] for one in (labels, 1 - labels))
    terms = (1 + (ours - other).sign()) / 2 if kind == "correct" else ours
    out = (bags == 0) * chance[:, None]
    out = out / out.sum(0)
    exact = (out * terms).sum(0)
    # An example is out of a bag with the chance (5/6)^6; the variance of a mean over so many of 250 bags.
    variance = (out * (terms - exact).square()).sum(0) / (250 * (5 / 6) ** 6)
    table = Table(ids, bags, probs, labels)
    given = Evidence(ids, 2, labels=labels, inputs=rows, games=lambda *_: table)
    found = score([DataOOB(learner=learner, score=kind, bags=250, seed=seed) for seed in range(12)], given)
    one = scored(rows, labels, ids, learner=learner, score=kind, bags=20)
    assert torch.equal(score([DataOOB(learner=learner, score=kind, bags=20)], given)[0].values, one.values)
    apart = torch.stack([one.values for one in found]) - exact
    assert bool((apart.abs() <= 4.5 * variance.sqrt() + 1e-12).all())
    assert bool((apart.mean(0).abs() <= 4 * (variance / len(found)).sqrt() + 1e-12).all())
    # The errors that it tells are those that it has.
    told = torch.stack([one.repeats.var(0) / len(one.repeats) for one in found]).mean(0)
    there = variance > 1e-4
    assert int(there.sum()) >= 3 and bool(((told / variance)[there] - 1).abs().max() < 0.6)
    assert abs(float((told / variance)[there].mean()) - 1) < 0.2


def test_it_stops_at_an_error_whose_meaning_is_how_far_it_is_from_all_bags():
    labels, ids = torch.tensor([0, 0, 1, 0, 1, 1]), Ids(range(6))
    bags, chance = every_bag(6)
    probs = game_of(ids, SIX, labels, 2, "knn:k=2").predictions(bags)
    out = (bags == 0) * chance[:, None]
    exact = (out * probs[:, torch.arange(6), labels]).sum(0) / out.sum(0)
    table = Table(ids, bags, probs, labels)
    given = Evidence(ids, 2, labels=labels, inputs=SIX, games=lambda *_: table)
    found = score([DataOOB(score="prob", bags=2000, error=0.03, seed=seed) for seed in range(30)], given)
    drawn = [one.diagnostics["bags"] for one in found]
    assert all(number % 32 == 0 and 64 <= number < 2000 for number in drawn) and len(set(drawn)) > 3
    assert all(one.diagnostics["standard error: largest"] <= 0.03 and not one.warnings for one in found)
    off = torch.stack([one.values for one in found]) - exact
    errors = torch.stack([(one.repeats.var(0) / 10).sqrt() for one in found])
    # Over seeds the values are as far from the mean over all bags as the errors say, also where the rule has stopped.
    assert 0.8 < float((off.square().mean() / errors.square().mean()).sqrt()) < 1.25
    # Student's quantile of ten groups.
    assert float((off.abs() <= 2.26 * errors).double().mean()) > 0.9
    # Stopped at so many bags it is what so many bags give.
    (same,) = score([DataOOB(score="prob", bags=drawn[0], seed=0)], given)
    assert torch.equal(same.values, found[0].values)
    (few,) = score([DataOOB(score="prob", bags=64, error=0.001)], given)
    assert "After 64 bags the largest standard error is" in few.warnings[0] and "give more bags" in few.warnings[0]


@pytest.mark.parametrize("learner", ["tree", "knn:k=3", "ridge", "logistic", "net:steps=10"])
def test_bags_are_asked_for_together_and_how_many_changes_nothing(learner, monkeypatch):
    rows, labels = planted()
    asked, plain = [], RetrainingGame.player_utilities
    monkeypatch.setattr(
        RetrainingGame, "player_utilities", lambda self, bags, utility: (asked.append(len(bags)), plain(self, bags, utility))[1]
    )
    whole = scored(rows, labels, bags=40, learner=learner, score="prob")
    assert asked == [32, 8]
    monkeypatch.setattr("assay.methods.data_oob.BLOCK", 1)
    torch.testing.assert_close(
        scored(rows, labels, bags=40, learner=learner, score="prob").values, whole.values, rtol=1e-12, atol=1e-12
    )


def test_nets_are_trained_side_by_side(monkeypatch):
    rows, labels = planted()
    many, plain = [], Net.train_many
    monkeypatch.setattr(Net, "train_many", lambda *given: (many.append(len(given[4])), plain(*given))[1])
    monkeypatch.setattr(Net, "train", lambda *_: pytest.fail("trained alone"))
    scored(rows, labels, bags=40, learner="net:steps=5")
    assert many == [32, 8]


def test_a_failed_training_is_an_error_that_names_the_bag():
    rows, labels = planted()
    for learner in ("net:rate=1e300+steps=2", "sklearn.neighbors.KNeighborsClassifier:n_neighbors=61"):
        with pytest.raises(NumericalError, match=r"trained on \d+ of 60 examples \(ids"):
            scored(rows, labels, bags=4, learner=learner)


def test_the_pure_function_is_the_method():
    rows, labels = planted(20)
    ids, game = Ids(range(20)), game_of(Ids(range(20)), rows, labels, 3, "tree")
    counts = torch.stack([bootstrap(20, 0, bag) for bag in range(12)])
    for kind in ("correct", "prob"):
        found = scored(rows, labels, ids, bags=12, score=kind)
        expected = data_oob(game.predictions(counts), labels, counts, kind)
        torch.testing.assert_close(found.values, expected[~expected.isnan()], rtol=1e-12, atol=1e-12)
    # Always predicted right, half right by a tie, never; and in every bag.
    probs = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.9, 0.1], [1.0, 0.0]]])
    found = data_oob(probs, torch.tensor([0, 1, 1, 0]), torch.tensor([[0, 0, 0, 2]]))
    assert found[:3].tolist() == [1.0, 0.5, 0.0] and bool(found[3].isnan())


def test_groups_of_bags_have_the_values_as_their_mean():
    rows, labels = planted()
    found = scored(rows, labels, bags=40)
    torch.testing.assert_close(found.repeats.mean(0), found.values)
    assert found.repeats.shape == (10, 60) and bool(found.repeats.isfinite().all())
    errors = (found.repeats.var(0) / 10).sqrt()
    assert math.isclose(found.diagnostics["standard error: mean"], float(errors.mean()))
    assert scored(rows, labels, bags=3).repeats.shape[0] == 3


def test_wrong_labels_are_found_by_every_learner():
    draw = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(3, 4, generator=draw, dtype=torch.float64)
    labels = torch.arange(90) % 3
    rows = centres[labels] + torch.randn(90, 4, generator=draw, dtype=torch.float64)
    labels[::10] = (labels[::10] + 1) % 3
    wrong = torch.zeros(90, dtype=torch.bool)
    wrong[::10] = True
    for learner in ("tree", "knn", "ridge", "logistic", "net:steps=40", "sklearn.naive_bayes.GaussianNB"):
        values = scored(rows, labels, bags=20, learner=learner).values
        assert float((values[wrong][:, None] < values[~wrong]).double().mean()) > 0.9, learner


def test_examples_that_are_in_every_bag_have_no_value_and_it_says_so():
    rows, labels = planted(30)
    found = scored(rows, labels, bags=2)
    assert 0 < len(found.unscored) < 30 and "are in every bag and have no value, ids" in found.warnings[0]
    assert len(found) + len(found.unscored) == 30 and bool(found.values.isfinite().all())
    with pytest.raises(UsageError, match="every example is in all 5 bags; give more bags, or more examples"):
        scored(rows[:1], labels[:1], bags=5)


def test_beside_a_method_that_speaks_of_all_examples_it_says_how_to_have_both():
    rows, labels = planted(30)
    wanted = ["knn_disagreement:features=inputs", "data_oob:bags=2"]
    with pytest.raises(
        Mismatch, match=r"one table cannot join them, so score them in calls of their own, or by score_separately\."
    ):
        assay.score(evidence(rows, labels), wanted)
    assert list(assay.score_separately(evidence(rows, labels), wanted)) == wanted


def test_what_trainings_say_is_said_with_the_scores():
    rows, labels = planted()
    found = scored(rows, labels, bags=4, learner="sklearn.neural_network.MLPClassifier:max_iter=2")
    assert "4 of 4 models: Stochastic Optimizer: Maximum iterations (2) reached" in found.warnings[0]


def test_rows_from_outside_and_data_in_memory():
    rows, labels = planted()
    inside = assay.score(evidence(rows, labels), "data_oob:bags=6")["data_oob:bags=6"]
    assert inside.direction.value == "low is suspect" and "share of models trained without it" in inside.unit
    with pytest.raises(MissingEvidence, match="Rows of the name 'embedded' were not passed"):
        assay.score(evidence(rows, labels), "data_oob:bags=6,features=rows:embedded", strict=True)


def test_a_run_with_a_plan_or_of_a_loop_is_scored_by_its_data(tmp_path, monkeypatch):
    run = recorded(tmp_path / "run")
    found = assay.score(run, "data_oob:bags=8", save=True)["data_oob:bags=8"]
    rows, _ = data_of(run)
    expected = scored(rows, run.labels, run.ids, bags=8)
    assert torch.equal(found.values, expected.values) and len(found) + len(found.unscored) == 397
    embedded = torch.randn(397, 3, generator=torch.Generator().manual_seed(0))
    other = assay.score(run, "data_oob:bags=8,features=rows:embedded", inputs={"embedded": embedded}, save=True)
    expected = scored(embedded, run.labels, run.ids, bags=8)
    assert torch.equal(next(iter(other.values())).values, expected.values)
    monkeypatch.setattr("assay.experiments.games.RetrainingGame.player_utilities", lambda *_: pytest.fail("computed again"))
    again = assay.score(run, ["data_oob:bags=8", "data_oob:bags=8,features=rows:embedded"], save=True)
    assert torch.equal(again["data_oob:bags=8"].values, found.values)
    monkeypatch.undo()
    inputs, labels = data()
    loop = looped(*recorded_loop(tmp_path / "loop", TensorDataset(inputs, labels)))
    (own,) = assay.score(tmp_path / "loop", "data_oob:bags=30", loop=loop).values()
    assert torch.equal(own.values, scored(inputs, labels, own.ids, bags=30).values)


def test_intervals_cover_what_they_say():
    draw = np.random.default_rng(0)
    for terms, truth in ((draw.random((100, 20_000)) < 0.5, 0.5), (draw.beta(5, 1, (100, 20_000)), 5 / 6)):
        outside = draw.random(terms.shape) < 0.366
        parts = [
            out_of_bag_sums(torch.from_numpy(terms[group::10]).double(), torch.from_numpy(outside[group::10]))
            for group in range(10)
        ]
        means, groups = out_of_bag_means(torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts]))
        one = Scores(Ids(range(len(means))), means, "oob", {}, "oob", Direction.LOW_IS_SUSPECT, "share", repeats=groups)
        low, high = one.interval()
        covered = ((low <= truth) & (truth <= high))[~low.isnan()]
        assert len(covered) > 500 and float(covered.double().mean()) > 0.94


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        ("tre", "No learner is named 'tre'. Did you mean tree"),
        ("tree:dept=3", "Did you mean depth"),
        ("knn:k=0", "knn:k=0: k=0 is below 1"),
        ("sklearn.tree.NoTree", "is no class of scikit-learn here"),
        ("sklearn.tree.DecisionTreeRegressor", "is no classifier"),
    ],
)
def test_a_learner_that_there_is_not_is_refused_before_anything_is_trained(learner, words, monkeypatch):
    monkeypatch.setattr("assay.experiments.games.RetrainingGame.player_utilities", lambda *_: pytest.fail("trained"))
    rows, labels = planted()
    with pytest.raises(UsageError, match=words) as caught:
        assay.score(evidence(rows, labels), ["cg_score", f"data_oob:learner={learner}"])
    assert isinstance(caught.value, UnknownName) == ("Did you mean" in words)
