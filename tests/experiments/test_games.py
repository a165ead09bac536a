"""A learner trained on coalitions: what it predicts, what a coalition is worth, and what never becomes a number."""

import dataclasses
import pickle
from concurrent.futures import Executor
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier

from assay.cluster import InlineExecutor
from assay.core.errors import MissingEvidence, NumericalError, TrialFailed, UsageError
from assay.core.game import Game, Valuation
from assay.core.held_out import HeldOutRows
from assay.core.ids import Ids
from assay.core.learner import AbstractLearner, Constant
from assay.experiments import games
from assay.experiments.games import RetrainingGame, game_of
from assay.learners import parse
from assay.maths.games import utilities

LEARNERS = ["tree", "knn:k=3", "ridge", "logistic", "net:steps=10", "sklearn.ensemble.ExtraTreesClassifier:n_estimators=3"]


def world(n=30, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    return 2 * torch.eye(classes, 4)[labels] + torch.randn(n, 4, generator=draw), labels


def coalitions(n, count=6, seed=0):
    return torch.rand(count, n, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_a_coalition_is_trained_on_and_everybody_is_predicted():
    rows, labels = world()
    rows = rows[:, :1].double()
    game = game_of(Ids(range(30)), rows, labels, 3, "tree")
    assert isinstance(game, Game)
    masks = coalitions(30)
    found = game.predictions(masks)
    for mask, probs in zip(masks, found, strict=True):
        tree = DecisionTreeClassifier().fit(rows[mask].numpy(), labels[mask].numpy())
        expected = np.zeros((30, 3))
        expected[:, tree.classes_] = tree.predict_proba(rows.numpy())
        assert torch.equal(probs, torch.from_numpy(expected))
    assert torch.equal(game.predictions(masks.long()), found), "counts of 0 and 1"
    # Everybody twice is another sample, but nothing else to learn for a tree of one column.
    assert torch.equal(game.predictions(masks.long() * 2), found)


@pytest.mark.parametrize("learner", LEARNERS)
def test_order_of_examples_numbers_of_classes_and_what_was_asked_before_change_nothing(learner):
    rows, labels = world()
    ids, masks = Ids(np.random.default_rng(0).permutation(500)[:30]), coalitions(30)
    found = game_of(ids, rows, labels, 3, learner).predictions(masks)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    moved = game_of(ids.take(order), rows[order], labels[order], 3, learner).predictions(masks[:, order])
    assert torch.equal(moved, found[:, order])
    name = torch.tensor([2, 0, 1])
    assert torch.equal(game_of(ids, rows, name[labels], 3, learner).predictions(masks)[..., name], found)
    again = game_of(ids, rows, labels, 3, learner)
    # Nets that are trained side by side add up in another order than one alone.
    near = {"rtol": 1e-9, "atol": 1e-12} if learner.startswith("net") else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(again.predictions(masks.flip(0)).flip(0), found, **near)
    torch.testing.assert_close(again.predictions(masks[2:3])[0], found[2], **near)
    # A class that nobody has.
    wider = game_of(ids, rows, labels, 5, learner).predictions(masks)
    torch.testing.assert_close(wider[..., :3], found, **near)
    assert bool((wider[..., 3:] == 0).all())


@pytest.mark.parametrize("learner", LEARNERS)
def test_what_predictions_of_players_are_worth_is_kept_and_does_not_tell_how_many_were_asked_for(learner):
    rows, labels = world()
    ids = Ids(np.random.default_rng(0).permutation(500)[:30])
    game, masks = game_of(ids, rows, labels, 3, learner), coalitions(30).long() * 2
    found = {utility: game.player_utilities(masks, utility) for utility in ("accuracy", "prob")}
    for utility, one in found.items():
        # One set after the other is trained in another form by nets.
        torch.testing.assert_close(one, utilities(game.predictions(masks), labels, utility), rtol=1e-9, atol=1e-12)
    trained = game.trained
    assert torch.equal(game.player_utilities(masks.flip(0), "prob").flip(0), found["prob"]) and game.trained == trained
    again = game_of(ids, rows, labels, 3, learner)
    for part in (slice(3, 4), slice(0, 3), slice(0, 6)):
        assert torch.equal(again.player_utilities(masks[part], "prob"), found["prob"][part])
    assert again.trained == 6


def test_values_are_the_share_of_validation_examples_and_are_kept():
    rows, labels = world(50)
    game = RetrainingGame(
        Ids(range(30)), rows[:30], labels[:30], 3, parse("tree"), valuation=Valuation(HeldOutRows.alike(rows[30:], labels[30:]))
    )
    masks = coalitions(30)
    masks[0], masks[1] = False, True
    found = game.values(masks)
    assert game.trained == 6
    probs = game.predictions(masks)
    assert probs.shape == (6, 50, 3)
    for place in range(1, 6):
        assert float(found[place]) == float((probs[place, 30:].argmax(1) == labels[30:]).double().mean())
    # Of nothing, every class is equally probable.
    assert abs(float(found[0]) - 1 / 3) < 1e-12 and torch.equal(probs[0], torch.full((50, 3), 1 / 3, dtype=torch.float64))
    trained = game.trained
    assert torch.equal(game.values(masks.flip(0)), found.flip(0)) and game.trained == trained
    assert game.values(masks[:0]).shape == (0,)
    with pytest.raises(MissingEvidence, match="no held-out examples"):
        game_of(Ids(range(30)), rows[:30], labels[:30], 3, "tree").values(masks)


def test_nothing_is_asked_of_no_coalition():
    rows, labels = world()
    assert game_of(Ids(range(30)), rows, labels, 3, "ridge").predictions(coalitions(30)[:0]).shape == (0, 30, 3)


def test_a_value_is_the_same_to_the_bit_alone_among_others_and_by_any_threads():
    rows, labels = world(40_030)
    threads = torch.get_num_threads()

    def values(masks):
        valuation = Valuation(HeldOutRows.alike(rows[30:], labels[30:]), "prob")
        return RetrainingGame(Ids(range(30)), rows[:30], labels[:30], 3, parse("ridge"), valuation=valuation).values(masks)

    masks = coalitions(30)
    try:
        torch.set_num_threads(1)
        found = values(masks)
        torch.set_num_threads(2)
        assert torch.equal(values(masks), found)
        assert torch.equal(torch.cat([values(mask) for mask in masks.split(1)]), found)
    finally:
        torch.set_num_threads(threads)


@dataclasses.dataclass(frozen=True)
class Broken(AbstractLearner):
    """Ends as it is told to."""

    how: str
    name: ClassVar[str] = "broken"
    summary: ClassVar[str] = "fails"

    def train(self, rows, labels, classes, weights, seed):
        if self.how == "raises":
            raise ZeroDivisionError("nothing to divide by")
        probs = {"nan": [float("nan")] * 3, "more": [0.5, 0.5, 0.5], "less": [1.5, -0.5, 0.0], "short": [0.5, 0.5]}[self.how]
        return Constant(torch.tensor(probs[:classes] if classes < 3 else probs, dtype=torch.float64))


@pytest.mark.parametrize("how", ["raises", "nan", "more", "less", "short"])
def test_a_failure_is_an_error_that_names_the_coalition_and_never_a_value(how):
    rows, labels = world(50)
    game = RetrainingGame(
        Ids(range(30)), rows[:30], labels[:30], 3, Broken(how), valuation=Valuation(HeldOutRows.alike(rows[30:], labels[30:]))
    )
    for ask in (game.values, game.predictions):
        with pytest.raises(NumericalError, match="trained on 30 of 30 examples"):
            ask(torch.ones(1, 30, dtype=torch.bool))
    assert float(game.values(torch.zeros(1, 30, dtype=torch.bool))) == pytest.approx(1 / 3)


def test_coalitions_that_do_not_fit():
    rows, labels = world()
    game = game_of(Ids(range(30)), rows, labels, 3, "tree")
    for wrong in (torch.ones(30, dtype=torch.bool), torch.ones(2, 29, dtype=torch.bool), torch.ones(2, 30)):
        with pytest.raises((UsageError, TypeError), match=r"do not fit 30 players|shape|dtype"):
            game.predictions(wrong)
    with pytest.raises(UsageError, match="less than 0 times"):
        game.predictions(-torch.ones(1, 30, dtype=torch.int64))
    with pytest.raises(UsageError, match="do not fit rows"):
        game_of(Ids(range(29)), rows, labels, 3, "tree")
    with pytest.raises(UsageError, match="Held-out rows"):
        RetrainingGame(
            Ids(range(30)), rows, labels, 3, parse("tree"), valuation=Valuation(HeldOutRows.alike(rows[:, :2], labels))
        )


class Sent(Executor):
    """Runs calls as they arrive in another process."""

    def __init__(self):
        self.calls = 0

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        return InlineExecutor().submit(*pickle.loads(pickle.dumps((fn, *args))), **kwargs)


@pytest.mark.parametrize("learner", LEARNERS)
def test_an_executor_gives_the_same_bytes(learner, tmp_path, monkeypatch):
    monkeypatch.setattr(games, "CHUNKS", 3)
    rows, labels = world()
    ids, masks, pool = Ids(np.random.default_rng(0).permutation(500)[:30]), coalitions(30, 8), Sent()
    held = Valuation(HeldOutRows(rows[:9], labels[:9], torch.ones(9, dtype=torch.float64)), "accuracy")
    here, there = (game_of(ids, rows, labels, 3, learner, held, spread=one) for one in (None, games.Spread(pool, tmp_path)))
    assert torch.equal(there.predictions(masks), here.predictions(masks))
    assert torch.equal(there.values(masks), here.values(masks))
    assert torch.equal(there.player_utilities(masks, "prob"), here.player_utilities(masks, "prob"))
    assert (there.trained, there.remarks) == (here.trained, here.remarks)
    # Those that are trained side by side stay here.
    assert pool.calls == (0 if learner.startswith(("knn", "net")) else 9)


def test_a_learner_that_fails_elsewhere_is_a_failed_trial(tmp_path):
    rows, labels = world()
    game = game_of(
        Ids(range(30)),
        rows,
        labels,
        3,
        "sklearn.neighbors.KNeighborsClassifier:n_neighbors=29",
        spread=games.Spread(Sent(), tmp_path),
    )
    with pytest.raises(TrialFailed, match=r"coalitions-00 failed with NumericalError: .*trained on"):
        game.predictions(coalitions(30))
