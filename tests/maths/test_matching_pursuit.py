import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from assay.maths.example_vectors import DenseVectors, OuterVectors
from assay.maths.matching_pursuit import matching_pursuit


def drawn(n=10, dims=4, seed=0, shift=0.3):
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def best(rows, target, ridge):
    """Weights of at least 0 by another solver, and what they leave."""
    root = ridge**0.5 * np.eye(len(rows))
    weights, _ = nnls(np.vstack([rows.T.numpy(), root]), np.concatenate([target.numpy(), np.zeros(len(rows))]))
    weights = torch.from_numpy(weights)
    return weights, float((weights @ rows - target).square().sum() + ridge * weights.square().sum())


@pytest.mark.parametrize("ridge", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_run_to_its_end_it_has_the_best_weights_of_all(ridge, seed):
    rows = drawn(seed=seed)
    target = rows.mean(0)
    inside, weights, rests = matching_pursuit(DenseVectors(rows), target, 10, ridge)
    exact, least = best(rows, target, ridge)
    assert abs(float(rests[-1]) - least) < 1e-9 and bool((weights > 0).all())
    if ridge:
        assert torch.allclose(torch.zeros(10, dtype=torch.float64).index_copy(0, inside, weights), exact, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_rest_falls_with_every_step_and_the_weights_are_the_best_of_those_inside(seed):
    rows = drawn(30, 8, seed, 0.1)
    target = rows.mean(0)
    before = float(target.square().sum())
    for count in range(1, 12):
        inside, weights, rests = matching_pursuit(DenseVectors(rows), target, count, 0.5)
        assert len(inside) == len(inside.unique()) <= count
        assert bool((rests.diff() <= 1e-12).all()) and float(rests[-1]) <= before
        exact, least = best(rows[inside], target, 0.5)
        assert torch.allclose(weights, exact, atol=1e-9) and abs(least - float(rests[-1])) < 1e-9
        before = float(rests[-1])


def test_some_go_out_again():
    # Over all of these draws at least one does, or the test above tests less than it says.
    steps = [
        matching_pursuit(DenseVectors(drawn(30, 8, seed, 0.1)), drawn(30, 8, seed, 0.1).mean(0), 20, 1e-3) for seed in range(6)
    ]
    assert any(len(rests) > len(inside) for inside, _, rests in steps)


def test_one_vector_is_the_one_of_the_largest_inner_product():
    rows = drawn(8, 3, 2)
    target = rows.mean(0)
    inside, weights, rests = matching_pursuit(DenseVectors(rows), target, 1, 0.25)
    first = int((rows @ target).argmax())
    assert inside.tolist() == [first] and torch.allclose(weights[0], (rows[first] @ target) / (rows[first].square().sum() + 0.25))
    alone = min(best(rows[[j]], target, 0.25)[1] for j in range(8))
    assert float(rests[0]) >= alone - 1e-12


def test_few_are_near_the_best_few():
    rows = drawn(9, 4, 1)
    target = rows.mean(0)
    _, _, rests = matching_pursuit(DenseVectors(rows), target, 3, 0.1)
    least = min(best(rows[list(subset)], target, 0.1)[1] for subset in itertools.combinations(range(9), 3))
    assert least - 1e-12 <= float(rests[-1]) < float(target.square().sum())


def test_outer_products_are_matched_as_their_rows():
    left, right = drawn(12, 4, 3), drawn(12, 3, 4)
    outer, dense = OuterVectors(left, right), DenseVectors((right[:, :, None] * left[:, None]).flatten(1))
    even = torch.full((12,), 1 / 12, dtype=torch.float64)
    one, other = (matching_pursuit(made, made.total(even), 5, 0.1) for made in (outer, dense))
    assert torch.equal(one[0], other[0]) and torch.allclose(one[1], other[1])


def test_equal_vectors_and_a_target_out_of_reach():
    inside, weights, _ = matching_pursuit(DenseVectors(torch.ones(3, 2)), torch.ones(2, dtype=torch.float64), 3, 0.0)
    assert inside.tolist() == [0] and weights.tolist() == pytest.approx([1.0])
    inside, weights, rests = matching_pursuit(DenseVectors(torch.ones(3, 2)), -torch.ones(2, dtype=torch.float64), 3, 0.1)
    assert len(inside) == len(weights) == len(rests) == 0
    with pytest.raises(ValueError, match="not finite"):
        matching_pursuit(
            DenseVectors(torch.full((3, 2), 1e200, dtype=torch.float64)), torch.full((2,), 1e200, dtype=torch.float64), 1, 0.0
        )
