import math

import pytest
import torch

from assay.core.errors import UsageError
from assay.core.scores import Direction
from assay.core.selection import Pool, choose
from assay.policies.threshold import Threshold
from policies.worlds import scores

VARIANTS = [{"at_least": 0.4}, {"at_least": 0.2, "at_most": 0.7, "by": "suspicion"}]
REFUSED = ["at_least=2,at_most=1", "by=hardness,at_least=1"]


def test_bounds_belong_to_what_stays():
    made = scores([0.0, 1.0, 2.0, 3.0])
    assert list(choose(Threshold(at_least=1.0), made).kept_ids) == [1, 2, 3]
    assert list(choose(Threshold(at_most=1.0), made).kept_ids) == [0, 1]
    decision = choose(Threshold(at_least=1.0, at_most=2.0), made)
    assert list(decision.kept_ids) == [1, 2]
    assert decision.reasons[:2] == (
        "not values of made at least 1.0 and at most 2.0",
        "values of made at least 1.0 and at most 2.0",
    )


def test_by_suspicion_turns_the_score():
    made = scores([-3.0, -1.0, 2.0], Direction.LOW_IS_SUSPECT)
    assert list(choose(Threshold(at_most=1.0, by="suspicion"), made).kept_ids) == [1, 2]


@pytest.mark.parametrize(("low", "high"), [(None, None), (2.0, 1.0), (math.nan, None), (None, math.nan)])
def test_bounds_that_say_nothing_are_refused(low, high):
    with pytest.raises(UsageError, match="at_least"):
        Threshold(at_least=low, at_most=high)


def test_nan_is_not_dropped_in_silence():
    made = scores([0.0, torch.nan])
    with pytest.raises(UsageError, match="ids 1"):
        Threshold(at_least=0.0).select(Pool(made.ids, None, made))
