import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import assay
from assay.core.errors import UsageError
from assay.core.scores import Direction
from assay.core.selection import choose
from assay.experiments.plan import load_data, plan_of
from assay.policies.metriq import MetriQ, recall_quotas, rounded
from assay.training.loop import predict
from experiments.small import recorded
from policies.worlds import run as evidence
from policies.worlds import scores

VARIANTS = [{"recalls": "0.9/0.6/0.7"}, {"recalls": "1/1/1"}]
REFUSED = [
    *(
        "recalls=1.2/0.5,keep=0.3",
        "recalls=-0.1,keep=0.3",
        "recalls=a/b,keep=0.3",
        "recalls=,keep=0.3",
        "recalls=0.5//1,keep=0.3",
    ),
    *("keep=-1", "end=middle,keep=0.3", "by=nothing,keep=0.3", "end=low,seed=0,keep=0.3", "by=suspicion,seed=0,keep=0.3"),
]


def by_the_paper(counts, recalls, budget):
    """Algorithm 1 word for word: densities grow by (1 - r) / Z, full classes leave and give back what they have too much."""
    counts, recalls = np.array(counts, dtype=float), np.array(recalls, dtype=float)
    density, unsaturated, excess = np.zeros(len(counts)), set(range(len(counts))), float(budget)
    while excess > 1e-9:
        z = sum(counts[k] * (1 - recalls[k]) for k in unsaturated) / excess
        for k in sorted(unsaturated):
            more = (1 - recalls[k]) / z
            density[k] += more
            excess -= counts[k] * more
        for k in sorted(unsaturated):
            if density[k] > 1:
                unsaturated.remove(k)
                excess += counts[k] * (density[k] - 1)
                density[k] = 1
    return density * counts


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 0.99)), min_size=1, max_size=6), st.floats(0, 1))
def test_quotas_are_those_of_the_papers_algorithm(classes, keep):
    counts, recalls = zip(*classes, strict=True)
    budget = int(keep * sum(counts))
    found = recall_quotas(torch.tensor(counts), recalls, budget)
    assert found.tolist() == pytest.approx(by_the_paper(counts, recalls, budget).tolist(), abs=1e-6)
    whole = rounded(found, torch.tensor(counts), budget)
    assert (
        int(whole.sum()) == budget
        and bool((whole <= torch.tensor(counts)).all())
        and float((whole - found).abs().max()) < 1 + 1e-6
    )


def test_quotas_by_hand():
    assert recall_quotas(torch.tensor([10, 10]), [0.9, 0.7], 8).tolist() == pytest.approx([2, 6])
    # The worse class is full with 10; the rest goes to the better one.
    assert recall_quotas(torch.tensor([10, 10]), [0.9, 0.1], 14).tolist() == pytest.approx([4, 10])
    # Nobody errs: in proportion. One errs: all of it, then the others in proportion. A class of nobody gives none.
    assert recall_quotas(torch.tensor([30, 10]), [1.0, 1.0], 8).tolist() == pytest.approx([6, 2])
    assert recall_quotas(torch.tensor([30, 10, 10]), [1.0, 1.0, 0.5], 14).tolist() == pytest.approx([3, 1, 10])
    assert recall_quotas(torch.tensor([0, 10]), [0.1, 0.9], 5).tolist() == [0, 5]
    assert recall_quotas(torch.tensor([3, 4]), [0.1, 0.9], 0).tolist() == [0, 0]
    assert recall_quotas(torch.tensor([3, 4]), [0.1, 0.9], 7).tolist() == [3, 4]


def test_within_a_class_the_best_by_the_score_or_a_random_part_stay():
    labels, values = torch.tensor([0, 1] * 10), torch.arange(20.0)
    facts = evidence(range(20), labels=labels, mean_probs=torch.full((20, 2), 0.5))
    high = choose(MetriQ(8, recalls="0.9/0.7"), scores(values), facts)
    assert list(high.kept_ids) == [9, 11, 13, 15, 16, 17, 18, 19]
    low = choose(MetriQ(8, recalls="0.9/0.7", end="low"), scores(values), facts)
    assert list(low.kept_ids) == [0, 1, 2, 3, 5, 7, 9, 11]
    drawn = [choose(MetriQ(8, seed, "0.9/0.7"), None, facts) for seed in range(150)]
    for decision in drawn:
        assert torch.bincount(labels[decision.kept]).tolist() == [2, 6]
    share = torch.stack([decision.kept for decision in drawn]).double().mean(0)
    want = torch.where(labels == 0, 0.2, 0.6).double()
    assert bool(((share - want).abs() < 5 * (want * (1 - want) / 150).sqrt()).all())
    assert (
        high.reasons[0]
        == "not among those kept, the highest by values of made: of class 0 2 of 10 stay, because 90.0 % of it are recognised"
    )
    suspect = choose(MetriQ(8, recalls="0.9/0.7"), scores(values, Direction.HIGH_IS_SUSPECT), facts)
    assert "those are the most suspect" in suspect.warnings[0] and suspect.budget == 8
    by = choose(MetriQ(8, recalls="0.9/0.7", end="low", by="suspicion"), scores(values, Direction.HIGH_IS_SUSPECT), facts)
    assert by.kept_ids == low.kept_ids and not by.warnings
    with pytest.raises(UsageError, match=r"by a score, and none was given; .* a draw: seed=0"):
        choose(MetriQ(8, recalls="0.9/0.7"), None, facts)


def test_equal_values_go_by_id_whatever_the_order():
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 97):
        order = torch.tensor(order)
        facts = evidence(order.tolist(), labels=labels[order], mean_probs=torch.full((6, 2), 0.5))
        decision = choose(MetriQ(4, recalls="0.5/0.5"), scores(torch.ones(6), ids=order.tolist()), facts)
        assert sorted(decision.kept_ids) == [0, 1, 2, 3]


def test_recalls_of_the_plans_own_validation(tmp_path):
    made = recorded(tmp_path / "run", plant=None, validation=0.3, recipe={"epochs": 4}, record={"checkpoints": "last"})
    plan = plan_of(made)
    loaded = load_data(plan)
    held = loaded.validation
    model = plan.build(loaded, 0)
    model.load_state_dict(made.model(made.epochs - 1))
    predicted = predict(model, held.inputs, prepare=held.prepared).argmax(1)
    recalls = [float((predicted[held.labels == label] == label).double().mean()) for label in range(10)]
    decision = assay.choose(made, "metriq:keep=0.4,seed=0")
    want = rounded(
        recall_quotas(torch.bincount(made.labels), recalls, decision.budget), torch.bincount(made.labels), decision.budget
    )
    assert torch.bincount(made.labels[decision.kept], minlength=10).tolist() == want.tolist() and min(recalls) < max(recalls)
    numbers = "/".join(map(repr, recalls))
    assert assay.choose(made, f"metriq:keep=0.4,seed=0,recalls={numbers}").fingerprint == decision.fingerprint
    assert "target validation" in decision.lineage.parents
    with pytest.raises(UsageError, match=r"recalls=0\.5/0\.5 are 2 numbers, and there are 10 classes"):
        assay.choose(made, "metriq:keep=0.4,seed=0,recalls=0.5/0.5")
    with pytest.raises(UsageError, match="Target 'valdation' is not validation"):
        assay.choose(made, "metriq:keep=0.4,seed=0,recalls=valdation")
    by_test = assay.choose(made, "metriq:keep=0.4,seed=0,recalls=test")
    with pytest.raises(UsageError, match="the test examples that it would be judged by"):
        assay.verify(by_test, run=made, seeds=2)


def test_without_a_validation_part_it_says_what_to_do(tmp_path):
    made = recorded(tmp_path / "run", plant=None, record={"checkpoints": "last"})
    with pytest.raises(UsageError, match=r"the plan held out no validation examples; record with `validation = 0\.1`"):
        assay.choose(made, "metriq:keep=0.4,seed=0")
