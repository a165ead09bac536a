import numpy as np
import pytest
import torch

from assay.core.selection import choose
from assay.policies.cal import CAL, neighbour_divergence
from policies.worlds import in_features

VARIANTS = [{"k": 3}, {"features": "inputs", "predictions": "rows:other", "by_class": True}]
REFUSED = ["keep=-0.1", "keep=1.5", "k=0,keep=0.1", "predictions=inputs,keep=0.1", "features=rows:,keep=0.1"]


def slow(rows, probs, k):
    found = []
    for i in range(len(rows)):
        near = sorted((j for j in range(len(rows)) if j != i), key=lambda j: (float(((rows[i] - rows[j]) ** 2).sum()), j))[:k]
        kls = [0.5 * (probs[a] * np.log(probs[a] / probs[b])).sum() for j in near for a, b in ((i, j), (j, i))]
        found.append(sum(kls) / k)
    return found


def test_it_is_the_slow_loop():
    draw = np.random.default_rng(0)
    rows, probs = draw.integers(0, 4, (30, 2)), draw.dirichlet(np.ones(3), 30)
    values = neighbour_divergence(torch.from_numpy(rows).double(), torch.from_numpy(probs), 4, torch.arange(30))
    np.testing.assert_allclose(values, slow(rows, probs, 4), rtol=1e-6, atol=1e-9)
    few = neighbour_divergence(torch.from_numpy(rows[:3]).double(), torch.from_numpy(probs[:3]), 10, torch.arange(3))
    np.testing.assert_allclose(few, slow(rows[:3], probs[:3], 2), rtol=1e-6, atol=1e-9)
    assert neighbour_divergence(torch.zeros(1, 2), torch.ones(1, 2).double(), 10, torch.arange(1)).tolist() == [0]


def test_the_highest_divergence_stays_and_not_the_lowest():
    # Predictions change between the second and the third of a line. Released code keeps those that are predicted like their neighbours.
    line, logits = [[0.0], [1.0], [2.0], [3.1], [4.3], [-1.1]], [[5, 0], [5, 0], [0, 5], [0, 5], [0, 5], [5, 0]]
    policy = CAL(2, features="inputs", predictions="rows:logits", k=2)
    decision = choose(policy, None, in_features(line, logits=logits))
    assert set(decision.kept_ids) == {1, 2}
    assert decision.reasons[5] == "predicted 0 nats from its nearest neighbours in inputs"


def test_neighbours_of_the_same_class_where_classes_are_looked_at_separately():
    line, labels = [[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]
    logits = [[3, 0], [0, 3], [3, 0], [3, 0]]
    apart = choose(CAL(2, "inputs", "rows:logits", 1, True), None, in_features(line, labels, logits=logits), ["ant", "bee"])
    # Of the ants none is predicted unlike the other, and the lower id stays.
    assert (
        set(apart.kept_ids) == {0, 1}
        and apart.reasons[0] == "predicted 0 nats from its nearest neighbours of class ant in inputs"
    )
    assert (
        float(apart.reasons[1].split()[1]) == pytest.approx(float(apart.reasons[3].split()[1]))
        and apart.reasons[1].split()[1] != "0"
    )
