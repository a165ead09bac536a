import numpy as np
import pytest
import torch

from assay.maths import draws, subspaces
from assay.maths.subspaces import covered_less_redundant


def slow(rows, samples, seed, neighbours, exponent):
    """One point after another; rows stand in the order of their ranks."""
    n, dims = rows.shape
    low, mode, high = rows.min(0), np.median(rows, 0), rows.max(0)
    totals = np.zeros((2, n))
    for t in range(samples):
        key = np.array([t], dtype=np.uint64)
        first = int(draws.integers(key, dims, seed, "planes", 0))
        other = int(draws.integers(key, dims - 1, seed, "planes", 1)) if dims > 1 else None
        plane = [first] if other is None else [first, other + (other >= first)]
        point = []
        for side, dim in enumerate(plane):
            chance, width = float(draws.uniform(key, seed, "points", side)), high[dim] - low[dim]
            if chance * width < mode[dim] - low[dim]:
                point.append(low[dim] + (chance * width * (mode[dim] - low[dim])) ** 0.5)
            else:
                point.append(high[dim] - ((1 - chance) * width * (high[dim] - mode[dim])) ** 0.5)
        gaps = [sum(abs(row[dim] - p) for dim, p in zip(plane, point, strict=True)) for row in rows]
        center = gaps.index(min(gaps))
        totals[0, center] += 1
        beside = {j: sum(abs(rows[j, dim] - rows[center, dim]) for dim in plane) for j in range(n) if j != center}
        last = sorted(beside.values())[min(neighbours, n - 1) - 1]
        near = {j: gap for j, gap in beside.items() if gap <= last}
        here = [j for j, gap in near.items() if gap == 0]
        parts = dict.fromkeys(here, 1.0) if here else {j: gap**-exponent for j, gap in near.items()}
        for j, part in parts.items():
            totals[1, j] += part / sum(parts.values())
    return totals


@pytest.mark.parametrize(("dims", "neighbours"), [(5, 4), (1, 100), (3, 7)])
def test_it_is_the_slow_loop(dims, neighbours, monkeypatch):
    draw = np.random.default_rng(dims)
    rows = draw.normal(size=(20, dims)).round(1)
    rows[7] = rows[3]
    expected = slow(rows, 60, 5, neighbours, 4.0)
    order = torch.from_numpy(draw.permutation(20))
    for tile in (1, 2**20):
        monkeypatch.setattr(subspaces, "TILE_BYTES", tile)
        monkeypatch.setattr(subspaces, "AT_ONCE", 7 if tile == 1 else 2**20)
        found = covered_less_redundant(torch.from_numpy(rows)[order], order, 60, 5, neighbours)
        np.testing.assert_allclose(found.numpy(), expected[:, order.numpy()], rtol=1e-12, atol=1e-12)
    assert found.sum(1).tolist() == pytest.approx([60, 60])


def test_points_are_triangular_about_the_median():
    bounds = [torch.tensor([value], dtype=torch.float64) for value in (-1.0, 0.5, 3.0)]
    _, points = subspaces._drawn(np.arange(100_000, dtype=np.uint64), *bounds, seed=1)
    # Of a triangle with corners a, c, b: mean (a + b + c) / 3, variance (a^2 + b^2 + c^2 - ab - ac - bc) / 18.
    assert float(points.mean()) == pytest.approx(2.5 / 3, abs=4 * (8.25 / 18 * 1e-5) ** 0.5 * 3) and float(
        points.var()
    ) == pytest.approx((1 + 0.25 + 9 + 0.5 + 3 - 1.5) / 18, rel=0.02)
    assert float(points.min()) >= -1 and float(points.max()) <= 3


def test_a_copy_gets_the_redundancy_of_the_one_that_covers():
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 1.0], [9.0, 9.0]])
    covers, beside = covered_less_redundant(rows, torch.arange(4), 500, 0)
    assert covers[1] == 0 and beside[1] >= covers[0] > 0 and beside[0] < beside[1]


def test_one_example_and_constant_features_and_what_overflows():
    assert covered_less_redundant(torch.ones(1, 3), torch.arange(1), 10, 0).tolist() == [[10.0], [0.0]]
    covers, beside = covered_less_redundant(torch.ones(4, 3), torch.tensor([1, 0, 2, 3]), 9, 0)
    assert covers.tolist() == [0, 9, 0, 0] and beside.tolist() == pytest.approx([3, 0, 3, 3])
    with pytest.raises(ValueError, match="not finite"):
        covered_less_redundant(torch.tensor([[3e38], [-3e38]]), torch.arange(2), 1, 0)
