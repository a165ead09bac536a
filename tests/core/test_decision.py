import pytest
import torch

from assay.core.decision import Action, Decision
from assay.core.errors import UsageError
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


def test_the_stored_numbers_stay():
    assert {action.name: int(action) for action in Action} == {"DROP": 0, "KEEP": 1, "RELABEL": 2, "WEIGHT": 3}
