"""Nearest neighbours, against sorting all distances, and their votes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths import neighbours
from assay.maths.neighbours import majority_label, nearest, votes


def by_sorting(queries, supports, k, own):
    """One query at a time, every distance written out."""
    found = []
    for place, query in enumerate(queries):
        gaps = [(float(((query - other) ** 2).sum()), at) for at, other in enumerate(supports) if at != int(own[place])]
        found.append([at for _, at in sorted(gaps)[:k]])
    return torch.tensor(found)


@given(st.integers(2, 30), st.integers(1, 30), st.integers(1, 6), st.data())
@settings(max_examples=40, deadline=None)
def test_they_are_the_nearest_in_order(supports, queries, dims, data):
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    there = torch.randn(supports, dims, generator=draw, dtype=torch.float64) + 100
    here = torch.randn(queries, dims, generator=draw, dtype=torch.float64) + 100
    own = torch.randint(-1, supports, (queries,), generator=draw)
    k = data.draw(st.integers(1, supports - 1))
    rows, columns, sides = neighbours.ROWS, neighbours.COLUMNS, neighbours.DIMS
    try:
        neighbours.ROWS, neighbours.COLUMNS, neighbours.DIMS = (data.draw(st.integers(1, 8)) for _ in range(3))
        found = nearest(here, there, k, own)
    finally:
        neighbours.ROWS, neighbours.COLUMNS, neighbours.DIMS = rows, columns, sides
    assert torch.equal(found, by_sorting(here, there, k, own))


def test_more_neighbours_than_there_are_is_refused():
    rows = torch.eye(4)
    assert nearest(rows, rows, 4).shape == (4, 4)
    for k, own, there in ((5, None, 4), (4, torch.arange(4), 3), (0, None, 4)):
        with pytest.raises(ValueError, match=f"k={k} neighbours are asked for and there are {there}"):
            nearest(rows, rows, k, own)


def test_ties_go_where_it_is_said():
    labels = torch.tensor([2, 0, 1, 2, 0])
    near = torch.tensor([[2, 3, 1, 0, 4], [3, 1, 4, 0, 2], [1, 4, 3, 2, 0]])
    assert votes(near, labels, 4).tolist() == [[2, 1, 2, 0]] * 3
    assert majority_label(near, labels, 4).tolist() == [0, 0, 0]
    assert majority_label(near, labels, 4, "high").tolist() == [2, 2, 2]
    # Class 1 is nearest to the first, but has one vote only.
    assert majority_label(near, labels, 4, "nearest").tolist() == [2, 2, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_distances_that_are_not_finite_are_refused(value):
    rows = torch.randn(8, 3)
    rows[5, 1] = value
    with pytest.raises(ValueError, match="Distances are not finite"):
        nearest(rows, rows, 3, torch.arange(8))
