"""What games will cost: the trainings that are counted without training are those of the game itself; seconds only by what they are multiplied with."""

import pytest
import torch

import assay
from assay.core.errors import UsageError
from assay.experiments import game_costs
from assay.experiments.game_costs import CountedGame, _grown, estimate_games
from assay.experiments.games import GamesBy, game_of
from assay.experiments.request import Request
from assay.experiments.score import served
from assay.learners import parse as parse_learner
from assay.methods import parse
from assay.runs.coalitions import record_size
from experiments.small import recorded
from groups import slow

EXACT = [
    "data_oob:bags=5,learner=tree",
    "banzhaf:subsets=40,learner=ridge",
    *slow(
        "data_oob:bags=40,learner=knn",
        "least_core:subsets=20,learner=ridge",
        "learner_loo:learner=ridge",
        "classwise_shapley:samples=2,learner=ridge",
    ),
]
"""Coalitions, each named once."""
ORDERS = ["shapley:permutations=2,learner=ridge", "beta_shapley:permutations=3,learner=knn"]
"""Orders, along which learners grow."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("costs") / "run", validation=0.8, record={"checkpoints": "last"})


def played(run, spec):
    """How many trainings the game itself takes."""
    made = []

    def kept(*given):
        made.append(game_of(*given))
        return made[-1]

    served(run, [spec], Request(execution=GamesBy(maker=kept)), joined=False)
    return sum(one.trained for one in made)


@pytest.mark.parametrize("spec", EXACT)
def test_trainings_are_those_of_the_game(spec, run):
    (cost,) = estimate_games(run, spec)
    assert (cost.what, cost.trainings, cost.steps) == (parse(spec).title, played(run, spec), 1)
    assert cost.seconds_per_step > 0 and cost.seconds() == cost.trainings * cost.seconds_per_step


@pytest.mark.parametrize("spec", ORDERS)
def test_orders_take_a_training_for_each_example(spec, run):
    (cost,) = estimate_games(run, spec)
    # The game values no examples at all besides.
    assert played(run, spec) - 1 == cost.trainings == len(run.ids) * int(spec.partition("permutations=")[2][0])
    assert cost.bytes == cost.trainings * record_size(1) and not cost.apart


def test_options_that_stop_a_game_early_leave_it_at_most_as_long(run):
    spec = "shapley:permutations=4,learner=tree,truncate=0.3"
    (cost,) = estimate_games(run, spec)
    assert cost.what == parse(spec).title and played(run, spec) < cost.trainings == 4 * len(run.ids)
    assert cost.apart and cost.seconds(2) == pytest.approx(cost.seconds() / 2, rel=0.01)


def test_values_on_disk_take_the_bytes_that_were_said(run, tmp_path):
    spec = "banzhaf:subsets=6,learner=ridge"
    (cost,) = estimate_games(run, spec)
    assay.score(run, spec, save=True)
    assert sum(path.stat().st_size for path in (run.folder / "games").rglob("*") if path.is_file()) == cost.bytes


class Slow:
    """Grows in a time that is its size, by a clock of its own."""

    def __init__(self, monkeypatch):
        self.now, self.size = 0.0, 0
        monkeypatch.setattr(game_costs.time, "perf_counter", lambda: self.now)

    def add(self, places):
        self.size += 1

    def predict_probs(self):
        self.now += self.size


def test_what_grows_is_measured_at_a_few_sizes(monkeypatch):
    monkeypatch.setattr(game_costs, "LONG", 1000.0)
    # At 10, 30, 50, 70 and 90 of 100 examples, each once more with one more.
    assert _grown(Slow(monkeypatch), torch.zeros(3, 100, dtype=torch.int64)) == 51
    monkeypatch.setattr(game_costs, "LONG", 70.0)
    assert _grown(Slow(monkeypatch), torch.zeros(3, 100, dtype=torch.int64)) == pytest.approx((11 + 4 * 31) / 5)
    monkeypatch.setattr(game_costs, "LONG", -1.0)
    assert _grown(Slow(monkeypatch), torch.zeros(3, 100, dtype=torch.int64)) == 2


def test_games_longer_than_a_few_seconds_are_measured_in_part(run, monkeypatch):
    monkeypatch.setattr(game_costs, "LONG", 0.0)
    (orders,) = estimate_games(run, "shapley:permutations=2,learner=ridge")
    (coalitions,) = estimate_games(run, "banzhaf:subsets=20,learner=ridge")
    assert orders.seconds_per_step > 0 and coalitions.seconds_per_step > 0


def test_nothing_is_trained_while_it_is_counted(run):
    made = []

    def kept(*given):
        ids, rows, labels, classes, learner, valuation = given
        made.append(CountedGame(ids, rows, labels, classes, parse_learner(learner), valuation))
        return made[-1]

    ((_, scores),) = served(run, ["banzhaf:subsets=20,learner=ridge"], Request(execution=GamesBy(maker=kept)), joined=False)[
        0
    ].items()
    assert made[0].trained == 0 and torch.equal(scores.values, torch.zeros(len(run.ids), dtype=torch.float64))


def test_what_trains_no_learner_is_refused(run):
    with pytest.raises(UsageError, match=r"aum trains no learner on parts of the examples.* these do: banzhaf, .*shapley"):
        estimate_games(run, ["data_oob:bags=2", "aum"])
    with pytest.raises(UsageError, match="is made of other methods; name those that train a learner: data_oob:bags=2"):
        estimate_games(run, "combine:methods=data_oob;bags=2+aum")


def test_as_many_are_measured_together_as_the_game_trains_together(run, monkeypatch):
    together = []
    inner = CountedGame._probs

    def seen(self, coalitions, rows, alike=False):
        together.append(len(coalitions))
        return inner(self, coalitions, rows, alike)

    monkeypatch.setattr(CountedGame, "_probs", seen)
    (cost,) = estimate_games(run, "shapley:permutations=2,learner=net:steps=2")
    assert together[-5:] == [2] * 5 and not cost.apart
