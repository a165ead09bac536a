"""Kronecker factors against whole matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from assay.maths import kronecker
from assay.maths.kronecker import kronecker_factors, kronecker_inverse
from assay.maths.layer_pairs import layer_pairs
from assay.maths.params import flatten, unflatten
from reference.curvature import gauss_newton

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
    found = kronecker_inverse([factors], dict.fromkeys(params, 0.1))(unflatten(row, params))
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
    inverses = [kronecker_inverse([one], {"0.weight": 0.01}) for one in found]
    torch.testing.assert_close(inverses[0](row)["0.weight"], inverses[1]({"0.weight": row["0.weight"].T})["0.weight"].T)


def test_without_damping_it_is_positive_definite_all_the_same():
    torch.manual_seed(0)
    module, params = made(nn.Linear(5, CLASSES))
    inputs = torch.randn(2, 5, dtype=torch.float64)
    inverse = kronecker_inverse(kronecker_factors(fisher_pairs(module, params, inputs), 2), dict.fromkeys(params, 0.0))
    size = sum(value.numel() for value in params.values())
    matrix = torch.stack([flatten(inverse(unflatten(row, params))) for row in torch.eye(size, dtype=torch.float64)])
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-6, atol=1e-6 * float(matrix.abs().max()))
    assert float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0]) > 0
    nothing = kronecker_factors(fisher_pairs(module, params, 0 * inputs), 2)
    inverse = kronecker_inverse(
        [type(one)(one.matrix, 0 * one.inputs, one.gradients) for one in nothing], dict.fromkeys(params, 0.0)
    )
    torch.testing.assert_close(inverse(params), params)


def test_factors_that_are_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(kronecker, "SIDE", 5)
    module, params = made(nn.Linear(5, CLASSES))
    with pytest.raises(ValueError, match="layer of the whole net has a factor of 6 rows, of which 5 are the most"):
        kronecker_factors(fisher_pairs(module, params, torch.ones(2, 5, dtype=torch.float64)), 2)
