import dataclasses

import pytest
import torch

from assay.core.errors import UsageError
from assay.core.scores import CHANGE, Direction
from assay.core.selection import Pool, choose
from assay.policies.remove_worst import RemoveWorst, removable, worst
from policies.worlds import scores

VARIANTS = [{"count": 24}, {"count": 1, "harmful_only": False}]
REFUSED = ["count=-1", "count=1.5"]

LOW, HIGH = Direction.LOW_IS_SUSPECT, Direction.HIGH_IS_SUSPECT
VALUES = [0.3, -0.2, 0.0, -0.5, 0.1, -0.1]


def changes(values=VALUES, direction=LOW):
    return dataclasses.replace(scores(values, direction), unit=CHANGE)


@pytest.mark.parametrize("turned", [False, True])
def test_the_most_harmful_go_whichever_way_the_score_points(turned):
    made = changes([-value for value in VALUES], HIGH) if turned else changes()
    assert [list(choose(RemoveWorst(count), made).dropped_ids) for count in range(4)] == [[], [3], [1, 3], [1, 3, 5]]
    assert choose(RemoveWorst(2), made).reasons[3] == "among the 2 most suspect by made, predicted to do harm"
    assert choose(RemoveWorst(2), made).reasons[0] == "not among the 2 most suspect by made"
    assert worst(made, 3).tolist() == [3, 1, 5] and removable(made) == 3


def test_helpful_examples_stay_unless_they_are_asked_for_too():
    with pytest.raises(UsageError, match=r"made predicts only 3 of 6 examples to be harmful; give a count in 0\.\.3"):
        choose(RemoveWorst(4), changes())
    decision = choose(RemoveWorst(5, harmful_only=False), changes())
    assert list(decision.kept_ids) == [0] and "harm" not in decision.reasons[3]


def test_scores_that_only_rank_may_lose_everything():
    made = scores(VALUES, LOW)
    assert removable(made) == 6 and choose(RemoveWorst(6), made).budget == 0
    assert "harm" not in choose(RemoveWorst(2), made).reasons[3]
    with pytest.raises(UsageError, match=r"count=7 is more than the 6 examples; give a count in 0\.\.6"):
        choose(RemoveWorst(7), made)


def test_every_count_drops_as_many_and_counts_nest():
    values = torch.randint(4, (40,), generator=torch.Generator().manual_seed(1)).double()
    dropped = set()
    for count in range(41):
        now = set(choose(RemoveWorst(count), scores(values, HIGH, ids=range(100, 60, -1))).dropped_ids)
        assert len(now) == count and dropped <= now
        dropped = now


def test_of_equal_ones_the_smallest_ids_stay():
    made = scores([1.0, 1.0, 1.0, 2.0], HIGH, ids=[9, 3, 5, 4])
    assert list(choose(RemoveWorst(2), made).kept_ids) == [3, 5]


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="count=-1 is below 0"):
        RemoveWorst(-1)
    for direction in (Direction.HIGH_IS_HARD, Direction.LOW_IS_HARD):
        with pytest.raises(UsageError, match="ranks difficulty"):
            choose(RemoveWorst(1), scores(VALUES, direction))
        with pytest.raises(UsageError, match="ranks difficulty"):
            removable(scores(VALUES, direction))
    made = scores([0.0, torch.nan], HIGH)
    with pytest.raises(UsageError, match="NaN"):
        RemoveWorst(1).select(Pool(made.ids, None, made))
