import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.maths.example_vectors import DenseVectors
from assay.policies.gradmatch import GradMatch, gradmatch
from policies.test_craig import randoms
from policies.test_facility_location import drawn, evidence

VARIANTS = [{"features": "inputs"}]
REFUSED = [
    "keep=-0.1",
    "ridge=0,keep=0.1",
    "ridge=inf,keep=0.1",
    "features=rows:,keep=0.1",
    "features=rows:a,target=validation,keep=0.1",
]


def test_one_example_has_the_weight_1():
    rows = torch.from_numpy(drawn(10)) + 1
    decision = choose(GradMatch(1, features="inputs", by_class=False), None, evidence(rows))
    assert (
        decision.kept.nonzero().flatten().tolist() == [int((rows @ rows.mean(0)).argmax())] and float(decision.weights.sum()) == 1
    )
    assert decision.order is None


def test_the_mean_gradient_is_matched():
    rows = torch.from_numpy(drawn(200, 6)) + 0.3
    made, mean = evidence(rows), rows.mean(0)
    match, even = (
        choose(GradMatch(20, features="inputs", by_class=False, weights_as=how), None, made) for how in ("match", "mean")
    )
    assert match.budget == 20 and torch.equal(match.kept, even.kept)
    by_chance = [(rows[choose(one, None, made).kept].mean(0) - mean).norm() for one in randoms(0.1)]
    assert (match.weights @ rows / 20 - mean).norm() < 0.1 * np.median(by_chance)
    # The direction is the same, and steps are as large as weights of 1 make them.
    assert float(even.weights[even.kept].mean()) == pytest.approx(1)
    assert torch.allclose(even.weights * match.weights[match.kept].mean(), match.weights)


def test_each_class_counts_by_its_examples():
    labels = np.random.default_rng(2).permutation(np.repeat([0, 1, 2], [31, 18, 11]))
    rows, made = torch.from_numpy(drawn()) + 0.5, evidence(drawn() + 0.5, labels)
    decision = choose(GradMatch(0.2, features="inputs", weights_as="match"), None, made, ["ant", "bee", "cat"])
    means = choose(GradMatch(0.2, features="inputs"), None, made)
    assert torch.allclose(means.weights / means.weights.sum(), decision.weights / decision.weights.sum())
    for label, size in enumerate((31, 18, 11)):
        members = (made.labels == label).nonzero().flatten()
        inside, weights, _ = gradmatch(DenseVectors(rows[members]), int((decision.kept & (made.labels == label)).sum()), 0.1)
        assert torch.allclose(decision.weights[members[inside]], weights * size / 5)
        whole, part = rows[members].mean(0), decision.weights[members] @ rows[members] / (size / 5)
        assert float(torch.cosine_similarity(whole, part, 0)) > 0.98 and float((whole - part) @ part) == pytest.approx(
            0, abs=1e-12
        )
    assert sum("of the mean gradient of class bee in inputs" in reason for reason in decision.reasons) in (3, 4)


def test_when_nothing_helps_any_more_the_mean_is_matched_again_by_others():
    # Two of each direction make up the mean wholly: without a ridge to speak of, two are enough.
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).repeat(4, 1)
    inside, weights, rests = gradmatch(DenseVectors(rows), 6, 1e-9)
    assert inside.tolist() == [0, 1, 2, 3, 4, 5] and weights.tolist() == pytest.approx([1 / 6] * 6) and float(rests[-1]) < 1e-6


def test_a_later_round_of_short_gradients_does_not_take_the_weight():
    rows = np.concatenate([drawn(20, 6) + 0.3, 1e-3 * (drawn(80, 6) + 0.3)])
    weights = choose(GradMatch(0.85, features="inputs", by_class=False), None, evidence(torch.from_numpy(rows))).weights
    # A round of short ones has to be as long as its part of the mean gradient no more: with that 85 examples weighed as 3 equal ones would.
    assert float(weights[:20].mean()) > 1 and float(weights.sum() ** 2 / weights.square().sum()) > 10


def test_what_points_away_is_not_kept_and_the_largest_budget_is_named():
    rows = torch.cat([torch.ones(6, 2), -torch.ones(2, 2)]).double() * torch.arange(1, 9)[:, None]
    rows[:6] *= 3
    made = evidence(rows)
    with pytest.raises(UsageError, match=r"so that 7 cannot be kept; give keep=6 or less"):
        choose(GradMatch(7, features="inputs", by_class=False), None, made)
    assert set(choose(GradMatch(6, features="inputs", by_class=False), None, made).kept_ids) == set(range(6))


def test_a_mean_of_0_is_refused():
    with pytest.raises(UsageError, match="The mean gradient is 0"):
        choose(GradMatch(1, features="inputs", by_class=False), None, evidence([[1.0], [-1.0]]))
    with pytest.raises(UsageError, match="not finite"):
        choose(GradMatch(1, features="inputs", by_class=False), None, evidence([[1e200], [1.0]]))


@pytest.mark.parametrize("by_class", [True, False])
def test_a_mean_of_0_has_the_cure_that_is_named(by_class):
    rows = [[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [2.0, 1.0]] if by_class else [[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]]
    made = evidence(np.array(rows), [0, 0, 1, 1])
    where = "of class 0: .*" if by_class else ""
    with pytest.raises(UsageError, match=f"{where}mean gradient is 0, .* or the other by_class"):
        choose(GradMatch(2, features="inputs", by_class=by_class), None, made)
    assert choose(GradMatch(2, features="inputs", by_class=not by_class), None, made).budget == 2


@pytest.mark.parametrize("ridge", [1e100, 1e200, 1e300])
def test_weights_have_their_proportions_however_small_the_ridge_makes_them(ridge):
    rows = DenseVectors(torch.from_numpy(drawn(20)) + 1)
    inside, weights, _ = gradmatch(rows, 5, ridge)
    assert inside.tolist() == gradmatch(rows, 5, 1e6)[0].tolist()
    assert torch.allclose(weights, gradmatch(rows, 5, 1e6)[1], rtol=1e-4)
    with pytest.raises(ValueError, match=r"ridge=1e.308 times .* give a smaller one"):
        gradmatch(rows, 5, 1e308)
