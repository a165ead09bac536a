import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from assay.maths.layer_pairs import layer_pairs
from assay.maths.projections import axis_matrix, project, project_chunks, project_pairs, rademacher

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


def pairs_of(module, inputs, cotangents=1.0):
    params = dict(module.named_parameters())

    def losses(at):
        return (functional_call(module, at, (inputs,)).flatten(1) * cotangents).square().sum(1)

    return list(layer_pairs(module, losses, params, tuple(params))), losses, params


NETS = {
    "linear": lambda: (nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3, bias=False)), torch.randn(5, 7)),
    "tokens": lambda: (nn.Sequential(nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 2)), torch.randint(9, (5, 4))),
    "images": lambda: (
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 5, 2, bias=False)),
        torch.randn(5, 4, 5, 5),
    ),
}


@pytest.mark.parametrize("side", [1, 3, 30])
@pytest.mark.parametrize("kind", NETS)
def test_pairs_give_the_whole_gradient_times_the_kronecker_product(kind, side):
    torch.manual_seed(0)
    module, inputs = NETS[kind]()
    module = module.double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    pairs, losses, params = pairs_of(module, inputs)
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    each = [
        dict(zip(leaves, torch.autograd.grad(one, list(leaves.values()), retain_graph=True), strict=True))
        for one in losses(leaves)
    ]
    assert len({pair.matrix for pair in pairs}) > 1
    for pair in pairs:
        matrix = pair.matrix
        group, out, across = (
            axis_matrix(2, f"{matrix.names[0]} {what}", size, side)
            for what, size in (("groups", matrix.groups), ("outputs", matrix.outputs), ("inputs", matrix.columns))
        )
        kronecker = torch.kron(torch.kron(group, out), across)
        whole = torch.stack([matrix.of(one).flatten() for one in each])[pair.rows]
        found = project_pairs(pair, side, 2)
        torch.testing.assert_close(found, whole @ kronecker, rtol=1e-10, atol=1e-10 * float(whole.abs().max()))
        if side == 30:
            # Nothing has more numbers, so that inner products are what they were.
            torch.testing.assert_close(found @ found.T, whole @ whole.T, rtol=1e-10, atol=1e-10)


def test_inner_products_survive_a_kronecker_projection_on_average():
    torch.manual_seed(0)
    pairs, _, _ = pairs_of(nn.Linear(12, 9).double(), torch.randn(2, 12, dtype=torch.float64))
    (pair,) = pairs
    side, seeds = 6, 3000
    found = torch.tensor([float(torch.dot(*project_pairs(pair, side, seed))) for seed in range(seeds)], dtype=torch.float64)
    one, other = project_pairs(pair, 100)
    assert abs(float(found.mean()) - float(one @ other)) < 4 * float(found.std()) / math.sqrt(seeds)
    assert float(found.std()) > 0.1 * abs(float(one @ other))


def test_chunks_are_projected_like_one():
    whole = values()
    chunks = [{name: part[rows] for name, part in whole.items()} for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    found = project_chunks(chunks, 65, 3, 4000)
    assert [len(part) for part in found] == [1, 3, 2]
    torch.testing.assert_close(torch.cat(found), project(whole, 65, 3), rtol=1e-13, atol=1e-13)
