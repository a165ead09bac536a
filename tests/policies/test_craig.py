import numpy as np
import pytest
import torch

from assay.core.selection import choose
from assay.policies.craig import Craig
from policies.test_facility_location import drawn, evidence

VARIANTS = [{"features": "inputs"}]
REFUSED = ["keep=-0.1", "weights_as=sum,keep=0.1", "greedy=eager,keep=0.1", "features=rows:,keep=0.1"]


def obvious(rows, count):
    """The greedy search and its counts by plain sums of distances, of rows that are all different."""
    apart = torch.cdist(rows, rows)
    far, chosen = apart.max() + 1, []
    nearest = torch.full((len(rows),), float(far), dtype=torch.float64)
    for _ in range(count):
        left = [j for j in range(len(rows)) if j not in chosen]
        chosen.append(min(left, key=lambda j: float(torch.minimum(nearest, apart[j]).sum())))
        nearest = torch.minimum(nearest, apart[chosen[-1]])
    return chosen, torch.bincount(apart[:, chosen].argmin(1), minlength=count).tolist()


@pytest.mark.parametrize("greedy", ["naive", "lazy"])
def test_all_classes_together(greedy):
    # Without classes DeepCore's code looks for validation data that it does not have.
    rows = torch.from_numpy(drawn(25))
    policy = Craig(6, features="inputs", by_class=False, weights_as="count", greedy=greedy)
    decision, (chosen, counts) = choose(policy, None, evidence(rows)), obvious(rows, 6)
    assert list(decision.order) == chosen and decision.weights[chosen].tolist() == counts and sum(counts) == 25


def test_class_by_class_every_example_counts_once():
    labels = np.random.default_rng(2).permutation(np.repeat([0, 1, 2], [30, 20, 10]))
    rows, made = torch.from_numpy(drawn()), evidence(drawn(), labels)
    counts = choose(Craig(0.2, features="inputs", weights_as="count"), None, made)
    means = choose(Craig(0.2, features="inputs"), None, made)
    assert float(counts.weights.sum()) == 60 and counts.order == means.order
    assert torch.allclose(means.weights, counts.weights / 5) and float(means.weights[means.kept].mean()) == pytest.approx(1)
    for label, size in enumerate((30, 20, 10)):
        members = (made.labels == label).nonzero().flatten()
        chosen, own = obvious(rows[members], size // 5)
        assert counts.weights[members[chosen]].tolist() == own and sum(own) == size


def test_the_weighted_gradient_is_near_to_that_of_all():
    rows = torch.from_numpy(drawn(300, 3)) + 0.5
    made, total = evidence(rows), rows.sum(0)
    decision = choose(Craig(30, features="inputs", by_class=False, weights_as="count"), None, made)
    error = (decision.weights @ rows - total).norm()
    bound = torch.cdist(rows, rows[decision.kept]).min(1).values.sum()
    by_chance = [(10 * rows[choose(parsed, None, made).kept].sum(0) - total).norm() for parsed in randoms(0.1)]
    assert error <= bound and error < np.median(by_chance)


def randoms(keep):
    from assay.policies.random import Random

    return [Random(keep, seed) for seed in range(15)]


def test_equal_examples_each_stand_for_themselves():
    decision = choose(Craig(4, features="inputs", by_class=False, weights_as="count"), None, evidence(np.ones((6, 2))))
    assert list(decision.order) == [0, 1, 2, 3] and decision.weights.tolist() == [3.0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("by_class", [True, False])
def test_what_is_as_far_from_the_first_as_can_be_stands_with_it(by_class):
    # Twice the greatest distance from the mean: a similarity of 0, which adds nothing to what nobody stands for yet.
    rows = np.array([[-1.0, 0], [1, 0], [0, 1], [0, -1]])
    for count in (1, 2, 3):
        policy = Craig(count, features="inputs", by_class=by_class, weights_as="count")
        decision = choose(policy, None, evidence(rows, [0] * 4))
        assert float(decision.weights.sum()) == 4 and decision.budget == count


def test_weights_are_1_in_the_mean_also_where_a_class_is_left_out():
    labels = np.repeat([0, 1, 2], [12, 7, 1])
    decision = choose(Craig(4, features="inputs"), None, evidence(drawn(20), labels), ["ant", "bee", "cat"])
    assert float(decision.weights[decision.kept].mean()) == pytest.approx(1)
    assert decision.warnings == ("Nothing of 1 class (cat) is kept: the budget of 4 is too small for their share; keep more.",)
