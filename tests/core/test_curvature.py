"""EK-FAC of a kept model against whole matrices."""

import weakref

import pytest
import torch

from assay.core import curvature
from assay.core.curvature import Curvature, ekfac, factor_pairs
from assay.maths.kronecker import eigenbasis, kronecker_factors
from assay.testing.worlds import EXAMPLES, world


def whole(basis, params):
    unit = torch.eye(sum(value.numel() for value in params.values()), dtype=torch.float64)
    split = unit.split([value.numel() for value in params.values()], 1)
    found = basis.times(
        lambda layer: layer.values,
        {name: part.view(len(unit), *value.shape) for (name, value), part in zip(params.items(), split, strict=True)},
    )
    return torch.cat([value.flatten(1) for value in found.values()], 1)


def exact(model):
    """The Gauss-Newton matrix of the mean loss, by a product with each unit vector."""
    size = sum(value.numel() for value in model.params.values())
    rows = torch.zeros(size, size, dtype=torch.float64)
    for batch in model.batches():
        for place, unit in enumerate(torch.eye(size, dtype=torch.float64)):
            split = unit.split([value.numel() for value in model.params.values()])
            along = {
                name: part.view(value.shape).to(value) for (name, value), part in zip(model.params.items(), split, strict=True)
            }
            rows[place] += torch.cat([part.flatten() for part in batch.ggnvp(along).values()])
    return rows / EXAMPLES


@pytest.fixture(scope="module")
def model():
    replay = world().replay
    return replay.at(replay.kept[-1])


def test_exact_factors_are_those_of_gauss_newton_s_matrix(model):
    keys, names = world().ids.keys, tuple(model.params)
    matrix, found = exact(model), ekfac(model, names, EXAMPLES, "exact", keys)
    # The eigenvalues are the diagonal of the matrix in the basis.
    split = matrix.split([value.numel() for value in model.params.values()], 1)
    params = {name: part.view(len(matrix), *value.shape) for (name, value), part in zip(model.params.items(), split, strict=True)}
    for layer, half in zip(found.layers.values(), found.turned(params), strict=True):
        other = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in model.params.items()}
        rows = half.reshape(len(matrix), -1).T
        cut = rows.split([value.numel() for value in other.values()], 1)
        turned = layer.turned(
            layer.matrix.of({n: part.view(len(rows), *v.shape) for (n, v), part in zip(other.items(), cut, strict=True)})
        )
        torch.testing.assert_close(layer.values.flatten(), turned.reshape(len(rows), -1).diagonal(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("held", [0, 2**26])
def test_what_is_not_kept_is_made_again(model, held, monkeypatch):
    names, keys = tuple(model.params), world().ids.keys
    expected = whole(ekfac(model, names, EXAMPLES, "exact", keys), model.params)
    monkeypatch.setattr(curvature, "HELD", held)
    torch.testing.assert_close(whole(ekfac(model, names, EXAMPLES, "exact", keys), model.params), expected, rtol=0, atol=0)


def test_drawn_factors_have_the_exact_ones_as_their_mean_and_depend_on_nothing_but_ids_and_seed(model):
    names, keys = tuple(model.params), world().ids.keys

    def sides(factors, seed=0, size=None):
        found = kronecker_factors(factor_pairs(model.batches(size), names, factors, keys, seed), EXAMPLES)
        return torch.cat([one.gradients.flatten() for one in found])

    draws = torch.stack([sides("sampled", seed) for seed in range(60)])
    error = draws.std(0) / len(draws) ** 0.5
    off = (draws.mean(0) - sides("exact")).abs()
    assert bool((off <= 5 * error + 1e-9).all()) and float(draws.std(0).max()) > 0
    torch.testing.assert_close(sides("sampled", 3, size=7), draws[3], rtol=1e-9, atol=1e-12)
    own = kronecker_factors((pair for batch in model.batches() for pair in batch.layer_pairs(names)), EXAMPLES)
    torch.testing.assert_close(sides("empirical"), torch.cat([one.gradients.flatten() for one in own]))
    assert eigenbasis(own).layers.keys() == ekfac(model, names, EXAMPLES, "empirical", keys).layers.keys()


def test_what_does_not_fit_is_not_made_of_all_examples_at_once(model, monkeypatch):
    monkeypatch.setattr(curvature, "HELD", 0)
    found = Curvature(model, tuple(model.params), world().ids)
    direction = torch.randn(len(found), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(found.matrix() @ direction, found.times(direction), rtol=1e-5, atol=1e-7)
    found.diagonal()
    found.eigenbasis("exact")
    found.grad_dots(direction[:, None])
    assert "by_outputs" not in vars(found)


def test_the_mixed_gradient_is_a_sum_of_the_examples_gradients_with_signs(model):
    found = Curvature(model, tuple(model.params), world().ids)
    rows = torch.zeros(EXAMPLES, len(found), dtype=torch.float64)
    for positions, part in found.gradients():
        rows[positions] = part
    signs = torch.linalg.lstsq(rows.T, found.mixed_gradient()[:, None]).solution[:, 0]
    assert len(found) > EXAMPLES and len(signs.round().unique()) == 2
    torch.testing.assert_close(rows.T @ signs.sign(), found.mixed_gradient(), rtol=1e-5, atol=1e-6)


def test_what_was_made_last_is_gone_before_the_next_is_made(monkeypatch):
    source, ids = world().replay, world().ids
    last, before = source.at(source.kept[-1]), []
    monkeypatch.setattr(curvature, "_LAST", weakref.WeakKeyDictionary())
    plain = Curvature._ekfac

    def watched(self, *args):
        assert all(one() is None for one in before)
        made = plain(self, *args)
        before.append(weakref.ref(made))
        return made

    monkeypatch.setattr(Curvature, "_ekfac", watched)
    for seed in range(3):
        Curvature(last, tuple(last.params), ids, source=source).eigenbasis("sampled", seed)
    assert len(before) == 3


@pytest.mark.parametrize("held", [0, 2**26])
def test_curvatures_of_one_source_share_what_was_made_last(held, monkeypatch):
    source, ids = world().replay, world().ids
    last = source.at(source.kept[-1])
    names, made = tuple(last.params), []
    monkeypatch.setattr(curvature, "HELD", held)
    monkeypatch.setattr(curvature, "_LAST", weakref.WeakKeyDictionary())
    plain = Curvature._ekfac
    monkeypatch.setattr(Curvature, "_ekfac", lambda self, *args: made.append(args) or plain(self, *args))

    def basis(model=last, names=names, factors="sampled", seed=0, source=source):
        return Curvature(model, names, ids, source=source).eigenbasis(factors, seed)

    first = basis()
    assert basis(source.at(source.kept[-1])) is first and len(made) == 1
    for other in (
        {"seed": 1},
        {"factors": "empirical"},
        {"names": names[:2]},
        {"model": source.at(source.kept[0])},
        {"source": None},
    ):
        before = len(made)
        found = basis(**other)
        assert found is not first and len(made) == before + 1
    # The last alone is kept, and it is what would have been made.
    again = basis()
    assert again is not first
    torch.testing.assert_close(whole(again, last.params), whole(first, last.params), rtol=0, atol=0)
    # What was made of derivatives in memory is not taken for what passes make.
    monkeypatch.setattr(curvature, "HELD", 2**26 - held)
    assert basis() is not again
