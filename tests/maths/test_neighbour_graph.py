import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths import neighbour_graph
from assay.maths.neighbour_graph import joined, k_nearest


def slow(rows, k, ranks):
    """The definition, one distance after another."""
    rows = np.asarray(rows, dtype=np.float64)
    found = []
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        found.append(sorted(others, key=lambda j: (float(((row - rows[j]) ** 2).sum()), int(ranks[j])))[:k])
    return found


@settings(max_examples=40, deadline=None)
@given(
    points=st.lists(st.tuples(*[st.integers(-2, 2)] * 2), min_size=2, max_size=14),
    seed=st.integers(0, 99),
    kind=st.sampled_from([torch.float32, torch.float64]),
    tile=st.integers(1, 300),
    k=st.integers(1, 13),
)
def test_it_is_the_slow_loop_and_ties_go_to_the_lowest_rank(points, seed, kind, tile, k):
    k = min(k, len(points) - 1)
    ranks = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TILE_BYTES", "COLUMNS", "PAIRS"):
            patch.setattr(neighbour_graph, name, tile)
        which, apart = k_nearest(torch.tensor(points, dtype=kind), k, ranks)
    assert which.tolist() == slow(points, k, ranks)
    rows = torch.tensor(points, dtype=torch.float64)
    torch.testing.assert_close(apart, (rows[:, None] - rows[which]).norm(dim=2))


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_single_precision_finds_what_double_does(offset):
    rows = torch.randn(400, 30, generator=torch.Generator().manual_seed(0)) + offset
    which, apart = k_nearest(rows, 7, torch.arange(400))
    gaps = (rows.double()[:, None] - rows.double()).norm(dim=2).fill_diagonal_(torch.inf)
    nearest = gaps.topk(7, largest=False)
    assert torch.equal(which, nearest.indices)
    torch.testing.assert_close(apart, nearest.values, rtol=1e-12, atol=0)


def test_either_way_of_being_near_joins():
    # 0 and 1 are nearest to each other, 1 is the nearest of 4.
    rows, ranks = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([2, 0, 1])
    one, two, lengths = joined(*k_nearest(rows, 1, ranks), ranks)
    assert list(zip(one.tolist(), two.tolist(), lengths.tolist(), strict=True)) == [
        (1, 2, 3.0),
        (1, 0, 1.0),
        (2, 1, 3.0),
        (0, 1, 1.0),
    ]


def test_it_refuses_too_many_neighbours_and_what_overflows():
    with pytest.raises(ValueError, match="there are 2; take a k of at most that"):
        k_nearest(torch.zeros(3, 1), 3, torch.arange(3))
    with pytest.raises(ValueError, match="not finite"):
        k_nearest(torch.tensor([[0.0], [1e30], [1.0]]), 1, torch.arange(3))
