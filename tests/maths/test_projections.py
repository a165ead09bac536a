import math

import pytest
import torch

from assay.maths.projections import project, rademacher

PARTS = {"a": torch.Size([7, 5]), "b": torch.Size([40]), "c": torch.Size([])}


def values(rows=6, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(rows, *shape, generator=draw, dtype=dtype) for name, shape in PARTS.items()}


def dense(parts, dims, seed):
    whole = torch.cat([part.reshape(len(part), -1) for part in parts.values()], 1)
    matrix = torch.cat([rademacher(seed, name, range(shape.numel()), dims) for name, shape in PARTS.items()])
    return whole @ matrix


@pytest.mark.parametrize("dims", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("tile_bytes", [1, 4000, 2**25])
def test_it_is_the_dense_projection_whatever_the_tiles(dims, tile_bytes):
    torch.testing.assert_close(project(values(), dims, 3, tile_bytes), dense(values(), dims, 3), rtol=1e-13, atol=1e-13)


def test_the_matrix_is_the_same_bytes_whatever_part_is_made():
    whole = rademacher(5, "a", range(1000), 130)
    for step in (1, 7, 64, 999):
        parts = [rademacher(5, "a", range(start, min(start + step, 1000)), 130) for start in range(0, 1000, step)]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(rademacher(6, "a", range(1000), 130), whole)
    assert not torch.equal(rademacher(5, "b", range(1000), 130), whole)
    # More columns leave the first ones as they are, but for their size.
    more = rademacher(5, "a", range(1000), 260)
    assert torch.equal(more[:, :130].sign(), whole.sign()) and not torch.equal(more[:, 130:].sign(), whole.sign())
    assert torch.equal(rademacher(5, "a", range(9), 130, torch.float32), whole[:9].float())


def test_its_entries_are_of_one_size_and_as_many_of_each_sign():
    matrix = rademacher(0, "a", range(4000), 100)
    assert torch.equal(matrix.abs().unique(), torch.tensor([1 / math.sqrt(100)], dtype=torch.float64))
    assert abs(float(matrix.sign().mean())) < 4 / math.sqrt(matrix.numel())
    # Columns, and rows, know nothing of each other.
    assert float((matrix.T @ matrix / 4000 * 100 - torch.eye(100)).abs().max()) < 6 / math.sqrt(4000)
    assert float((matrix[:200] @ matrix[:200].T - torch.eye(200)).abs().max()) < 6 / math.sqrt(100)


def test_the_error_of_inner_products_is_that_of_the_theory():
    parts, dims, seeds = values(2), 32, 2000
    x, y = torch.cat([part.reshape(len(part), -1) for part in parts.values()], 1)
    found = torch.tensor([float(torch.dot(*project(parts, dims, seed))) for seed in range(seeds)], dtype=torch.float64)
    true = float(x @ y)
    variance = float(x @ x * (y @ y) + true**2 - 2 * (x * y).square().sum()) / dims
    assert abs(float(found.mean()) - true) < 4 * math.sqrt(variance / seeds)
    # The variance of a variance of nearly normal numbers is 2 / seeds of its square.
    assert abs(float((found - true).square().mean()) / variance - 1) < 5 * math.sqrt(2 / seeds)


def test_half_precision_is_projected_in_single():
    parts = {name: part.half() for name, part in values().items()}
    found = project(parts, 50, 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), dense({name: part.double() for name, part in parts.items()}, 50, 1), rtol=1e-5, atol=1e-5
    )


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to project"):
        project({}, 5)
