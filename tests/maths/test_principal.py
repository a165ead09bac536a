import numpy as np
import pytest
import torch

from assay.maths.principal import principal_plane


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_the_plane_is_that_of_the_singular_value_decomposition(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-3 + 5
    points, explained = principal_plane(rows)
    u, s, vt = np.linalg.svd(rows.numpy() - rows.numpy().mean(0), full_matrices=False)
    signs = np.sign([vt[k, np.abs(vt[k]).argmax()] for k in (0, 1)])
    assert np.allclose(points.numpy(), u[:, :2] * s[:2] * signs, atol=1e-12)
    assert np.allclose(explained, s[:2] ** 2 / (s**2).sum())


def test_a_mirrored_copy_is_mirrored_and_no_more():
    rows = torch.tensor([[0.0, 0.0], [2.0, 0.1], [4.0, 0.0]])
    points, (first, second) = principal_plane(rows)
    assert points[:, 0].diff().gt(0).all() and first > 0.99 and second < 0.01
    assert torch.allclose(principal_plane(-rows)[0][:, 0], -points[:, 0])


def test_rows_that_do_not_vary_have_one_place():
    points, explained = principal_plane(torch.full((3, 2), 7.0))
    assert not points.any() and explained == (0.0, 0.0)


@pytest.mark.parametrize("rows", [torch.zeros(1, 5), torch.zeros(5, 1), torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])])
def test_what_has_no_plane_is_refused(rows):
    with pytest.raises(ValueError, match="two rows of two finite numbers"):
        principal_plane(rows)
