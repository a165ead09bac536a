import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import UsageError
from assay.core.scores import Direction
from assay.core.selection import choose
from assay.policies.ccs import CCS, stratum_budgets, stratum_of
from policies.worlds import golden, scores

VARIANTS = [{"cutoff": 0.0}, {"cutoff": 0.2, "strata": 3}, {"cutoff": 0.2, "strata": 3, "by_class": True}]
REFUSED = ["cutoff=2,keep=0.3,seed=0", "strata=0,keep=0.3,seed=0,cutoff=0"]


@pytest.mark.parametrize(("keep", "cutoff"), [(0.3, 0.1), (0.1, 0.3)])
def test_golden(keep, cutoff):
    values, bins = golden()["aum_prob_sum"], golden()[f"ccs_bin_of_sample_keep{keep}"]
    left = bins >= 0
    assert torch.equal(stratum_of(values[left], 50), bins[left])
    counts = golden()[f"ccs_counts_keep{keep}"]
    assert torch.equal(torch.bincount(stratum_of(values[left], 50), minlength=50), counts)
    budgets = golden()[f"ccs_budget_keep{keep}"]
    assert torch.equal(stratum_budgets(counts, round(keep * 500)), budgets)
    decision = choose(CCS(keep, seed=0, cutoff=cutoff), scores(values, Direction.LOW_IS_SUSPECT))
    assert torch.equal(torch.bincount(bins[decision.kept], minlength=50), budgets)
    cut = [i for i, reason in enumerate(decision.reasons) if "cut before the draw" in reason]
    assert cut == sorted(golden()[f"ccs_cut_keep{keep}"].tolist())


@pytest.mark.parametrize("direction", Direction)
def test_the_hard_end_is_cut(direction):
    kept = choose(CCS(0.9, seed=0, cutoff=0.1), scores(torch.arange(10.0), direction)).kept_ids
    assert list(kept) == (list(range(9)) if direction.sign == 1 else list(range(1, 10)))


def test_equal_scores_are_one_stratum():
    assert stratum_of(torch.full((5,), -2.0, dtype=torch.float64), 7).tolist() == [6] * 5
    decision = choose(CCS(0.4, seed=0, cutoff=0.2), scores([-2.0] * 10))
    assert decision.budget == 4


def test_the_last_bin_is_closed_below_zero_too():
    assert stratum_of(torch.tensor([-4.0, -3.0, -2.0], dtype=torch.float64), 2).tolist() == [0, 1, 1]


def test_rare_scores_are_covered():
    # 90 easy examples and 10 spread over the range: top-k or random would lose most of these.
    values = torch.cat([torch.zeros(90), torch.linspace(0.1, 1.0, 10)])
    kept = choose(CCS(0.2, seed=1, cutoff=0.0, strata=10), scores(values)).kept
    assert bool(kept[91:].all())


def test_budgets_by_hand():
    assert stratum_budgets(torch.tensor([5, 1, 3]), 7).tolist() == [3, 1, 3]
    assert stratum_budgets(np.array([0, 4, 0]), 4).tolist() == [0, 4, 0]
    assert stratum_budgets(torch.tensor([2, 2]), 3).tolist() == [1, 2]


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.data())
def test_budgets_are_exact_even_and_grow(given_counts, data):
    counts = torch.tensor(given_counts)
    budget = data.draw(st.integers(0, sum(given_counts)))
    budgets = stratum_budgets(counts, budget)
    assert int(budgets.sum()) == budget and bool((budgets >= 0).all()) and bool((budgets <= counts).all())
    short = budgets < counts
    if bool(short.any()):
        assert int(budgets.max() - budgets[short].min()) <= 1
    if budget < sum(given_counts):
        assert bool((stratum_budgets(counts, budget + 1) >= budgets).all())


@pytest.mark.parametrize(("counts", "budget"), [([1, 2], 4), ([1, 2], -1), ([-1, 2], 1)])
def test_impossible_budgets_are_refused(counts, budget):
    with pytest.raises(UsageError):
        stratum_budgets(torch.tensor(counts), budget)


def test_more_than_the_cut_leaves_is_refused():
    with pytest.raises(UsageError, match=r"asks for 8 of 10 examples, but cutoff=0\.3 leaves 7"):
        choose(CCS(0.8, seed=0, cutoff=0.3), scores(torch.arange(10.0)))
    assert choose(CCS(0.0, seed=0, cutoff=1.0), scores(torch.arange(10.0))).budget == 0


@pytest.mark.parametrize("bad", [{"cutoff": -0.1}, {"cutoff": 1.1}, {"cutoff": float("nan")}, {"strata": 0}])
def test_options_outside_their_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        CCS(**{"keep": 0.5, "seed": 0, "cutoff": 0.1, **bad})


def test_values_that_no_bin_holds_are_refused():
    with pytest.raises(UsageError, match="infinite and fall in no bin; ids 1"):
        choose(CCS(0.5, seed=0, cutoff=0.0), scores([0.0, torch.inf]))
    with pytest.raises(UsageError, match="equal bins"):
        choose(CCS(0.5, seed=0, cutoff=0.0), scores([-1.7e308, 1.7e308]))
