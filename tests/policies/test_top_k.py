import pytest
import torch

from assay.core.errors import UsageError
from assay.core.scores import Direction
from assay.core.selection import choose
from assay.policies.top_k import TopK
from policies.worlds import golden, scores

VARIANTS = [{}, {"by": "suspicion"}]
REFUSED = ["keep=2.0", "keep=-1", "by=hardness,keep=0.5"]


@pytest.mark.parametrize(("keep", "name"), [(0.7, "dual"), (0.3, "dual"), (0.1, "dual"), (0.3, "forgetting")])
def test_golden(keep, name):
    kept = choose(TopK(keep), scores(golden()[name])).kept_ids
    assert sorted(kept) == sorted(golden()[f"topk_{name}_keep{keep}"].tolist())


def test_by_hand():
    decision = choose(TopK(0.5), scores([1.0, 3.0, 3.0, 3.0], ids=[7, 9, 8, 5]))
    assert sorted(decision.kept_ids) == [5, 8]
    assert decision.reasons[0] == "not among the 2 highest values of made"
    assert decision.reasons[3] == "among the 2 highest values of made"


def test_by_suspicion_keeps_the_suspects():
    decision = choose(TopK(0.5, by="suspicion"), scores([1.0, 2.0, 3.0, 4.0], Direction.LOW_IS_SUSPECT))
    assert list(decision.kept_ids) == [0, 1]


def test_suspicion_of_a_difficulty_is_refused():
    with pytest.raises(UsageError, match="ranks difficulty"):
        choose(TopK(0.5, by="suspicion"), scores([1.0, 2.0]))


def test_infinite_values_are_ranked():
    assert list(choose(TopK(0.5), scores([torch.inf, 0.0, -torch.inf, 1.0])).kept_ids) == [0, 3]
