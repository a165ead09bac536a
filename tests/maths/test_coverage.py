import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths import coverage
from assay.maths.coverage import farthest_first, herded, most_divergent_first, symmetric_divergence


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


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_rows_that_cannot_be_nearer_are_left_out_and_it_changes_nothing(offset, monkeypatch):
    rows = torch.randn(3000, 40, generator=torch.Generator().manual_seed(7)) + offset
    compared, cdist = [], torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda *given, **more: compared.append(len(given[0])) or cdist(*given, **more))
    order, radii = farthest_first(rows, 200, torch.arange(3000))
    apart = torch.stack([cdist(rows, row[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0] for row in rows[order]])
    near = apart.cummin(0).values
    assert torch.equal(radii, near.amax(1)) and order[1:].tolist() == near[:-1].argmax(1).tolist()
    # Far from 0 the products tell nothing in single precision, and all rows are compared.
    assert sum(compared) < 200 * 3000 / 10 if not offset else sum(compared) > 200 * 3000 / 2


def slow_herding(rows, count, ranks):
    """The definition, in fractions."""
    rows = [[Fraction(float(cell)) for cell in row] for row in rows]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    taken = []
    for j in range(1, count + 1):
        wanted = [j * m - sum(rows[i][side] for i in taken) for side, m in enumerate(mean)]
        left = [i for i in range(len(rows)) if i not in taken]
        taken.append(min(left, key=lambda i: (sum((a - b) ** 2 for a, b in zip(rows[i], wanted, strict=True)), ranks[i])))
    return taken


@settings(max_examples=30, deadline=None)
@given(points=POINTS, seed=st.integers(0, 99), kind=st.sampled_from([torch.float32, torch.float64]), tile=st.integers(1, 20))
def test_herding_is_the_slow_loop(points, seed, kind, tile):
    ranks = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "ROWS", tile)
        order, _ = herded(torch.tensor(points, dtype=kind), len(points), ranks)
    assert order.tolist() == slow_herding(points, len(points), ranks.tolist())


def test_herding_takes_the_nearest_and_not_the_farthest():
    # Released code takes the argmax of this distance: it would begin at 9, which is farthest from the mean of 3.
    rows = torch.tensor([[1.0], [2.0], [3.5], [0.0], [9.0], [2.5]])
    order, apart = herded(rows, 3, torch.arange(6))
    assert order.tolist() == [2, 5, 1] and apart.tolist() == pytest.approx([0.5, 0.0, 1 / 3])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_herding_keeps_the_mean_better_than_chance_and_in_single_precision_as_in_double(kind):
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(2000, 30, generator=draw).to(kind) + 3
    order, apart = herded(rows, 200, torch.arange(2000))
    plain = rows.double()
    wanted, taken = torch.zeros(30, dtype=torch.float64), []
    for _ in range(200):
        wanted += plain.mean(0)
        gaps = (plain - wanted).square().sum(1)
        gaps[taken] = torch.inf
        taken.append(int(gaps.argmin()))
        wanted -= plain[taken[-1]]
    assert order.tolist() == taken
    torch.testing.assert_close(apart[-1], (plain[taken].mean(0) - plain.mean(0)).norm(), rtol=1e-9, atol=1e-12)
    drawn = [float((plain[torch.randperm(2000, generator=draw)[:200]].mean(0) - plain.mean(0)).norm()) for _ in range(20)]
    assert float(apart[-1]) < min(drawn) / 5


def test_herding_refuses_what_overflows():
    with pytest.raises(ValueError, match="not finite"):
        herded(torch.tensor([[0.0], [1e200]], dtype=torch.float64) * 1e100, 1, torch.arange(2))
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        herded(torch.zeros(2, 1), 3, torch.arange(2))
    assert herded(torch.zeros(2, 1), 0, torch.arange(2))[0].tolist() == []


def test_divergences_are_the_mean_of_both_kl_and_finite_at_certain_predictions():
    probs = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(4), 6))
    for p, q in itertools.product(probs, probs):
        forth, back = (float((one * (one / other).log()).sum()) for one, other in ((p, q), (q, p)))
        assert float(symmetric_divergence(p, q)) == pytest.approx((forth + back) / 2, abs=1e-7)
    certain = torch.eye(2, dtype=torch.float64)
    assert (
        float(symmetric_divergence(*certain)) == pytest.approx(-np.log(1e-12))
        and float(symmetric_divergence(certain, certain)[0]) == 0
    )


def test_divergent_centers_are_those_of_the_slow_loop_also_where_predictions_are_certain(monkeypatch):
    draw = np.random.default_rng(3)
    probs = np.concatenate([draw.dirichlet(np.full(3, 0.3), 12), np.eye(3), np.eye(3)])
    probs /= probs.sum(1, keepdims=True)
    ranks = torch.from_numpy(draw.permutation(18))

    def apart(one, other):
        return 0.5 * sum(
            a * (np.log(a + 1e-12) - np.log(b + 1e-12)) + b * (np.log(b + 1e-12) - np.log(a + 1e-12))
            for a, b in zip(one, other, strict=True)
        )

    centers = [min(range(18), key=lambda i: (apart(probs[i], probs.mean(0)), ranks[i]))]
    while len(centers) < 12:
        left = [i for i in range(18) if i not in centers]
        centers.append(min(left, key=lambda i: (-min(apart(probs[i], probs[c]) for c in centers), ranks[i])))
    monkeypatch.setattr(coverage, "ROWS", 5)
    order, radii = most_divergent_first(torch.from_numpy(probs), 12, ranks)
    assert order.tolist() == centers and bool(radii.isfinite().all())


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
