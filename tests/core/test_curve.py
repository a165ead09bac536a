import dataclasses

import pytest

from assay.core.curve import NONE, RANDOM, WORST, Curve, Removal, best_count
from assay.core.errors import UsageError


def removal(arm, count, loss=0.5, accuracy=0.8, seed=0, test_accuracy=0.7):
    return Removal(arm, count, seed, accuracy, loss, test_accuracy, 0.6, 1.5)


def curve(best=3, by="loss", losses=(0.5, 0.45, 0.4, 0.42), accuracies=(0.8, 0.8, 0.85, 0.9)):
    made = []
    for count, loss, right in zip((0, 1, 3, 10), losses, accuracies, strict=True):
        made.append(removal(WORST if count else NONE, count, loss, right))
        made += [removal(RANDOM, count, 0.6, 0.7 + seed / 100, seed, 0.5 + seed / 50) for seed in (2, 1) if count]
    return Curve("aum", "last", tuple(made), best, by)


def test_the_parts_of_a_curve():
    made = curve()
    assert made.counts == (1, 3, 10) and made.none.validation_loss == 0.5
    assert made.worst(3).validation_loss == 0.4 and made.worst(0) is made.none
    assert [one.seed for one in made.random(3)] == [1, 2] and made.random(0) == ()
    with pytest.raises(UsageError, match="has no count 4; it has 1, 3, 10"):
        made.worst(4)


@pytest.mark.parametrize(
    ("losses", "accuracies", "by", "best"),
    [
        ((0.5, 0.45, 0.4, 0.42), (0.8,) * 4, "loss", 3),
        ((0.5, 0.45, 0.4, 0.42), (0.8, 0.8, 0.85, 0.9), "accuracy", 10),
        ((0.4, 0.45, 0.5, 0.42), (0.8,) * 4, "loss", 0),
        ((0.5, 0.4, 0.4, 0.4), (0.8,) * 4, "loss", 1),
        ((0.5, 0.4, 0.4, 0.4), (0.8,) * 4, "accuracy", 0),
        ((0.5, 0.4, 0.3, 0.2), (0.8, 0.9, 0.9, 0.8), "accuracy", 1),
    ],
)
def test_the_best_count_is_the_smallest_of_the_best_on_validation_data(losses, accuracies, by, best):
    removals = curve(losses=losses, accuracies=accuracies).removals
    assert best_count(removals, by) == best
    absurd = [dataclasses.replace(one, test_accuracy=one.count / 10, test_loss=-float(one.count)) for one in removals]
    assert best_count(absurd, by) == best_count(absurd[::-1], by) == best


def test_a_lucky_random_removal_is_no_choice():
    lucky = [dataclasses.replace(one, validation_loss=0.0) if one.arm == RANDOM else one for one in curve().removals]
    assert best_count(lucky, "loss") == 3


def test_the_choice_in_words():
    assert curve().sentence == (
        "By validation loss the best count is 3: 0.4000, against 0.5000 with nothing removed and 0.6000 with as many random examples "
        "removed. Test accuracy: 70.00 %, 70.00 % and 53.00 %."
    )
    unlucky = [dataclasses.replace(one, test_accuracy=0.65) if one.arm == WORST else one for one in curve().removals]
    misled = dataclasses.replace(curve(), removals=tuple(unlucky))
    assert misled.misled and not curve().misled and not curve(0).misled
    assert misled.sentence.endswith(
        "Test accuracy: 65.00 %, 70.00 % and 53.00 %. On the test examples this count is worse than removing nothing (65.00 % against 70.00 %)."
    )
    assert curve(10, "accuracy").sentence.startswith("By validation accuracy the best count is 10: 90.00 %, against 80.00 % with")
    assert curve(0).sentence == "No count is better than removing nothing, by validation loss (0.5000 with nothing removed)."


def test_a_curve_lacks_nothing():
    whole = curve().removals
    with pytest.raises(UsageError, match="best=4 is not one of the counts of this curve: 0, 1, 3, 10"):
        curve(4)
    with pytest.raises(UsageError, match="exactly one training in which nothing is left out"):
        Curve("aum", "last", whole[1:], 0, "loss")
    with pytest.raises(UsageError, match="needs random removals of 10 examples too"):
        Curve("aum", "last", tuple(one for one in whole if (one.arm, one.count) != (RANDOM, 10)), 0, "loss")


def test_the_fingerprint_is_of_what_was_measured_and_chosen():
    made = curve()
    slower = tuple(dataclasses.replace(one, seconds=9.0) for one in made.removals)
    assert dataclasses.replace(made, removals=slower).fingerprint == made.fingerprint
    other = (dataclasses.replace(made.removals[0], test_loss=0.1), *made.removals[1:])
    changed = [{"removals": other}, {"best": 1}, {"chosen_by": "accuracy"}, {"retrained": "all"}, {"scores": "loss"}]
    assert len({made.fingerprint, *(dataclasses.replace(made, **one).fingerprint for one in changed)}) == 6
