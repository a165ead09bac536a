import pytest
import torch

from assay.maths.example_vectors import DenseVectors, OuterVectors


def drawn(n=7, inputs=4, outputs=3):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, inputs, generator=draw, dtype=torch.float64), torch.randn(
        n, outputs, generator=draw, dtype=torch.float64
    )


def test_outer_products_are_what_their_rows_are():
    left, right = drawn()
    outer, dense = OuterVectors(left, right), DenseVectors((right[:, :, None] * left[:, None]).flatten(1))
    some, weights = torch.tensor([5, 0, 5]), torch.arange(7, dtype=torch.float64)
    assert len(outer) == len(dense) == 7
    assert torch.allclose(outer.dots(some, slice(None)), dense.dots(some, slice(None)))
    assert torch.allclose(outer.dots(some, torch.tensor([1])), dense.dots(some, torch.tensor([1])))
    assert torch.allclose(outer.sq_norms(), dense.sq_norms())
    assert torch.allclose(outer.total(weights).flatten(), dense.total(weights))
    assert torch.allclose(outer.along(outer.total(weights)), dense.along(dense.total(weights)))
    assert torch.allclose(outer.take(some).times(weights[:3]).sq_norms(), dense.take(some).times(weights[:3]).sq_norms())
    assert outer.to(torch.float32).dtype == torch.float32 and outer.centred() is outer


@pytest.mark.parametrize("made", [DenseVectors(drawn()[0]), OuterVectors(*drawn())])
def test_what_is_taken_is_copied(made):
    before = made.sq_norms()
    one = made.take(torch.arange(7))
    for tensor in vars(one).values():
        tensor.zero_()
    assert torch.equal(made.sq_norms(), before)


def test_centred_rows_have_the_same_distances():
    rows = drawn()[0] + 1e4
    assert torch.allclose(
        torch.cdist(DenseVectors(rows).centred().rows, DenseVectors(rows).centred().rows), torch.cdist(rows, rows)
    )
    assert float(DenseVectors(rows).centred().rows.mean().abs()) < 1e-10
