import pytest
import torch

from assay.maths import similarities
from assay.maths.example_vectors import DenseVectors, OuterVectors
from assay.maths.similarities import Similarity


def rows(n=30, dims=5, dtype=torch.float64):
    made = torch.randn(n, dims, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    made[3] = made[20] = made[11]
    return made


def obvious(rows, kind):
    """Pair by pair."""
    if kind == "cosine":
        return torch.stack([(1 + torch.nn.functional.cosine_similarity(one[None], rows)) / 2 for one in rows])
    reach = 2 * (rows - rows.mean(0)).norm(dim=1).max()
    return torch.stack([1 - (one - rows).norm(dim=1) / reach for one in rows])


@pytest.fixture(params=["kept", "tiles"])
def held(request, monkeypatch):
    if request.param == "tiles":
        monkeypatch.setattr(similarities, "WHOLE_BYTES", 0)
        monkeypatch.setattr(similarities, "TILE", 4)


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
def test_similarities_pair_by_pair(held, kind):
    made, found, every = rows(), Similarity(DenseVectors(rows()), kind), torch.arange(30)
    there = obvious(made, kind)
    assert torch.allclose(found.rows(every), there) and torch.allclose(found.totals(), there.sum(1))
    assert torch.allclose(found.between(every[:3], every[5:9]), there[:3, 5:9]) and torch.allclose(found.own(), there.diagonal())
    assert float(found.rows(every).min()) >= 0 and float(found.rows(every).max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_far_from_0_are_at_no_distance(held, dtype):
    found = Similarity(DenseVectors(rows(dtype=dtype) + 1000), "euclidean")
    assert torch.equal(found.rows(torch.tensor([3]))[0, [3, 11, 20]], torch.ones(3, dtype=found.rows(torch.tensor([3])).dtype))
    assert float(found.rows(torch.tensor([3]))[0, 4]) < 1


def test_distances_of_outer_products(held):
    left, right = rows(), rows(dims=3)
    found, whole = Similarity(OuterVectors(left, right), "euclidean"), (right[:, :, None] * left[:, None]).flatten(1)
    apart = 1 - torch.cdist(whole, whole) / (2 * whole.norm(dim=1).max())
    assert torch.allclose(found.rows(torch.arange(30)), apart)


def test_rows_of_zeros_are_at_right_angles_to_all_and_equal_rows_alike():
    made = rows()
    made[0] = 0
    found = Similarity(DenseVectors(made))
    assert (
        torch.equal(found.rows(torch.tensor([0]))[0], torch.full((30,), 0.5, dtype=torch.float64))
        and float(found.own()[0]) == 0.5
    )
    assert torch.equal(
        Similarity(DenseVectors(torch.ones(4, 2)), "euclidean").rows(torch.arange(4)), torch.ones(4, 4, dtype=torch.float64)
    )


def test_what_overflows_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        Similarity(DenseVectors(torch.tensor([[1e200], [0.0]], dtype=torch.float64)))


def test_no_more_than_a_tile_is_held(monkeypatch):
    monkeypatch.setattr(similarities, "WHOLE_BYTES", 0)
    monkeypatch.setattr(similarities, "TILE", 4)
    found, sizes = Similarity(DenseVectors(rows()), "euclidean"), []
    made = found._made
    monkeypatch.setattr(found, "_made", lambda left, right: [sizes.append(len(left)), made(left, right)][1])
    found.totals()
    assert max(sizes) == 4


def test_rows_of_nearly_0_have_their_direction_in_single_precision_too(monkeypatch):
    monkeypatch.setattr(similarities, "WHOLE_BYTES", 0)
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(6, 3, generator=draw), torch.randn(6, 2, generator=draw)
    tiny = right * torch.tensor([1.0, 1e-38, 1, 1e-36, 1, 1])[:, None]
    tiny[0] = torch.tensor([1.0, 0.0])
    whole = Similarity(OuterVectors(left, torch.cat([tiny[:1], right[1:]]))).rows(torch.arange(6))
    assert torch.allclose(Similarity(OuterVectors(left, tiny)).rows(torch.arange(6)), whole, atol=1e-5)
    tiny[1] = torch.tensor([0.0, 1e-42])
    assert bool(Similarity(OuterVectors(left, tiny)).rows(torch.arange(6)).isfinite().all())
