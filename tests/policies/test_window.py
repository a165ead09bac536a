import math

import pytest

from assay.core.errors import UsageError
from assay.core.scores import Direction
from assay.core.selection import choose
from assay.policies.window import Window
from policies.worlds import scores

VARIANTS = [{"start": 0.0}, {"start": 0.2}, {"start": 0.2, "by_class": True}]
REFUSED = ["start=0.8,keep=0.3", "start=-0.1,keep=0.3"]

VALUES = [0.0, 9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (Direction.HIGH_IS_HARD, [7.0, 6.0, 5.0]),
        (Direction.LOW_IS_SUSPECT, [2.0, 3.0, 4.0]),
        (Direction.LOW_IS_HARD, [2.0, 3.0, 4.0]),
    ],
)
def test_hardest_or_most_suspect_first(direction, expected):
    decision = choose(Window(0.3, start=0.2), scores(VALUES, direction))
    assert sorted(decision.ids.values[decision.kept.numpy()].tolist()) == sorted(VALUES.index(value) for value in expected)
    assert decision.reasons[5 if expected[0] == 7.0 else 4].startswith("within the 3 ranks from 2 on")


def test_reaches_the_end():
    assert list(choose(Window(0.3, start=0.7), scores(VALUES)).kept_ids) == [0, 2, 4]
    assert choose(Window(0.9, start=0.1), scores(VALUES)).budget == 9


@pytest.mark.parametrize("start", [-0.1, 0.71, 1.0, math.nan])
def test_a_window_beyond_the_ranking_is_refused(start):
    with pytest.raises(UsageError, match="start"):
        Window(0.3, start=start)
