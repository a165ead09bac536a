import math

import pytest
import torch

from assay.maths.damping import balanced_damping, dominated

VALUES = torch.tensor([0.0, 1e-4, 0.1, 2.0, 5.0], dtype=torch.float64)
SQUARES = torch.tensor([3.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64)


def test_of_one_curvature_the_damping_is_that_curvature():
    for value in (1e-6, 0.3, 40.0):
        found = balanced_damping(torch.tensor([value], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
        assert found == pytest.approx(value)


def test_the_part_that_damping_dominates_is_one_half_for_the_last_time_where_it_is_found():
    found = balanced_damping(VALUES, SQUARES)
    parts = {power: dominated(VALUES, SQUARES, 10.0**power) for power in range(-8, 5)}
    assert 0 < parts[-8] < 0.01 and 0.99 < parts[4] < 1
    assert list(parts.values()) != sorted(parts.values())
    assert all(part > 0.5 for power, part in parts.items() if 10.0**power > found)
    assert dominated(VALUES, SQUARES, found) == pytest.approx(0.5)

    def log_of_own_influence(log_damping):
        return (SQUARES[1:] / (VALUES[1:] + log_damping.exp())).sum().log()

    at = torch.tensor(math.log(found), dtype=torch.float64, requires_grad=True)
    assert float(torch.autograd.grad(log_of_own_influence(at), at)[0]) == pytest.approx(-0.5)
    assert balanced_damping(VALUES[1:], SQUARES[1:]) == found
    assert balanced_damping(7 * VALUES, SQUARES) == pytest.approx(7 * found)


def test_no_curvature_along_the_gradient_tells_no_damping():
    for values, squares in ((0 * VALUES, SQUARES), (-VALUES, SQUARES), (VALUES, SQUARES * (VALUES == 0))):
        with pytest.raises(ValueError, match="give a number"):
            balanced_damping(values, squares)
    assert math.isfinite(balanced_damping(VALUES - 1e-3, SQUARES))
