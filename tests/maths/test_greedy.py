"""Greedy maximisation of the three functions, against the functions themselves, taken as they are written down, and against every subset."""

import itertools
import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from assay.maths import greedy, similarities
from assay.maths.example_vectors import DenseVectors
from assay.maths.greedy import maximise
from assay.maths.similarities import Similarity
from assay.maths.submodular import FacilityLocation, GraphCut, LogDeterminant

MADE = {
    "facility location": FacilityLocation,
    "graph cut": lambda similarity: GraphCut(similarity, 0.3),
    "rising graph cut": lambda similarity: GraphCut(similarity, 2.0),
    "log determinant": lambda similarity: LogDeterminant(similarity, 0.05),
}


def whole(rows):
    return (1 + torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T) / 2


def value(what, s, chosen):
    """The function of a set, as it is written down."""
    chosen = list(chosen)
    if not chosen:
        return 0.0
    if what == "facility location":
        return float(s[:, chosen].max(1).values.sum())
    if what == "log determinant":
        return float(torch.logdet(s[chosen][:, chosen] + 0.05 * torch.eye(len(chosen), dtype=s.dtype)))
    common = {"graph cut": 0.3, "rising graph cut": 2.0}[what]
    return float(common * s[:, chosen].sum() - s[chosen][:, chosen].sum())


def rows(n=9, dims=3, seed=0):
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["kept", "tiles"])
def held(request, monkeypatch):
    if request.param == "tiles":
        monkeypatch.setattr(similarities, "WHOLE_BYTES", 0)


@pytest.mark.parametrize("what", MADE)
def test_gains_are_what_the_function_grows_by(held, what):
    made = rows()
    s, objective, chosen, every = whole(made), MADE[what](Similarity(DenseVectors(made))), [], torch.arange(9)
    # More than the similarities have factors, so that the log-determinant goes over to its second form.
    for element in (4, 0, 7, 2, 8, 5):
        gains = objective.gains(every)
        for j in set(range(9)) - set(chosen):
            # The similarity of an example with itself counts, and the determinant has the sign of a volume: both are wrong in released code.
            assert math.isclose(gains[j], value(what, s, [*chosen, j]) - value(what, s, chosen), abs_tol=1e-9), (element, j)
        objective.take(element)
        chosen.append(element)


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("seed", range(3))
def test_greedy_reaches_its_part_of_the_best_subset(what, seed):
    made = rows(seed=seed)
    s = whole(made)
    order, gains = maximise(MADE[what](Similarity(DenseVectors(made))), 3)
    reached = value(what, s, order.tolist())
    assert math.isclose(float(gains.sum()), reached, abs_tol=1e-9)
    best = max(value(what, s, subset) for subset in itertools.combinations(range(9), 3))
    assert reached <= best + 1e-9
    if what in ("facility location", "rising graph cut"):
        # The bound is of functions that never fall.
        assert reached >= (1 - 1 / math.e) * best
    # Each step takes what adds most.
    for step in range(3):
        before = order[:step].tolist()
        adds = [value(what, s, [*before, j]) for j in range(9) if j not in before]
        assert math.isclose(value(what, s, order[: step + 1].tolist()), max(adds), abs_tol=1e-9)


@pytest.mark.parametrize("what", MADE)
def test_lazy_takes_what_naive_takes_also_among_equals(held, what, monkeypatch):
    monkeypatch.setattr(greedy, "FIRST", 2)
    made = torch.cat([rows(40, 4), rows(40, 4)[::2], torch.ones(5, 4, dtype=torch.float64)])
    orders = [maximise(MADE[what](Similarity(DenseVectors(made))), 65, how) for how in ("naive", "lazy")]
    assert torch.equal(orders[0][0], orders[1][0]) and torch.allclose(orders[0][1], orders[1][1], atol=1e-9)
    assert len(orders[0][0].unique()) == 65


def test_the_log_determinant_takes_the_same_by_factors_as_by_examples(held, monkeypatch):
    made = torch.cat([rows(40, 4), rows(40, 4)[::3], torch.zeros(2, 4, dtype=torch.float64)])
    orders = []
    for rank in (Similarity.rank, None):
        monkeypatch.setattr(Similarity, "rank", rank)
        orders.append(maximise(LogDeterminant(Similarity(DenseVectors(made)), 0.01), 50))
    assert torch.equal(orders[0][0], orders[1][0]) and torch.allclose(orders[0][1], orders[1][1], atol=1e-9)


@pytest.mark.parametrize("what", MADE)
def test_approximate_steps_add_nearly_what_the_best_would(what):
    made = rows(50, 4)
    s = whole(made)
    order, gains = maximise(MADE[what](Similarity(DenseVectors(made))), 12, "approximate")
    assert len(order.unique()) == 12
    for step, gain in enumerate(gains.tolist()):
        before = order[:step].tolist()
        best = max(value(what, s, [*before, j]) for j in range(50) if j not in before) - value(what, s, before)
        assert gain >= best - 0.1 * abs(best) / 0.9 - 1e-9


def test_lazy_looks_at_few():
    class Counted(FacilityLocation):
        looked = 0

        def gains(self, candidates):
            self.looked += len(candidates)
            return super().gains(candidates)

    lazy, naive = (Counted(Similarity(DenseVectors(rows(200, 4)))) for _ in range(2))
    maximise(lazy, 40), maximise(naive, 40, "naive")
    assert naive.looked == sum(range(161, 201)) and lazy.looked < naive.looked / 4


def test_stochastic_takes_the_best_of_each_sample():
    made, s, seen = rows(30), whole(rows(30)), []

    def sample(step, left):
        seen.append(left[torch.randperm(len(left), generator=torch.Generator().manual_seed(step))[:5]].sort().values)
        return seen[-1]

    order, _ = maximise(FacilityLocation(Similarity(DenseVectors(made))), 6, "stochastic", sample)
    for step, drawn in enumerate(seen):
        before = order[:step].tolist()
        assert int(order[step]) == max(drawn.tolist(), key=lambda j: value("facility location", s, [*before, j]))


def test_what_adds_nothing_follows_by_number():
    made = torch.eye(2, dtype=torch.float64)[[1, 1, 0, 1, 0, 1]]
    order, gains = maximise(FacilityLocation(Similarity(DenseVectors(made))), 6)
    assert order.tolist() == [0, 2, 1, 3, 4, 5] and gains[2:].tolist() == [0.0] * 4
    assert maximise(FacilityLocation(Similarity(DenseVectors(made))), 0)[0].tolist() == []


@pytest.mark.parametrize("count", [-1, 7])
def test_counts_outside_are_refused(count):
    with pytest.raises(ValueError, match=r"outside 0\.\.6"):
        maximise(FacilityLocation(Similarity(DenseVectors(rows(6)))), count)


def test_a_gain_that_is_no_number_is_refused():
    class Broken(FacilityLocation):
        def gains(self, candidates):
            return super().gains(candidates) * float("nan")

    with pytest.raises(ValueError, match="not finite"):
        maximise(Broken(Similarity(DenseVectors(rows(6)))), 2)


@hypothesis.given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 4), st.sampled_from(["cosine", "euclidean"]))
def test_what_a_step_took_from_all_gains_is_their_difference(seed, n, dims, kind):
    draw = torch.Generator().manual_seed(seed)
    # Whole numbers, among which many are alike.
    made = torch.randint(-2, 3, (n, dims), generator=draw).double()
    objective = FacilityLocation(Similarity(DenseVectors(made), kind))
    everyone = torch.arange(n)
    for element in torch.randperm(n, generator=draw)[:10].tolist():
        before = objective.gains(everyone)
        objective.take(element)
        lost, numbers = objective.lost(n)
        assert torch.allclose(lost, before - objective.gains(everyone), atol=1e-9) and numbers <= n
        assert objective.lost(numbers - 1) is None


def test_once_gains_are_told_hardly_any_are_looked_at(held):
    class Counted(FacilityLocation):
        looked, told = 0, 0

        def gains(self, candidates):
            self.looked += len(candidates)
            return super().gains(candidates)

        def lost(self, most):
            found = super().lost(most)
            self.told += found is not None
            return found

    class Untold(Counted):
        def lost(self, most):
            return None

    made = rows(400, 16).float()
    told, untold = (kind(Similarity(DenseVectors(made))) for kind in (Counted, Untold))
    orders = [maximise(one, 200)[0] for one in (told, untold)]
    assert torch.equal(*orders) and told.told > 150 and told.looked < untold.looked / 3


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(4))
def test_told_gains_lead_to_what_naive_takes(seed, kind):
    draw = torch.Generator().manual_seed(seed)
    near = torch.randint(-2, 3, (300, 3), generator=draw) + 1e-4 * torch.randn(300, 3, generator=draw)
    for made in (near.double(), torch.randn(300, 8, generator=draw).double()):
        orders = [maximise(FacilityLocation(Similarity(DenseVectors(made), kind)), 200, how)[0] for how in ("naive", "lazy")]
        assert torch.equal(*orders)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "dims"), [(3000, 8), (3000, 64)])
def test_gains_from_which_losses_were_taken_drift_by_less_than_is_allowed_for(n, dims, monkeypatch):
    monkeypatch.setattr(similarities, "WHOLE_BYTES", 0)
    draw = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(20, dims, generator=draw)
    made = centers[torch.randint(20, (n,), generator=draw)] + torch.randn(n, dims, generator=draw)
    objective = FacilityLocation(Similarity(DenseVectors(made)))
    search, drifts = greedy._Search(objective), []
    for step in range(n // 10):
        search.take(search.best(False), telling=True)
        known = (search._exact & search.left).nonzero().flatten()
        known = known[search._drift()[known] > 0]
        if step % 10 == 9 and len(known):
            drifts.append(
                float(((objective.gains(known) - search.bounds[known]).abs() / search._drift()[known].clamp(min=1e-300)).max())
            )
    assert len(drifts) > 5 and 0 < max(drifts) < 1
