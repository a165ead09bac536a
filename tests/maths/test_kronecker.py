"""Kronecker factors against whole matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from assay.maths import kronecker
from assay.maths.kronecker import eigenbasis, kronecker_factors, kronecker_inverse, shifted
from assay.maths.layer_pairs import LayerMatrix, LayerPair, layer_pairs
from assay.maths.params import flatten, unflatten
from maths.test_derivatives import BATCH, MODULES, batch_losses, loss
from maths.test_derivatives import world as net
from maths.test_layer_pairs import REFUSED
from reference.curvature import gauss_newton
from reference.derivatives import flat, gradients_one_by_one

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
CLASSES, N = 3, 4


def made(module):
    module = module.double()
    return module, {name: value.detach() for name, value in module.named_parameters()}


def fisher_pairs(module, params, inputs):
    """Of the losses by every class, each weighted by the square root of its probability: Fisher's matrix with no draw."""
    probs = functional_call(module, params, (inputs,)).detach().softmax(1)
    for c in range(CLASSES):
        labels = torch.full((len(inputs),), c)

        def losses(at, labels=labels, c=c):
            return probs[:, c].sqrt() * F.cross_entropy(functional_call(module, at, (inputs,)), labels, reduction="none")

        yield from layer_pairs(module, losses, params, tuple(params))


def dense(factors):
    return torch.kron(factors.gradients[0], factors.inputs[0])


@pytest.mark.parametrize("bias", [True, False])
def test_of_one_linear_layer_and_one_input_they_are_gauss_newton_s_matrix(bias):
    torch.manual_seed(0)
    module, params = made(nn.Linear(5, CLASSES, bias=bias))
    inputs, labels = torch.randn(1, 5, dtype=torch.float64).expand(N, -1), torch.zeros(N, dtype=torch.int64)
    (factors,) = kronecker_factors(fisher_pairs(module, params, inputs), N)
    exact = gauss_newton(
        lambda at: functional_call(module, at, (inputs,)), lambda z: F.cross_entropy(z, labels, reduction="none"), params
    )
    # The reference puts the weight before the bias, the factors one output after the other.
    order = flatten(factors.matrix.named(torch.arange(len(exact)).double().view(1, CLASSES, -1))).long()
    torch.testing.assert_close(dense(factors)[order][:, order], exact / N, rtol=1e-10, atol=1e-12)
    row = torch.randn(len(exact), dtype=torch.float64)
    found = kronecker_inverse(eigenbasis([factors]), dict.fromkeys(params, 0.1))(unflatten(row, params))
    expected = torch.linalg.solve(exact / N + 0.1 * torch.eye(len(exact), dtype=torch.float64), row)
    torch.testing.assert_close(flatten(found), expected, rtol=1e-9, atol=1e-10)


def test_of_one_example_they_are_the_outer_product_of_its_gradient():
    torch.manual_seed(0)
    module, params = made(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES)))
    inputs, label = torch.randn(1, 5, dtype=torch.float64), torch.tensor([1])
    leaves = dict(module.named_parameters())
    exact = torch.autograd.grad(F.cross_entropy(module(inputs), label), list(leaves.values()))
    exact = dict(zip(leaves, exact, strict=True))
    pairs = layer_pairs(
        module, lambda at: F.cross_entropy(functional_call(module, at, (inputs,)), label, reduction="none"), params, tuple(params)
    )
    for factors in kronecker_factors(pairs, 1):
        row = factors.matrix.of(exact).flatten()
        torch.testing.assert_close(dense(factors), torch.outer(row, row), rtol=1e-10, atol=1e-14)


def test_an_embedding_is_a_linear_layer_of_rows_with_one_1():
    torch.manual_seed(0)
    tokens, labels = torch.randint(6, (N, 3)), torch.arange(N) % CLASSES

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    one, params = made(nn.Sequential(nn.Embedding(6, CLASSES), Mean()))
    other, twins = made(nn.Sequential(nn.Linear(6, CLASSES, bias=False), Mean()))
    twins["0.weight"] = params["0.weight"].T
    found = []
    for module, at, inputs in ((one, params, tokens), (other, twins, F.one_hot(tokens, 6).double())):
        pairs = layer_pairs(
            module,
            lambda p, module=module, inputs=inputs: F.cross_entropy(
                functional_call(module, p, (inputs,)), labels, reduction="none"
            ),
            at,
            ["0.weight"],
        )
        found += kronecker_factors(pairs, N)
    torch.testing.assert_close(torch.diag(found[0].inputs[0]), found[1].inputs[0])
    torch.testing.assert_close(found[0].gradients, found[1].gradients)
    row = {"0.weight": torch.randn(6, CLASSES, dtype=torch.float64)}
    inverses = [kronecker_inverse(eigenbasis([one]), {"0.weight": 0.01}) for one in found]
    torch.testing.assert_close(inverses[0](row)["0.weight"], inverses[1]({"0.weight": row["0.weight"].T})["0.weight"].T)


def test_without_damping_it_is_positive_definite_all_the_same():
    torch.manual_seed(0)
    module, params = made(nn.Linear(5, CLASSES))
    inputs = torch.randn(2, 5, dtype=torch.float64)
    inverse = kronecker_inverse(
        eigenbasis(kronecker_factors(fisher_pairs(module, params, inputs), 2)), dict.fromkeys(params, 0.0)
    )
    size = sum(value.numel() for value in params.values())
    matrix = torch.stack([flatten(inverse(unflatten(row, params))) for row in torch.eye(size, dtype=torch.float64)])
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-6, atol=1e-6 * float(matrix.abs().max()))
    assert float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0]) > 0
    nothing = kronecker_factors(fisher_pairs(module, params, 0 * inputs), 2)
    inverse = kronecker_inverse(
        eigenbasis([type(one)(one.matrix, 0 * one.inputs, one.gradients) for one in nothing]), dict.fromkeys(params, 0.0)
    )
    torch.testing.assert_close(inverse(params), params)


def test_factors_that_are_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(kronecker, "SIDE", 5)
    module, params = made(nn.Linear(5, CLASSES))
    with pytest.raises(ValueError, match="layer of the whole net has a factor of 6 rows, of which 5 are the most"):
        kronecker_factors(fisher_pairs(module, params, torch.ones(2, 5, dtype=torch.float64)), 2)


def whole(basis, params):
    """The matrix that a basis stands for, in the order of `params`."""
    unit = torch.eye(sum(value.numel() for value in params.values()), dtype=torch.float64)
    found = basis.times(lambda layer: layer.values, shaped(unit, params))
    return torch.cat([value.flatten(1) for value in found.values()], 1)


def by_layer(matrix, basis, params):
    """The blocks of a matrix that stand for one group of one layer; 0 elsewhere."""
    kept = torch.zeros_like(matrix)
    place = unflatten(torch.arange(len(matrix)).double(), params)
    for layer in basis.layers:
        for block in layer.of(place).long().flatten(1):
            kept[block[:, None], block] = matrix[block[:, None], block]
    return kept


@pytest.mark.parametrize("stretch", [1, 40, 2**15])
def test_factors_are_sums_of_outer_products_however_many_are_added_up_at_once(stretch, monkeypatch):
    monkeypatch.setattr(kronecker, "STRETCH", stretch)
    torch.manual_seed(0)
    module = nn.Conv2d(4, 6, 3, groups=2)
    params = {name: value.detach() for name, value in module.named_parameters()}
    inputs = torch.randn(10, 4, 5, 5)
    pairs = [
        pair
        for part in inputs.split(3)
        for pair in layer_pairs(
            module, lambda at, part=part: functional_call(module, at, (part,)).square().flatten(1).sum(1), params, tuple(params)
        )
    ]
    (found,) = kronecker_factors(pairs, len(inputs))
    a = sum(torch.einsum("ngpi,ngpj->gij", one.inputs.double(), one.inputs.double()) for one in pairs)
    s = sum(torch.einsum("ngpi,ngpj->gij", one.gradients.double(), one.gradients.double()) for one in pairs)
    torch.testing.assert_close(found.inputs, a / (len(inputs) * 9), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.gradients, s / len(inputs), rtol=1e-5, atol=1e-5)


def test_half_precision_is_not_added_up():
    matrix = LayerMatrix("", "weight", None, ((2, 3), ()), 1, 2, 3, False)
    # From 256 on a 1 more is lost in bfloat16.
    ones = LayerPair(matrix, slice(0, 1), torch.ones(1, 1, 1, 3).bfloat16(), torch.ones(1, 1, 1, 2).bfloat16())
    (found,) = kronecker_factors([ones] * 1000, 1000)
    assert torch.equal(found.inputs, torch.ones(1, 3, 3).double()) and torch.equal(found.gradients, torch.ones(1, 2, 2).double())


@pytest.mark.parametrize("chunk_bytes", [1, 2**24])
@pytest.mark.parametrize("name", [name for name in MODULES if name not in REFUSED])
def test_ekfac_is_the_diagonal_in_its_basis_and_nearer_than_kfac(name, chunk_bytes, monkeypatch):
    monkeypatch.setattr(kronecker, "CHUNK_BYTES", chunk_bytes)
    module, params, _, inputs, targets = net(name)
    pairs = list(layer_pairs(module, batch_losses(module, inputs, targets), params, tuple(params), chunk_bytes=chunk_bytes))
    kfac = eigenbasis(kronecker_factors(pairs, BATCH))
    basis = kfac.corrected(pairs, BATCH)
    rows = gradients_one_by_one(module, params, inputs, targets, loss)
    turned = basis.turned(shaped(rows, params))
    for layer, part in zip(basis.layers.values(), turned, strict=True):
        torch.testing.assert_close(layer.values, part.square().mean(0), rtol=1e-9, atol=1e-16)
    # In Frobenius norm, block by block of a group of a layer.
    exact = by_layer(rows.T @ rows / BATCH, basis, params)
    off = [float((whole(one, params) - exact).norm()) for one in (basis, kfac)]
    assert off[0] <= off[1] * (1 + 1e-9)
    inverse = torch.linalg.inv(whole(basis, params) + 0.1 * torch.eye(rows.shape[1], dtype=torch.float64))
    shift = dict.fromkeys(params, 0.1)
    values = torch.zeros(BATCH, dtype=torch.float64)
    basis.quadratic(lambda layer: 1 / shifted(layer, shift), pairs, values)
    torch.testing.assert_close(values, ((rows @ inverse) * rows).sum(1), rtol=1e-9, atol=1e-14)
    row = {key: value[0] for key, value in shaped(rows, params).items()}
    torch.testing.assert_close(flat(kronecker_inverse(basis, shift)(row)), inverse @ rows[0], rtol=1e-9, atol=1e-12)


def shaped(rows, params):
    """Rows of all entries as named tensors, with an axis for the rows in front."""
    split = rows.split([value.numel() for value in params.values()], 1)
    return {key: part.view(len(rows), *params[key].shape) for key, part in zip(params, split, strict=True)}


def test_ekfac_of_a_linear_layer_with_squared_loss_is_gauss_newton_s_matrix():
    torch.manual_seed(0)
    module, params = made(nn.Linear(5, CLASSES))
    inputs = torch.randn(N, 5, dtype=torch.float64)

    def pairs():
        for column in range(CLASSES):
            # Each column of the square root of the loss's second derivative by the outputs, which is twice the unit matrix.
            yield from layer_pairs(
                module, lambda at, c=column: 2**0.5 * functional_call(module, at, (inputs,))[:, c], params, tuple(params)
            )

    exact = gauss_newton(lambda at: functional_call(module, at, (inputs,)), lambda z: z.square().sum(1), params) / N
    basis = eigenbasis(kronecker_factors(pairs(), N))
    for one in (basis, basis.corrected(pairs(), N)):
        torch.testing.assert_close(whole(one, params), exact, rtol=1e-9, atol=1e-12)


def test_ekfac_of_one_example_of_one_position_is_exact():
    torch.manual_seed(0)
    module, params = made(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES)))
    inputs, label = torch.randn(1, 5, dtype=torch.float64), torch.tensor([1])
    pairs = list(layer_pairs(module, batch_losses_of(module, inputs, label), params, tuple(params)))
    basis = eigenbasis(kronecker_factors(pairs, 1)).corrected(pairs, 1)
    (row,) = gradients_one_by_one(module, params, inputs, label, lambda z, y: F.cross_entropy(z, y, reduction="none"))
    exact = by_layer(torch.outer(row, row), basis, params)
    torch.testing.assert_close(whole(basis, params), exact, rtol=1e-9, atol=1e-14)


def batch_losses_of(module, inputs, labels):
    return lambda at: F.cross_entropy(functional_call(module, at, (inputs,)), labels, reduction="none")
