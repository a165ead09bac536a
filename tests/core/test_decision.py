import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from assay.core.decision import Action, Decision
from assay.core.errors import Mismatch, UsageError
from assay.core.ids import Ids


def decision(actions=(0, 1, 2, 3), labels=(-1, -1, 2, -1), weights=(0.0, 1.0, 1.0, 0.5), reasons=("w", "x", "y", "z")):
    return Decision(
        Ids(["a", "b", "c", "d"]),
        torch.tensor(actions),
        torch.tensor(labels),
        torch.tensor(weights, dtype=torch.float64),
        tuple(reasons),
        "made",
        {},
        "made by hand",
    )


def test_what_is_kept_and_touched():
    made = decision()
    assert made.kept.tolist() == [False, True, True, True] and made.touched.tolist() == [True, False, True, True]
    assert made.budget == 3 and len(made) == 4
    assert list(made.kept_ids) == ["b", "c", "d"] and list(made.dropped_ids) == ["a"]
    assert made.counts() == {"drop": 1, "keep": 1, "relabel": 1, "weight": 1}
    assert decision((1, 1, 1, 1), (-1,) * 4, (1.0,) * 4).counts() == {"keep": 4}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": (0.5, 1.0, 1.0, 0.5)}, r"Example a: action DROP does not go with label -1 and weight 0\.5"),
        ({"weights": (0.0, 0.0, 1.0, 0.5)}, r"Example b: action KEEP .* weight 0\.0"),
        ({"weights": (0.0, 0.7, 1.0, 0.5)}, r"Example b: action KEEP .* weight 0\.7"),
        ({"weights": (0.0, 1.0, 1.0, -0.5)}, r"Example d: action WEIGHT .* weight -0\.5"),
        ({"weights": (0.0, 1.0, 1.0, float("nan"))}, "Example d: action WEIGHT .* weight nan"),
        ({"weights": (0.0, 1.0, 1.0, float("inf"))}, "Example d: action WEIGHT .* weight inf"),
        ({"labels": (-1, -1, -1, -1)}, "Example c: action RELABEL does not go with label -1"),
        ({"labels": (-1, 3, 2, -1)}, "Example b: action KEEP does not go with label 3"),
        ({"labels": (-1, -2, 2, -1)}, "Example b: action KEEP does not go with label -2"),
        ({"actions": (0, 1, 2, 7)}, "Example d: action 7 does not go with"),
        ({"actions": (0, 1, 2, -1)}, "Example d: action -1 does not go with"),
        ({"reasons": ("w",)}, "needs one action, label, weight and reason for each"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(given, words):
    with pytest.raises(UsageError, match=words):
        decision(**given)


def test_the_fingerprint_is_of_what_is_done():
    assert decision().fingerprint == decision(reasons=("other",) * 4).fingerprint
    assert decision().fingerprint != decision(weights=(0.0, 1.0, 1.0, 0.25)).fingerprint
    assert decision().fingerprint != decision(labels=(-1, -1, 1, -1)).fingerprint


def test_an_order_is_of_the_kept_examples_and_goes_with_them():
    made = dataclasses.replace(decision(), order=Ids(["d", "b", "c"]))
    assert list(made.order) == ["d", "b", "c"] and made.fingerprint == decision().fingerprint
    changed = dataclasses.replace(
        made, actions=torch.tensor([0, 0, 2, 3]), weights=torch.tensor([0.0, 0, 1, 0.5], dtype=torch.float64)
    )
    assert changed.order is None and changed.budget == 2
    with pytest.raises(Mismatch, match="not in the decision: e"):
        dataclasses.replace(made, order=Ids(["d", "b", "e"]))


def test_the_stored_numbers_stay():
    assert {action.name: int(action) for action in Action} == {"DROP": 0, "KEEP": 1, "RELABEL": 2, "WEIGHT": 3}


def test_what_is_kept_goes_into_a_subset_of_the_dataset():
    dataset = TensorDataset(10 * torch.arange(6))
    actions, weights = torch.tensor([1, 0, 1, 1, 0, 1]), torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)
    kept = [0, 20, 30, 50]
    for ids in (Ids(range(6)), Ids(list("abcdef"))):
        made = Decision(ids, actions, torch.full((6,), -1), weights, ("",) * 6, "made", {}, "made by hand")
        assert made.kept_positions.dtype == torch.int64
        assert [int(row[0]) for row in Subset(dataset, made.kept_positions)] == kept
        assert [int(row) for (rows,) in DataLoader(Subset(dataset, made.kept_positions), batch_size=3) for row in rows] == kept
        assert np.arange(0, 60, 10)[made.kept_positions].tolist() == kept
    default = Decision(Ids(range(6)), actions, torch.full((6,), -1), weights, ("",) * 6, "made", {}, "made by hand").kept_ids
    assert [int(row) for (rows,) in DataLoader(Subset(dataset, default), batch_size=3) for row in rows] == kept
    assert np.arange(0, 60, 10)[default].tolist() == kept and torch.tensor(default).tolist() == [0, 2, 3, 5]


def test_a_decision_on_many_is_printed_in_a_line():
    n = 20_000
    actions = (torch.arange(n) % 10 > 0).long()
    made = Decision(Ids(range(n)), actions, torch.full((n,), -1), actions.double(), ("why " * 9,) * n, "made", {}, "made by hand")
    assert repr(made) == "Decision(made by hand: drop 2,000, keep 18,000 of 20,000 examples)"
