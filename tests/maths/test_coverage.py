import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths import coverage
from assay.maths.coverage import farthest_first


def slow(rows, count, ranks):
    """The definition, one distance after another, in Python's own numbers."""
    rows = [[float(cell) for cell in row] for row in rows]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def apart(one, other):
        return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5

    centers = [min(range(len(rows)), key=lambda i: (apart(rows[i], mean), ranks[i]))]
    radii = []
    while True:
        near = [min(apart(row, rows[center]) for center in centers) for row in rows]
        radii.append(max(near))
        if len(centers) == count:
            return centers, radii
        left = [i for i in range(len(rows)) if i not in centers]
        centers.append(min(left, key=lambda i: (-near[i], ranks[i])))


# Whole numbers around a whole mean, so that equal distances are equal in every way of adding up.
POINTS = st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=1, max_size=9).map(
    lambda half: half + [(-x, -y) for x, y in half]
)


@settings(max_examples=60, deadline=None)
@given(points=POINTS, seed=st.integers(0, 99), kind=st.sampled_from([torch.float32, torch.float64]), tile=st.integers(1, 20))
def test_it_is_the_slow_loop_and_ties_go_to_the_lowest_rank(points, seed, kind, tile):
    ranks = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "ROWS", tile)
        order, radii = farthest_first(torch.tensor(points, dtype=kind), len(points), ranks)
    centers, gaps = slow(points, len(points), ranks.tolist())
    assert order.tolist() == centers
    torch.testing.assert_close(radii.double(), torch.tensor(gaps, dtype=torch.float64), rtol=1e-6, atol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4))
def test_the_radius_is_at_most_twice_the_best_one(seed, k):
    rows = torch.randn(10, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    apart = torch.cdist(rows, rows)
    best = min(float(apart[:, list(centers)].amin(1).max()) for centers in itertools.combinations(range(10), k))
    _, radii = farthest_first(rows, k, torch.arange(10))
    assert best - 1e-12 <= float(radii[-1]) <= 2 * best + 1e-12


def test_the_radius_never_rises_and_fewer_centers_are_the_first_of_more():
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    order, radii = farthest_first(rows, 200, torch.arange(200))
    assert bool((radii.diff() <= 0).all()) and float(radii[-1]) == 0 and order.sort().values.tolist() == list(range(200))
    for count in (0, 1, 7, 199):
        fewer, gaps = farthest_first(rows, count, torch.arange(200))
        assert torch.equal(fewer, order[:count]) and torch.equal(gaps, radii[:count])


def test_planted_clusters_get_a_center_each():
    draw = torch.Generator().manual_seed(3)
    sizes = torch.tensor([400, 50, 9, 3, 1, 1])
    cluster = torch.arange(6).repeat_interleave(sizes)
    rows = 50 * torch.randn(6, 20, generator=draw)[cluster] + torch.randn(464, 20, generator=draw)
    order, radii = farthest_first(rows, 6, torch.arange(464))
    assert len(cluster[order].unique()) == 6
    spread = max(float(torch.pdist(rows[cluster == one]).max()) for one in range(4))
    assert float(radii[-1]) <= spread < float(radii[-2])


def test_the_order_of_the_rows_changes_nothing_and_a_common_offset_cancels():
    draw = torch.Generator().manual_seed(5)
    rows = torch.randint(-4, 5, (300, 3), generator=draw).float()
    order, radii = farthest_first(rows, 40, torch.arange(300))
    mixed = torch.randperm(300, generator=draw)
    again, gaps = farthest_first(rows[mixed], 40, mixed)
    assert torch.equal(mixed[again], order) and torch.equal(gaps, radii)
    # |x|^2 - 2 <x, c> + |c|^2 would keep nothing of such distances in single precision.
    far, gaps = farthest_first(rows + 2.0**20, 40, torch.arange(300))
    assert torch.equal(far, order) and torch.equal(gaps, radii)


def test_distances_are_held_to_one_center_at_a_time(monkeypatch):
    largest, cdist = [], torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda *given, **more: largest.append((gaps := cdist(*given, **more)).numel()) or gaps)
    farthest_first(torch.randn(500, 3), 30, torch.arange(500))
    assert len(largest) == 30 and max(largest) == 500


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_outside_is_refused(count):
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        farthest_first(torch.zeros(3, 1), count, torch.arange(3))


def test_distances_that_overflow_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        farthest_first(torch.tensor([[0.0], [1e30]]), 2, torch.arange(2))
    rows = torch.from_numpy(np.array([[0.0], [1e30]]))
    assert farthest_first(rows, 2, torch.arange(2))[1].tolist() == [1e30, 0.0]
