import pytest
import torch

from assay.maths.damping import CARRIED, balanced_damping, carried

VALUES = torch.tensor([0.0, 1e-4, 0.1, 2.0, 5.0], dtype=torch.float64)
SQUARES = torch.tensor([3.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64)


def test_of_one_curvature_the_damping_is_a_multiple_of_that_curvature():
    for value in (1e-6, 0.3, 40.0):
        found = balanced_damping(torch.tensor([value], dtype=torch.float64), torch.ones(1, dtype=torch.float64), 0.5)
        assert found == pytest.approx(value)


def test_the_part_that_damping_carries_is_that_of_the_solved_system():
    torch.manual_seed(0)
    half = torch.randn(6, 9, dtype=torch.float64)
    matrix, gradient = half @ half.T / 9, torch.randn(6, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(matrix)
    squares = (vectors.T @ gradient).square()
    found = balanced_damping(values, squares)
    v = torch.linalg.solve(matrix + found * torch.eye(6, dtype=torch.float64), gradient)
    assert found * float(v @ gradient) / float(gradient @ gradient) == pytest.approx(CARRIED)
    assert balanced_damping(7 * values, squares) == pytest.approx(7 * found)


def test_it_rises_with_the_damping_and_leaves_out_directions_without_curvature():
    parts = [carried(VALUES, SQUARES, 10.0**power) for power in range(-8, 5)]
    assert 0 < parts[0] < 0.01 and 0.99 < parts[-1] < 1 and parts == sorted(parts)
    assert balanced_damping(VALUES, SQUARES) == balanced_damping(VALUES[1:], SQUARES[1:])


def test_no_curvature_along_the_gradient_tells_no_damping():
    for values, squares in ((0 * VALUES, SQUARES), (-VALUES, SQUARES), (VALUES, SQUARES * (VALUES == 0))):
        with pytest.raises(ValueError, match="give a number"):
            balanced_damping(values, squares)
    assert balanced_damping(VALUES - 1e-3, SQUARES) > 0
