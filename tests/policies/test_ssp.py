import itertools
import pathlib

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.selection import choose
from assay.maths.prototypes import k_means, prototype_distance
from assay.policies.ssp import SSP, partly_balanced

VARIANTS = [{"clusters": 9}, {"clusters": 7, "end": "near", "metric": "euclidean", "balance": 0.5}]
REFUSED = [
    *(
        "clusters=0,keep=0.3,seed=0",
        "balance=1.5,keep=0.3,seed=0",
        "balance=-0.1,keep=0.3,seed=0",
        "features=nothing,keep=0.3,seed=0",
    ),
    *("metric=city,keep=0.3,seed=0", "end=hard,keep=0.3,seed=0", "keep=-2,seed=0"),
]


def blobs(seed=0, sizes=(30, 20, 10)):
    draw = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    rows = 10 * np.eye(len(sizes))[cluster] + draw.normal(size=(len(cluster), len(sizes)))
    return torch.from_numpy(rows), torch.from_numpy(cluster)


def evidence(rows, labels=None, classes=3):
    return Evidence(Ids(range(len(rows))), classes, labels=labels, inputs={"": rows})


def test_golden():
    with np.load(pathlib.Path(__file__).parent.parent / "golden" / "dynamics_windows.npz") as archive:
        rows, centers, *want = (torch.from_numpy(archive[name]) for name in ("features", "centroids", "ssp_euclid", "ssp_cosine"))
    for metric, expected in zip(("euclidean", "cosine"), want, strict=True):
        torch.testing.assert_close(prototype_distance(rows, centers, metric)[0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_centers_are_a_fixed_point_and_find_clusters_that_are_apart(metric):
    rows, cluster = blobs()
    keys = Ids(range(60)).keys
    for seed in range(5):
        centers, rounds = k_means(rows, 3, keys, seed, metric)
        _, nearest = prototype_distance(rows, centers, metric)
        assert rounds < 20 and len({*zip(nearest.tolist(), cluster.tolist(), strict=True)}) == 3
        here = rows / rows.norm(dim=1, keepdim=True) if metric == "cosine" else rows
        for number in range(3):
            mean = here[nearest == number].mean(0)
            torch.testing.assert_close(centers[number], mean / mean.norm() if metric == "cosine" else mean)


def test_a_round_never_raises_the_sum_of_squares():
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(200, 4)))
    sums = []
    for rounds in range(12):
        centers, _ = k_means(rows, 8, Ids(range(200)).keys, 0, "euclidean", rounds)
        sums.append(float(prototype_distance(rows, centers, "euclidean")[0].square().sum()))
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(sums)) and sums[-1] < 0.9 * sums[0]


def test_starts_are_drawn_in_proportion_to_the_squared_distance():
    """Two rows at 1 and 3 from the first center: the second center is the farther one 9 times of 10, within 5 standard errors."""
    rows = torch.tensor([[0.0], [1.0], [-3.0]], dtype=torch.float64)
    drawn = [k_means(rows, 2, Ids(range(3)).keys, seed, "euclidean", 0)[0].flatten().tolist() for seed in range(600)]
    after = [second for first, second in drawn if first == 0.0]
    share = sum(value == -3.0 for value in after) / len(after)
    assert abs(share - 0.9) < 5 * (0.09 / len(after)) ** 0.5 and 150 < len(after) < 250


def test_far_and_near_are_the_two_ends_of_one_ranking():
    rows, _ = blobs()
    far, near = (choose(SSP(0.5, 0, end=end), None, evidence(rows)) for end in ("far", "near"))
    assert set(far.kept_ids) | set(near.kept_ids) == set(range(60)) and far.budget == near.budget == 30
    centers, _ = k_means(rows, 3, Ids(range(60)).keys, 0)
    apart = prototype_distance(rows, centers)[0]
    assert list(far.order) == torch.argsort(apart, descending=True)[:30].tolist() and far.warnings == ()
    assert far.reasons[0].startswith(f"{float(apart[0]):.4g} (cosine) from the nearest of 3 prototypes in inputs, number ")


def test_examples_planted_between_the_clusters_are_the_far_ones():
    rows, _ = blobs()
    rows = torch.cat([rows, torch.full((5, 3), 4.0, dtype=torch.float64)])
    kept = choose(SSP(5, 0, clusters=3), None, evidence(rows)).kept_ids
    assert list(kept) == [60, 61, 62, 63, 64]


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
def test_a_part_of_every_budget_is_in_proportion(balance):
    draw = np.random.default_rng(3)
    labels = torch.from_numpy(draw.permutation(np.repeat([0, 1, 2], [50, 30, 20])))
    order = torch.argsort(labels, stable=True)
    found = partly_balanced(order, labels, balance)
    assert sorted(found.tolist()) == list(range(100))
    for budget in range(0, 101, 10):
        counts = torch.bincount(labels[found[:budget]], minlength=3)
        assert bool((counts >= torch.tensor([0.5, 0.3, 0.2]) * int(balance * budget + 1e-9) - 1).all())
    assert torch.equal(found, order) == (balance == 0)
    if balance == 1:
        assert torch.bincount(labels[found[:10]]).tolist() == [5, 3, 2]


def test_as_many_clusters_as_classes_unless_said():
    rows, _ = blobs()
    assert (
        choose(SSP(5, 0), None, evidence(rows)).fingerprint
        == choose(SSP(5, 0, clusters=3), None, evidence(rows, classes=9)).fingerprint
    )
    with pytest.raises(UsageError, match=r"clusters=61, and there are 60 examples; give clusters=NUMBER in 1\.\.60"):
        choose(SSP(5, 0, clusters=61), None, evidence(rows))
    with pytest.raises(UsageError, match=r"clusters=0, and there are 60 examples without classes"):
        choose(SSP(5, 0), None, evidence(rows, classes=0))
    with pytest.raises(UsageError, match="Distances are not finite"):
        choose(SSP(5, 0, metric="euclidean"), None, evidence(rows * 1e200))


def test_the_angle_of_a_row_does_not_depend_on_its_length():
    rows = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    centers = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    whole, which = prototype_distance(rows, centers)
    for length in (1e-300, 1e-160, 1e160, 1e300):
        apart, nearest = prototype_distance(rows * length, centers * length)
        assert torch.allclose(apart, whole, rtol=1e-12) and torch.equal(nearest, which)
