"""Leaving one example out of a quadratic objective, against the whole matrices."""

import pytest
import torch

from assay.maths.leverage import left_out, one_direction

N, OUTPUTS, PARAMS = 6, 3, 8


def world(outputs=OUTPUTS):
    draw = torch.Generator().manual_seed(0)
    J = torch.randn(N, outputs, PARAMS, generator=draw, dtype=torch.float64)
    root = torch.randn(N, outputs, outputs, generator=draw, dtype=torch.float64)
    first = torch.randn(N, outputs, generator=draw, dtype=torch.float64)
    own = J.mT @ root @ root.mT @ J
    return J, root, first, own, own.sum(0) / N + 0.1 * torch.eye(PARAMS, dtype=torch.float64)


def test_one_newton_step_is_the_first_order_of_the_matrix_without_the_example():
    J, root, first, own, matrix = world()
    grams = J @ torch.linalg.inv(matrix) @ J.mT
    found, leverages = left_out(first, root, grams, N, "newton_step")
    steps = torch.linalg.solve(matrix, (J.mT @ found[:, :, None])[:, :, 0].T).T
    for i in range(N):
        expected = torch.linalg.solve(matrix - own[i] / N, J[i].T @ first[i])
        torch.testing.assert_close(steps[i], expected, rtol=1e-9, atol=1e-10)
    assert bool(((leverages > 0) & (leverages < 1)).all())


def test_of_one_output_the_leverage_is_the_newton_step():
    J, root, first, _, matrix = world(1)
    grams = J @ torch.linalg.inv(matrix) @ J.mT
    (step, _), (corrected, leverages) = (left_out(first, root, grams, N, form) for form in ("newton_step", "leverage"))
    torch.testing.assert_close(step, corrected)
    torch.testing.assert_close(leverages, (root[:, 0, 0].square() * grams[:, 0, 0]) / N)
    same, again = left_out(first, root, grams, N, "first_order")
    assert torch.equal(same, first) and torch.equal(again, leverages)


@pytest.mark.parametrize("form", ["newton_step", "leverage"])
def test_what_leaves_nothing_is_told_by_its_leverage(form):
    J, root, first, _, matrix = world(OUTPUTS if form == "newton_step" else 1)
    grams = J @ torch.linalg.inv(matrix) @ J.mT
    grams[2] *= 200
    found, leverages = left_out(first, root, grams, N, form)
    assert float(leverages[2]) >= 1 and bool(found[[0, 1, 3, 4, 5]].isfinite().all())


def test_where_the_curvature_has_one_direction():
    assert one_direction(world(1)[1]) and not one_direction(world(2)[1])
    for classes, one in ((2, True), (3, False)):
        p = torch.softmax(torch.linspace(-9, 9, N * classes, dtype=torch.float64).reshape(N, classes).roll(1, 1), 1)
        assert one_direction(torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]) == one
