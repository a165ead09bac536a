"""KNN-Shapley: against every coalition of a few examples, at ties, and as values per query."""

import itertools
import math
import pathlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import assay
from assay.core.errors import Mismatch, MissingEvidence, UsageError
from assay.core.ids import Ids
from assay.core.scoring import score
from assay.methods import parse
from assay.methods.knn_shapley import knn_shapley
from experiments.small import recorded
from methods.loops import World

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
VARIANTS = [{}, {"target": "others", "features": "inputs", "k": 3, "form": "weighted", "metric": "cosine"}]
"""Options that the laws run it with."""
REFUSED = [
    "k=0",
    "k=1.5",
    "form=hard",
    "metric=manhattan",
    "radius=0.5",
    "form=threshold",
    "radius=0,form=threshold",
    "radius=inf,form=threshold",
    "k=3,form=threshold,radius=0.5",
    "target=",
    "features=pictures",
    "reduce=max,target=others",
]
"""Options that are refused."""
FORMS = [("plain", None), ("weighted", None), ("soft", None), ("threshold", 1.5)]


def PAIRS(method, evidence):
    """Every pair by the game of its query alone, from the definition."""
    rows, asked = evidence.features(method.features).rows(), evidence.held_out(method.target, method.features)
    labels, found = evidence.labels, []
    for query, label in zip(asked.rows, asked.labels, strict=True):
        order = (rows - query).square().sum(1).argsort().tolist()
        right = [float(labels[one] == label) for one in order]
        values = [right[-1] / max(method.k, len(order))]
        for place in range(len(order) - 1, 0, -1):
            values.append(values[-1] + (right[place - 1] - right[place]) / method.k * min(method.k, place) / place)
        found.append(
            torch.empty(len(order), dtype=torch.float64).index_put_(
                (torch.tensor(order),), torch.tensor(values[::-1], dtype=torch.float64)
            )
        )
    return torch.stack(found)


def utility(coalition, distances, right, k, form, radius, classes):
    """What a coalition is worth to a query; of players at one distance, each order counts equally."""
    if form == "threshold":
        near = [right[one] for one in coalition if distances[one] <= radius]
        return sum(near) / len(near) if near else 1 / classes
    unit = sorted(distances)[min(k, len(distances)) - 1]

    def weight(one):
        square = 1.0 if form != "weighted" else unit**2
        return 1.0 if form != "weighted" else math.exp(-(distances[one] ** 2) / square) if square else float(distances[one] == 0)

    levels, left, votes = sorted({distances[one] for one in coalition}), k, 0.0
    for level in levels:
        here = [one for one in coalition if distances[one] == level]
        taken = min(left, len(here))
        votes += taken * sum(weight(one) * right[one] for one in here) / len(here)
        left -= taken
    if form != "soft":
        return votes / k
    return votes / min(k, len(coalition)) if coalition else 1 / classes


def by_coalitions(distances, right, k, form, radius=None, classes=2):
    players = range(len(distances))
    values = []
    for player in players:
        others, total = [one for one in players if one != player], 0.0
        for size in range(len(others) + 1):
            for chosen in itertools.combinations(others, size):
                gain = utility((*chosen, player), distances, right, k, form, radius, classes) - utility(
                    chosen, distances, right, k, form, radius, classes
                )
                total += gain / math.comb(len(others), size) / len(distances)
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("form", "radius"), FORMS)
def test_it_is_the_shapley_value_of_its_game(form, radius, ties):
    draw = np.random.default_rng(7)
    for players in (1, 2, 3, 4, 4, 5, 5, 5, 5, 6):
        distances = draw.integers(0, 4, players).astype(float) if ties else draw.random(players) * 3
        labels, k = torch.from_numpy(draw.integers(1, 3, players)), 5 if form == "threshold" else int(draw.integers(1, 8))
        rows = torch.from_numpy(distances)[:, None]
        found = knn_shapley(rows, labels, torch.zeros(1, 1).double(), torch.tensor([2]), k, form, "euclidean", radius)
        expected = by_coalitions(distances.tolist(), (labels == 2).double().tolist(), k, form, radius, classes=3)
        torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("form", "radius"), FORMS)
def test_a_row_adds_up_to_what_all_examples_reach(form, radius):
    draw = torch.Generator().manual_seed(0)
    rows, queries = (torch.randn(n, 2, generator=draw, dtype=torch.float64) for n in (40, 9))
    labels, asked = (torch.randint(3, (n,), generator=draw) for n in (40, 9))
    found = knn_shapley(rows, labels, queries, asked, 5, form, "euclidean", radius)
    for row, query, label in zip(found, queries, asked, strict=True):
        distances = (rows - query).norm(dim=1).tolist()
        whole = utility(range(40), distances, (labels == label).double().tolist(), 5, form, radius, 3)
        nothing = 1 / 3 if form in ("soft", "threshold") else 0.0
        assert float(row.sum()) == pytest.approx(whole - nothing, abs=1e-12)


def test_without_validation_each_example_asks_all_others():
    draw = torch.Generator().manual_seed(1)
    rows, labels = torch.randn(30, 3, generator=draw, dtype=torch.float64), torch.arange(30) % 3
    evidence = assay.gather_inputs(Ids(range(30)), rows, labels)
    for form, radius in FORMS:
        text = f"knn_shapley:target=others,features=inputs,form={form}" + (f",radius={radius}" if radius else "")
        (found,) = score([parse(text)], evidence)
        expected = torch.zeros(30, dtype=torch.float64)
        for one in range(30):
            rest = [other for other in range(30) if other != one]
            expected[rest] += knn_shapley(rows[rest], labels[rest], rows[[one]], labels[[one]], 5, form, "euclidean", radius)[0]
        torch.testing.assert_close(found.values, expected / 29, rtol=1e-9, atol=1e-12)
    with pytest.raises(UsageError, match="there is one example, and no other"):
        score([parse("knn_shapley:target=others,features=inputs")], assay.gather_inputs(Ids([3]), rows[:1], labels[:1]))


def test_the_size_of_blocks_and_the_scale_of_rows_change_nothing():
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(50, 4, generator=draw, dtype=torch.float64), torch.arange(50) % 4
    given = rows[:40], labels[:40], rows[40:], labels[40:]
    expected = knn_shapley(*given)
    for size in (1e-200, 1e200):
        torch.testing.assert_close(
            knn_shapley(rows[:40] * size, given[1], rows[40:] * size, given[3]), expected, rtol=1e-9, atol=1e-12
        )
    with pytest.raises(ValueError, match="must be finite"):
        knn_shapley(rows[:40], labels[:40], rows[40:] / 0, labels[40:])


def test_of_a_run_with_validation_examples_per_query_and_on_average(tmp_path):
    run = recorded(tmp_path / "run", validation=0.2)
    given = {"features": "inputs", "k": 3}
    title = "knn_shapley:features=inputs,k=3"
    (found,) = assay.score(run, title).values()
    plan = assay.experiments.plan.plan_of(run)
    loaded = assay.experiments.plan.load_data(plan)
    held = loaded.validation
    expected = knn_shapley(loaded.train.plain(), loaded.train.labels, held.plain(), held.labels, given["k"])
    torch.testing.assert_close(found.values, expected.mean(0), rtol=1e-9, atol=1e-12)
    made = assay.attribute(run, title)
    assert made.queries == held.ids
    torch.testing.assert_close(made.row(held.ids[2]), expected[2], rtol=1e-9, atol=1e-12)
    with pytest.raises(UsageError, match="values per query give a target"):
        assay.attribute(run, "knn_shapley:target=others")


def test_of_a_users_own_loop_the_features_of_queries_are_the_kept_models(tmp_path):
    world = World(tmp_path / "run")
    params, inputs, asked = world.run.model(2), world.held_out, world.held_labels
    hidden, queries = (torch.tanh(one @ params["hidden.weight"].T + params["hidden.bias"]) for one in (world.inputs, inputs))
    (found,) = world.score("knn_shapley:k=4").values()
    torch.testing.assert_close(found.values, knn_shapley(hidden, world.labels, queries, asked, 4).mean(0), rtol=0, atol=1e-12)
    targets = {"validation": (inputs, asked)}
    (plain,) = assay.score(world.run, "knn_shapley:k=4,features=inputs", loop=world.loop(), targets=targets).values()
    torch.testing.assert_close(
        plain.values, knn_shapley(world.inputs, world.labels, inputs, asked, 4).mean(0), rtol=0, atol=1e-12
    )


def test_of_rows_in_memory_and_of_rows_that_a_user_gives():
    draw = torch.Generator().manual_seed(2)
    rows, queries = (torch.randn(n, 3, generator=draw, dtype=torch.float64) for n in (20, 6))
    labels, asked = torch.arange(20) % 2, torch.arange(6) % 2
    evidence = assay.gather_inputs(Ids(range(20)), rows, labels, {"validation": (queries, asked)})
    expected = knn_shapley(rows, labels, queries, asked).mean(0)
    (found,) = assay.score(evidence, "knn_shapley:features=inputs").values()
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-15)
    with pytest.raises(MissingEvidence, match="knn_shapley:features=inputs needs held_out"):
        assay.score(assay.gather_inputs(Ids(range(20)), rows, labels), "knn_shapley:features=inputs")


def test_of_a_run_by_rows_that_a_user_gives(tmp_path):
    run = recorded(tmp_path / "run", validation=0.2, record={"checkpoints": "none"})
    plan = assay.experiments.plan.plan_of(run)
    loaded = assay.experiments.plan.load_data(plan)
    held, named = loaded.validation, "knn_shapley:features=rows:own"
    rows = {"own": loaded.train.plain().flatten(1)[:, ::3], "own@validation": held.plain().flatten(1)[:, ::3]}
    (found,) = assay.score(run, named, inputs=rows).values()
    expected = knn_shapley(rows["own"], loaded.train.labels, rows["own@validation"], held.labels)
    torch.testing.assert_close(found.values, expected.mean(0), rtol=1e-9, atol=1e-12)
    with pytest.raises(UsageError, match="rows named 'own', which are given to scores and not to attributions"):
        assay.attribute(run, named)


def test_rows_that_are_all_equal_are_all_neighbours():
    found = knn_shapley(
        torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(1, 3), torch.tensor([1]), form="threshold", radius=1.0
    )
    assert found.tolist() == [[-0.5, 0.5]]


def test_queries_of_another_shape_are_refused(tmp_path):
    world = World(tmp_path / "run")
    with pytest.raises(
        Mismatch, match="features=inputs are 3 numbers of an example and 2 of a query of target 'validation'; give"
    ):
        targets = {"validation": (world.held_out[:, :2], world.held_labels)}
        assay.score(world.run, "knn_shapley:features=inputs", loop=world.loop(), targets=targets, strict=True)


def test_it_is_what_pydvl_gives():
    """pyDVL 0.10.0 on 300 of scikit-learn's digits and 60 queries, moved a little so that no two distances are equal."""
    inputs, labels = load_digits(return_X_y=True)
    rows = torch.from_numpy(inputs + np.random.default_rng(0).normal(scale=1e-3, size=inputs.shape))
    labels = torch.from_numpy(labels)
    stored = np.load(GOLDEN / "knn_shapley.npz")
    for k in (1, 5, 50):
        found = knn_shapley(rows[:300], labels[:300], rows[300:360], labels[300:360], k).mean(0)
        torch.testing.assert_close(found, torch.from_numpy(stored[f"k{k}"]), rtol=1e-6, atol=1e-9)
