"""The kernel of a wide ReLU net, rows that point the same way, and what solves it without holding it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths import gram
from assay.maths.gram import Tiles, parallel_rows, relu_gram, solve, unit_rows
from assay.maths.solvers import conjugate_gradients
from reference.cg_score import kernel


def rows(n, dims, seed=0):
    return unit_rows(torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_the_kernel_is_that_of_the_definition(n, dims, seed):
    inputs = torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(relu_gram(unit_rows(inputs)), torch.from_numpy(kernel(inputs.numpy())), rtol=1e-9, atol=1e-9)


def test_the_kernel_is_the_expectation_over_random_relus():
    unit = rows(4, 3)
    weights = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    active = (weights @ unit.T >= 0).to(torch.float64)
    simulated = (unit @ unit.T) * (active.T @ active) / len(weights)
    torch.testing.assert_close(relu_gram(unit), simulated, rtol=0, atol=4e-3)


def test_rows_that_point_the_same_way_are_found_whatever_their_length():
    inputs = torch.randn(300, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs[250], inputs[299], inputs[40], inputs[7] = 3.5 * inputs[3], 1e-8 * inputs[3], inputs[9] * (1 + 1e-15), -inputs[5]
    expected = torch.arange(300)
    expected[[250, 299, 40]] = torch.tensor([3, 3, 9])
    assert torch.equal(parallel_rows(unit_rows(inputs)), expected)
    nearly = inputs.clone()
    nearly[250] += 1e-4 * torch.randn(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert int(parallel_rows(unit_rows(nearly))[250]) == 250
    H = relu_gram(unit_rows(inputs))
    assert float(H[3, 250]) == 0.5 == float(H[250, 299]) and float(H[5, 7]) == pytest.approx(0, abs=1e-8)


def test_they_are_found_across_tiles(monkeypatch):
    monkeypatch.setattr(gram, "TILE", 3)
    inputs = torch.randn(11, 4, generator=torch.Generator().manual_seed(2))
    inputs[10], inputs[4], inputs[5] = inputs[1], inputs[1], inputs[3]
    assert parallel_rows(unit_rows(inputs.double())).tolist() == [0, 1, 2, 3, 1, 3, 6, 7, 8, 9, 1]


def test_zeros_have_no_direction():
    inputs = torch.ones(5, 2)
    inputs[[1, 3]] = 0
    with pytest.raises(ValueError, match=r"Rows \[1, 3\] of the inputs are all zeros.*leave the 2 of them out"):
        unit_rows(inputs)


def test_a_kernel_is_solved_or_told_to_have_no_inverse():
    H, signs = (
        relu_gram(rows(30, 10)),
        torch.sign(torch.randn(30, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)),
    )
    for jitter in (0.0, 0.01):
        whole = torch.linalg.inv(H + jitter * torch.eye(30))
        found = solve(H.clone(), signs, jitter)
        torch.testing.assert_close(found.products, whole @ signs)
        torch.testing.assert_close(found.diagonal, whole.diagonal())
    assert solve(torch.full((2, 2), 0.6, dtype=torch.float64), signs[:2]) is None


@pytest.mark.parametrize("room", [0, 2000, 10**9])
def test_tiles_multiply_as_the_whole_kernel_does(monkeypatch, room):
    monkeypatch.setattr(gram, "TILE", 16)
    monkeypatch.setattr(gram, "CACHE_BYTES", room)
    unit, vectors = rows(50, 8), torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tiles = Tiles(unit, jitter=0.1)
    expected = (relu_gram(unit) + 0.1 * torch.eye(50)) @ vectors
    for _ in range(2):
        torch.testing.assert_close(tiles.times(vectors), expected, rtol=1e-5, atol=1e-5)
    assert sum(tile.nbytes for tile in tiles._cache.values()) <= room


@given(st.integers(1, 25), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_conjugate_gradients_solve(n, columns, seed):
    draw = torch.Generator().manual_seed(seed)
    square = torch.randn(n, n, generator=draw, dtype=torch.float64)
    matrix = square @ square.T / n + torch.eye(n)
    right = torch.randn(n, columns, generator=draw, dtype=torch.float64)
    found = conjugate_gradients(lambda v: matrix @ v, right, most=200, rtol=1e-10)
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, right), rtol=1e-7, atol=1e-7)
    assert found.residual <= 1e-10 and found.iterations <= 2 * n + 5


def test_conjugate_gradients_stop_where_they_are_told_to_and_say_how_far_they_came():
    matrix = torch.diag(torch.logspace(0, 4, 40, dtype=torch.float64))
    right = torch.ones(40, 1, dtype=torch.float64)
    found = conjugate_gradients(lambda v: matrix @ v, right, most=5, rtol=1e-10)
    left = float((right - matrix @ found.x).norm() / right.norm())
    assert found.iterations == 5 and found.residual == pytest.approx(left, rel=1e-6) and left > 1e-3
    assert math.isfinite(left) and np.isfinite(found.x.numpy()).all()


def test_rows_that_nearly_point_the_same_way_take_no_more_memory_than_others(monkeypatch):
    monkeypatch.setattr(gram, "TILE", 50)
    nearly = unit_rows(torch.ones(120, 6, dtype=torch.float64) + 1e-4 * rows(120, 6))
    assert torch.equal(parallel_rows(nearly), torch.arange(120))
    assert parallel_rows(unit_rows(torch.ones(120, 6, dtype=torch.float64))).tolist() == [0] * 120
