import pytest

from assay.core.scores import Direction
from assay.core.selection import choose
from assay.policies.bottom_k import BottomK
from policies.worlds import golden, scores

VARIANTS = [{}, {"by": "suspicion"}]
REFUSED = ["keep=2.0", "keep=-2", "keep=nan"]


@pytest.mark.parametrize("keep", [0.7, 0.3, 0.1])
def test_golden(keep):
    assert sorted(choose(BottomK(keep), scores(golden()["dual"])).kept_ids) == sorted(
        golden()[f"bottomk_dual_keep{keep}"].tolist()
    )
    assert sorted(choose(BottomK(keep), scores(golden()["aum"])).kept_ids) == sorted(golden()[f"lowest_aum_keep{keep}"].tolist())


def test_ties_by_id():
    assert sorted(choose(BottomK(0.5), scores([3.0, 3.0, 3.0, 9.0], ids=["c", "a", "b", "d"])).kept_ids) == ["a", "b"]


@pytest.mark.parametrize("direction", [Direction.HIGH_IS_SUSPECT, Direction.LOW_IS_SUSPECT])
def test_by_suspicion_drops_the_suspects(direction):
    values = [direction.sign * value for value in (0.0, 5.0, 1.0, 7.0)]
    assert list(choose(BottomK(0.5, by="suspicion"), scores(values, direction)).kept_ids) == [0, 2]
