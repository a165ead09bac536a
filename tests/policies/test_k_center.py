import numpy as np
import pytest
import torch

from assay.core.errors import MissingEvidence, UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.selection import choose
from assay.maths.coverage import farthest_first
from assay.policies import parse
from assay.policies.k_center import KCenter
from policies.worlds import scores

VARIANTS = [{}, {"by_class": True}, {"features": "rows:other"}]
REFUSED = ["keep=-0.1", "keep=1.5", "keep=-1", "features=losses,keep=0.1", "features=rows:,keep=0.1"]


def evidence(rows, labels=None, ids=None, **more):
    rows = torch.as_tensor(rows, dtype=torch.float32)
    labels = None if labels is None else torch.as_tensor(labels)
    return Evidence(Ids(range(len(rows)) if ids is None else ids), 3, labels=labels, inputs={"": rows, **more})


LINE = [[0.0], [1.0], [2.0], [10.0]]


def test_by_hand():
    # The mean is 3.25: the third is nearest; 8 away from it is the last, then 2 away the first.
    decision = choose(KCenter(3), None, evidence(LINE, ids=[7, 5, 9, 3]))
    assert list(decision.order) == [9, 3, 7] and sorted(decision.kept_ids) == [3, 7, 9]
    assert decision.title == "k_center:keep=3" and decision.options == {"keep": 3, "features": "inputs", "by_class": False}
    assert decision.reasons == (
        "center 3 in inputs, 2 from the nearest one before it",
        "no center in inputs: at most 1 from the nearest one",
        "center 1 in inputs, nearest to the mean",
        "center 2 in inputs, 8 from the nearest one before it",
    )


def test_a_whole_number_is_a_count_and_one_with_a_point_a_fraction():
    rows = np.random.default_rng(0).normal(size=(40, 3))
    for keep, budget in (("1", 1), ("1.0", 40), ("40", 40), ("0.25", 10), ("0", 0), ("0.0", 0)):
        assert choose(parse(f"k_center:keep={keep}"), None, evidence(rows)).budget == budget
    with pytest.raises(UsageError, match=r"keep=41 is outside 0\.\.40; a whole number is how many"):
        choose(KCenter(41), None, evidence(rows))


@pytest.mark.parametrize("options", [*REFUSED, "features=inputs"])
def test_options_outside_their_range_are_refused(options):
    with pytest.raises(UsageError):
        parse(f"k_center:{options}")


def test_rows_from_outside_are_looked_at_by_name():
    other = torch.tensor([[0.0, 5], [0, 0], [9, 9], [0, 1]])
    decision = choose(KCenter(2, features="rows:emb"), None, evidence(LINE, emb=other))
    order, _ = farthest_first(other, 2, torch.arange(4))
    assert list(decision.order) == order.tolist() != list(choose(KCenter(2), None, evidence(LINE)).order)
    with pytest.raises(MissingEvidence, match="'nobody' were not passed"):
        choose(KCenter(2, features="rows:nobody"), None, evidence(LINE))


def test_classes_are_covered_by_themselves_in_proportion():
    draw = np.random.default_rng(2)
    labels = draw.permutation(np.repeat([0, 1, 2], [30, 20, 10]))
    made = evidence(draw.normal(size=(60, 4)), labels)
    decision = choose(KCenter(0.2, by_class=True), None, made, ["ant", "bee", "cat"])
    assert torch.bincount(made.labels[decision.kept]).tolist() == [6, 4, 2]
    for label in range(3):
        members = (made.labels == label).nonzero().flatten()
        order, _ = farthest_first(made.features("inputs").rows()[members], len(members), members)
        taken = [position for position in decision.order if int(made.labels[position]) == label]
        assert taken == members[order][: len(taken)].tolist()
    assert sum("of class bee" in reason for reason in decision.reasons) == 4
    assert any(reason.endswith("from the nearest one of its class") for reason in decision.reasons)


def test_a_class_without_a_center_is_near_to_none():
    decision = choose(KCenter(1, by_class=True), None, evidence(LINE, [0, 0, 0, 1]))
    assert decision.budget == 1 and decision.reasons[3] == "no center in inputs"


def test_examples_that_are_equal_are_taken_once_each():
    decision = choose(KCenter(1.0), None, evidence(np.zeros((5, 2)), ids=[4, 2, 9, 1, 3]))
    assert list(decision.order) == [1, 2, 3, 4, 9]


def test_a_score_has_no_say_and_a_run_is_needed():
    with pytest.raises(UsageError, match=r"reads no score, so that made would not be used; .*choose\(RUN, 'k_center:keep=2'\)"):
        choose(KCenter(2), scores([1.0, 2, 3, 4]), evidence(LINE))
    with pytest.raises(UsageError, match="neither scores nor a run"):
        choose(KCenter(2))
    with pytest.raises(MissingEvidence, match="k_center:keep=2 needs features"):
        choose(KCenter(2), None, Evidence(Ids(range(4)), 2))


def test_distances_that_overflow_are_refused_with_the_policy():
    with pytest.raises(UsageError, match="k_center:keep=2: Distances are not finite"):
        choose(KCenter(2), None, evidence([[0.0], [1e30]]))
