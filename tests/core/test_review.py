import numpy as np
import pytest
import torch

from assay.core.decision import Action, Decision
from assay.core.errors import Mismatch, UsageError
from assay.core.ids import Ids
from assay.core.review import Mark, Review, decided, precision_of, sample_order, suspects_of

R, W, U = Mark.RIGHT, Mark.WRONG, Mark.UNSURE
CLASSES = ("cat", "dog", "fox")


def decision(dropped=20, n=40):
    """Drops the first, relabels the next one to fox, weights the one after."""
    actions = torch.full((n,), int(Action.KEEP))
    labels, weights = torch.full((n,), -1), torch.ones(n, dtype=torch.float64)
    actions[:dropped], weights[:dropped] = int(Action.DROP), 0.0
    actions[dropped], labels[dropped] = int(Action.RELABEL), 2
    actions[dropped + 1], weights[dropped + 1] = int(Action.WEIGHT), 0.5
    return Decision(Ids(range(100, 100 + n)), actions, labels, weights, ("why",) * n, "p", {}, "p by aum")


def review(marks, labels=None, **fields):
    ids = Ids(list(marks))
    named = torch.tensor([(labels or {}).get(id_, -1) for id_ in ids])
    return Review(ids, tuple(marks.values()), named, "data", **fields)


def test_marks_become_actions():
    base = decision()
    made = decided(review({100: W, 101: W, 102: R, 103: U, 139: W}, {101: 1}), base, CLASSES, "keep")
    assert made.counts() == {"drop": 2, "keep": 37, "relabel": 1}
    assert list(made.dropped_ids) == [100, 139] and int(made.labels[1]) == 1
    assert made.reasons[1] == "marked wrong by a reviewer, who names dog" and made.reasons[5] == "not reviewed"
    assert made.reasons[3] == "marked unsure by a reviewer" and made.title == "review of p by aum"
    assert made.lineage.parents["review"]


def test_the_rest_is_left_to_the_decision_where_that_is_asked():
    base = decision()
    made = decided(review({100: R, 120: R, 121: W, 130: W}), base, CLASSES, "decision")
    assert made.counts() == {"drop": 21, "keep": 19}
    assert list(made.dropped_ids) == [*range(101, 120), 121, 130]
    assert made.reasons[1] == "not reviewed; why" and made.title == "review and rest of p by aum"
    with pytest.raises(Mismatch, match="1 ids are not in the decision: 7"):
        decided(review({7: W}), base, CLASSES, "keep")


def test_a_random_sample_speaks_for_all_suspects():
    base = decision()
    suspects = suspects_of(base)
    assert len(suspects) == 22
    drawn = sample_order(suspects)
    assert set(drawn) == set(suspects) and drawn != suspects and sample_order(suspects) == drawn
    marks = dict(zip(list(drawn)[:5], (W, W, R, U, W), strict=True))
    found = precision_of(review(marks), suspects, suspects, "aum")
    assert (found.wrong, found.right, found.unsure, found.share) == (3, 1, 1, 0.75)
    assert found.sentence == (
        "Of 5 suspects drawn at random from 22, 3 of 4 labels are wrong (1 unsure, left out): 75.0 %; 95 % interval 19.4 to 99.4 %, for all 22 "
        "whose label a reviewer can tell."
    )


def test_marks_beside_a_random_sample_are_no_part_of_it():
    suspects = suspects_of(decision())
    drawn = list(sample_order(suspects))
    others = [id_ for id_ in suspects if id_ not in drawn[:6]][:3]
    marks = {**dict.fromkeys(drawn[:6], R), **dict.fromkeys(others, W)}
    found = precision_of(review(marks), suspects, suspects, "aum")
    assert (found.wrong, found.right) == (0, 6) and found.population == "6 suspects drawn at random from 22"
    few = precision_of(review({drawn[0]: R, **dict.fromkeys(others, W)}), suspects, suspects.take(np.arange(22)[::-1]), "aum")
    assert (few.wrong, few.right) == (3, 1) and "only if these were picked at random" in few.about


def test_the_order_of_the_sample_does_not_depend_on_the_order_of_ids():
    ids = Ids(range(50))
    assert list(sample_order(ids)) == list(sample_order(ids.take(np.arange(50)[::-1])))
    places = np.array([list(sample_order(Ids(range(start, start + 10)))).index(start) for start in range(0, 4000, 10)])
    assert abs(places.mean() - 4.5) < 4 * 2.87 / 20, "the first id is drawn no earlier than others"


def test_the_first_of_a_ranking_speak_for_themselves():
    base = decision()
    suspects = suspects_of(base)
    found = precision_of(review({id_: W for id_ in range(100, 110)}), suspects, suspects, "aum")
    assert (
        found.population == "the first 10 of 22 suspects by aum" and "says nothing of the suspects further down" in found.sentence
    )
    assert found.low == pytest.approx(0.025 ** (1 / 10)) and found.high == 1
    some = precision_of(review({101: W, 105: R, 139: W}), suspects, suspects, "aum")
    assert some.population == "the 2 suspects reviewed, of 22", "139 is no suspect"
    assert "only if these were picked at random" in some.about


def test_all_that_were_seen_need_no_interval():
    base = decision()
    suspects = suspects_of(base)
    found = precision_of(review({id_: W if id_ < 111 else R for id_ in suspects}), suspects)
    assert found.low is None and found.sentence == (
        "Of all 22 suspects, 11 of 22 labels are wrong: 50.0 %; all were looked at, so that nothing is left to estimate."
    )


def test_nothing_told_apart_is_no_share():
    base = decision()
    assert precision_of(review({100: U, 139: W}), suspects_of(base)) is None
    assert precision_of(review({100: W}), Ids([])) is None


def test_marks_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="1 examples have a new label but are not marked wrong: 3"):
        review({3: R}, {3: 1})
    with pytest.raises(UsageError, match="one mark and one label"):
        Review(Ids([1]), (), torch.tensor([-1]), "data")


def test_the_fingerprint_tells_marks_apart():
    one = review({1: W, 2: R})
    assert one.fingerprint == review({1: W, 2: R}).fingerprint
    assert (
        len(
            {
                one.fingerprint,
                review({1: R, 2: W}).fingerprint,
                review({1: W, 2: R}, {1: 0}).fingerprint,
                review({1: W, 3: R}).fingerprint,
            }
        )
        == 4
    )


def test_the_names_of_the_classes_stay_with_what_was_reviewed():
    made = decided(review({100: W}, {100: 1}), decision(), CLASSES, "keep")
    assert made.class_names == CLASSES
    assert made.to_numpy()["new_class"][0] == "dog"
