import math

import pytest
import torch

from assay.core.decision import Action
from assay.core.errors import MissingEvidence, UsageError
from assay.core.scores import Direction
from assay.core.selection import choose
from assay.policies.relabel import Relabel
from policies.worlds import run, scores

VARIANTS = [{"count": 20}, {"fraction": 0.2}]
REFUSED = ["count=-1", "fraction=2"]

PROBS = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.4, 0.2, 0.4], [0.1, 0.1, 0.8]], dtype=torch.float64)
LABELS = [1, 1, 1, 0]


def decide(policy, values, direction=Direction.HIGH_IS_SUSPECT, ids=(4, 3, 2, 1)):
    made = scores(values, direction, list(ids))
    return choose(policy, made, run(list(ids), labels=LABELS, mean_probs=PROBS))


def test_the_most_suspect_get_the_mean_prediction():
    decision = decide(Relabel(count=3), [9.0, 8.0, 7.0, 1.0])
    assert decision.budget == 4
    assert decision.actions.tolist() == [Action.RELABEL, Action.KEEP, Action.RELABEL, Action.KEEP]
    assert decision.labels.tolist() == [0, -1, 0, -1]
    assert decision.weights.tolist() == [1.0] * 4
    assert decision.reasons == (
        "among the 3 most suspect by made: class 1 becomes 0, the mean prediction",
        "among the 3 most suspect by made, but the model's mean prediction is its given label: left as it is",
        "among the 3 most suspect by made: class 1 becomes 0, the mean prediction",
        "not among the 3 most suspect by made",
    )


def test_low_can_be_suspect_and_a_fraction_counts():
    decision = decide(Relabel(fraction=0.5), [9.0, 8.0, 7.0, 1.0], Direction.LOW_IS_SUSPECT)
    assert decision.labels.tolist() == [-1, -1, 0, 2]


def test_ties_by_id():
    assert decide(Relabel(count=1), [1.0] * 4).labels.tolist() == [-1, -1, -1, 2]


def test_none_at_all():
    assert not decide(Relabel(count=0), [1.0] * 4).touched.any()
    assert not decide(Relabel(fraction=0.0), [1.0] * 4).touched.any()


def test_refusals():
    with pytest.raises(UsageError, match="count=5 is more than the 4 examples"):
        decide(Relabel(count=5), [1.0] * 4)
    with pytest.raises(UsageError, match="ranks difficulty"):
        decide(Relabel(count=1), [1.0] * 4, Direction.HIGH_IS_HARD)
    made = scores([1.0] * 4, Direction.HIGH_IS_SUSPECT)
    with pytest.raises(MissingEvidence, match="mean_probs"):
        choose(Relabel(count=1), made, run(made.ids, labels=LABELS))
    for given in ({}, {"count": 1, "fraction": 0.1}, {"count": -1}, {"fraction": 1.1}, {"fraction": math.nan}):
        with pytest.raises(UsageError, match=r"count|fraction"):
            Relabel(**given)


def test_reasons_use_the_names_of_the_classes():
    made = scores([9.0, 8.0, 7.0, 1.0], Direction.HIGH_IS_SUSPECT, [4, 3, 2, 1])
    evidence = run([4, 3, 2, 1], labels=LABELS, mean_probs=PROBS)
    decision = choose(Relabel(count=1), made, evidence, ("ant", "bee", "cat"))
    assert decision.reasons[0] == "among the 1 most suspect by made: class bee becomes ant, the mean prediction"
