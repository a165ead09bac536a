import math

import pytest
import torch

from assay.maths.params import flatten, unflatten
from assay.maths.solvers import conjugate_gradients

N = 12


def system(seed=0, smallest=0.1):
    """A symmetric matrix with eigenvalues from `smallest` to 5, and a right-hand side."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(N, N, generator=draw, dtype=torch.float64)).Q
    values = torch.linspace(smallest, 5, N, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, torch.randn(N, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_damped_system_is_solved(damping, preconditioned):
    matrix, b = system()
    inverse = 1 / (matrix.diagonal() + damping)
    found = conjugate_gradients(
        lambda v: matrix @ v,
        b,
        damping=damping,
        rtol=1e-12,
        most=100,
        precondition=(lambda v: inverse * v) if preconditioned else None,
    )
    whole = matrix + damping * torch.eye(N, dtype=torch.float64)
    torch.testing.assert_close(found.x, torch.linalg.solve(whole, b), rtol=1e-10, atol=1e-10)
    assert found.residual <= 1e-12 and 1 < found.iterations <= N + 5
    least, most = torch.linalg.eigvalsh(whole)[[0, -1]].tolist()
    assert least - 1e-12 <= found.curvature <= most


def test_a_good_preconditioner_takes_fewer_iterations():
    matrix, b = system()
    inverse = torch.linalg.inv(matrix)
    plain = conjugate_gradients(lambda v: matrix @ v, b, most=100)
    assert (
        conjugate_gradients(lambda v: matrix @ v, b, most=100, precondition=lambda v: inverse @ v).iterations
        < plain.iterations / 3
    )


def test_named_tensors_are_solved_as_the_one_vector_that_they_are():
    matrix, b = system()
    like = {"w": torch.zeros(3, 3, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}
    inverse = 1 / matrix.diagonal()
    found = conjugate_gradients(
        lambda v: unflatten(matrix @ flatten(v), like),
        unflatten(b, like),
        most=100,
        rtol=1e-12,
        precondition=lambda v: unflatten(inverse * flatten(v), like),
    )
    assert found.x["w"].shape == (3, 3)
    torch.testing.assert_close(flatten(found.x), torch.linalg.solve(matrix, b), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("smallest", [-0.5, 0.0])
def test_a_matrix_that_is_not_positive_definite_is_refused_with_the_damping_that_helps(smallest):
    matrix = torch.diag(torch.tensor([smallest, 1.0, 2.0], dtype=torch.float64))
    b = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"not positive definite: with damping 0 its curvature along a direction is .*; give a damping above"
    ) as error:
        conjugate_gradients(lambda v: matrix @ v, b, most=10)
    cure = float(str(error.value).rpartition(" ")[2]) * 1.01
    assert conjugate_gradients(lambda v: matrix @ v, b, most=10, damping=cure).residual < 1e-8


def test_products_that_are_not_finite_are_told():
    with pytest.raises(ValueError, match="not finite"):
        conjugate_gradients(lambda v: v * math.nan, torch.ones(3), most=10)


def test_negative_curvature_of_one_column_is_seen_beside_others():
    matrix = torch.diag(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="curvature along a direction is -1"):
        conjugate_gradients(lambda v: matrix @ v, torch.eye(2, dtype=torch.float64), most=10)


def test_a_column_that_is_solved_waits_for_the_others():
    matrix, b = system()
    eigenvector = torch.linalg.eigh(matrix).eigenvectors[:, 0]
    both = torch.stack([eigenvector, b, torch.zeros_like(b)], 1)
    found = conjugate_gradients(lambda v: matrix @ v, both, most=100, rtol=1e-12)
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, both), rtol=1e-9, atol=1e-9)


def test_nothing_is_solved_by_nothing():
    found = conjugate_gradients(lambda v: v, torch.zeros(4, dtype=torch.float64), most=10)
    assert found.iterations == 0 and found.residual == 0 and not found.x.any() and found.curvature == math.inf
