import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import MissingEvidence, UsageError
from assay.core.selection import budget_of, choose
from assay.policies.per_class import PerClass, class_budgets
from policies.worlds import golden, run, scores

VARIANTS = [{}, {"end": "low"}]
REFUSED = ["keep=-1", "end=middle,keep=0.5", "each=true,keep=0.5", "each=true,keep=3,fill=false"]


@pytest.mark.parametrize("keep", [0.7, 0.3, 0.1])
def test_golden_without_fill(keep):
    made = scores(golden()["dual"])
    decision = choose(PerClass(keep, fill=False), made, run(made.ids, labels=golden()["labels"]))
    assert sorted(decision.kept_ids) == sorted(golden()[f"classbal_dual_keep{keep}"].tolist())


@pytest.mark.parametrize("keep", [0.7, 0.3, 0.1])
def test_fill_reaches_the_budget_and_takes_nothing_back(keep):
    made = scores(golden()["dual"])
    decision = choose(PerClass(keep), made, run(made.ids, labels=golden()["labels"]))
    assert decision.budget == round(keep * 500)
    assert set(golden()[f"classbal_dual_keep{keep}"].tolist()) <= set(decision.kept_ids)


def test_each_class_is_counted_by_itself():
    labels = torch.tensor([0] * 8 + [1] * 4 + [2] * 2)
    made = scores(torch.arange(14.0))
    assert list(choose(PerClass(0.5), made, run(made.ids, labels=labels)).kept_ids) == [4, 5, 6, 7, 10, 11, 13]
    assert list(choose(PerClass(0.5, end="low"), made, run(made.ids, labels=labels)).kept_ids) == [0, 1, 2, 3, 8, 9, 12]


def test_largest_remainder_by_hand():
    # 0.5 * (3, 5, 2) = 1.5, 2.5, 1: one of five is missing, and the lower class wins the tie.
    assert class_budgets(torch.tensor([3, 5, 2]), 0.5).tolist() == [2, 2, 1]
    assert class_budgets(torch.tensor([3, 5, 2]), 0.5, fill=False).tolist() == [1, 2, 1]
    assert class_budgets(torch.tensor([100, 0, 100]), 0.29).tolist() == [29, 0, 29]


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=12), st.floats(0, 1))
def test_budgets_sum_and_stay_within_one_of_the_share(counts, keep):
    budgets = class_budgets(torch.tensor(counts), keep)
    assert int(budgets.sum()) == budget_of(keep, sum(counts))
    for count, budget in zip(counts, budgets.tolist(), strict=True):
        assert 0 <= budget <= count and abs(budget - keep * count) < 1 + 1e-6


def test_budgets_do_not_nest_as_declared():
    # The Alabama paradox: one more example in all, one fewer for the smallest class.
    counts = torch.tensor([6, 6, 2])
    smaller, larger = class_budgets(counts, 10 / 14), class_budgets(counts, 11 / 14)
    assert smaller.tolist() == [4, 4, 2] and larger.tolist() == [5, 5, 1]
    assert not PerClass.nests


def test_needs_the_labels():
    made = scores([1.0, 2.0])
    with pytest.raises(UsageError, match="recorded run"):
        choose(PerClass(0.5), made)
    with pytest.raises(MissingEvidence, match="labels"):
        choose(PerClass(0.5), made, run([0, 1], target_probs=torch.ones(1, 2, dtype=torch.float64)))
