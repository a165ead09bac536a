import math

import pytest
import torch

from assay.maths import solvers
from assay.maths.params import flatten, unflatten
from assay.maths.solvers import conjugate_gradients, lanczos, neumann_series

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


@pytest.mark.parametrize("columns", [0, 3])
@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_neumann_series_solves_the_same_system(columns, damping, preconditioned):
    matrix, b = system()
    b = torch.stack([b, 0 * b, matrix[0]], 1) if columns else b
    inverse = torch.linalg.inv(matrix + (damping + 0.05) * torch.eye(N, dtype=torch.float64))
    found = neumann_series(
        lambda v: matrix @ v,
        b,
        damping=damping,
        rtol=1e-11,
        most=2000,
        precondition=(lambda v: inverse @ v) if preconditioned else None,
    )
    whole = matrix + damping * torch.eye(N, dtype=torch.float64)
    torch.testing.assert_close(found.x, torch.linalg.solve(whole, b), rtol=1e-9, atol=1e-9)
    assert found.residual <= 1e-11 and found.iterations < (60 if preconditioned else 2000)
    assert found.curvature >= float(torch.linalg.eigvalsh(whole)[0]) - 1e-12


@pytest.mark.parametrize("products", [1, 30])
def test_a_neumann_series_finds_its_step_where_power_iteration_is_blind(products, monkeypatch):
    # With one product only, the largest eigenvalue is far underestimated.
    monkeypatch.setattr(solvers, "LARGEST", products)
    matrix = torch.diag(torch.linspace(1, 50, N, dtype=torch.float64))
    b = torch.ones(N, dtype=torch.float64) * 1e-12
    b[0] = 1
    (found, of_one) = (neumann_series(lambda v: matrix @ v, one, most=5000) for one in (b, b[:, None]))
    torch.testing.assert_close(found.x, b / matrix.diagonal(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(of_one.x[:, 0], found.x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solve", [conjugate_gradients, neumann_series])
def test_few_iterations_leave_a_residual_that_is_told(solve):
    matrix, b = system()
    found = solve(lambda v: matrix @ v, b, most=3)
    assert found.iterations == 3 and found.residual > 1e-8
    assert found.residual == pytest.approx(float((b - matrix @ found.x).norm() / b.norm()))


def test_a_neumann_series_refuses_negative_curvature_and_what_is_not_finite():
    matrix = torch.diag(torch.tensor([-0.5, 1.0, 2.0], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"not positive definite: .*give a damping above"):
        neumann_series(lambda v: matrix @ v, torch.ones(3, dtype=torch.float64), most=500)
    with pytest.raises(ValueError, match="not finite"):
        neumann_series(lambda v: v * math.nan, torch.ones(3, dtype=torch.float64), most=10)
    assert not neumann_series(lambda v: v, torch.zeros(3, dtype=torch.float64), most=10).x.any()


def test_lanczos_of_full_rank_has_all_eigenvalues_and_vectors():
    matrix, b = system()
    found = lanczos(lambda v: matrix @ v, b, N + 5)
    values = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(found.values, values, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.vectors @ torch.diag(found.values) @ found.vectors.T, matrix, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.weights, (found.vectors.T @ b).square() / b.square().sum(), rtol=1e-8, atol=1e-12)
    assert found.whole


def test_lanczos_of_low_rank_solves_for_its_start_as_conjugate_gradients_do():
    matrix, b = system()
    pairs = lanczos(lambda v: matrix @ v, b, 5)
    x = pairs.vectors @ ((pairs.vectors.T @ b) / pairs.values)
    torch.testing.assert_close(x, conjugate_gradients(lambda v: matrix @ v, b, most=5).x, rtol=1e-9, atol=1e-10)
    assert pairs.values.shape == (5,) and not pairs.whole


def test_lanczos_goes_on_where_the_start_makes_no_more_directions():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 2.0, 3.0, 0.0], dtype=torch.float64))
    start = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    few, every = (lanczos(lambda v: matrix @ v, start, rank) for rank in (2, 5))
    torch.testing.assert_close(few.values, torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert few.whole
    torch.testing.assert_close(every.values, torch.tensor([0.0, 1.0, 2.0, 2.0, 3.0], dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(every.vectors.T @ every.vectors, torch.eye(5, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="not finite"):
        lanczos(lambda v: v * math.nan, start, 3)
