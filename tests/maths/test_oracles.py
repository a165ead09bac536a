"""Curvature held against curvlinops (extra `oracles`), an independent library of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from assay.maths.curvature import ggnvp, hvp
from assay.maths.kronecker import eigenbasis, kronecker_factors
from assay.maths.layer_pairs import layer_pairs
from maths.test_kronecker import shaped, whole

pytestmark = [
    pytest.mark.slow,
    # Its own use of torch.
    pytest.mark.filterwarnings("ignore"),
]
N, CLASSES = 9, 3
NETS = {
    "two layers": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES)), (5,)),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES)),
        (2, 4, 4),
    ),
}


@pytest.fixture
def curvlinops():
    return pytest.importorskip("curvlinops", reason="the extra `oracles` is not installed")


@pytest.fixture(params=NETS)
def world(request):
    make, shape = NETS[request.param]
    torch.manual_seed(0)
    module = make().double()
    return module, torch.randn(N, *shape, dtype=torch.float64), torch.randint(CLASSES, (N,))


def dense(operator, params):
    found = operator @ torch.eye(sum(value.numel() for value in params.values()), dtype=torch.float64)
    return found if isinstance(found, torch.Tensor) else torch.as_tensor(found)


def test_products_are_the_same(curvlinops, world):
    module, inputs, labels = world
    params = {name: value.detach() for name, value in module.named_parameters()}
    args = module, nn.CrossEntropyLoss(), list(module.parameters()), [(inputs, labels)]
    unit = torch.eye(sum(value.numel() for value in params.values()), dtype=torch.float64)

    def losses(at):
        return F.cross_entropy(functional_call(module, at, (inputs,)), labels, reduction="none")

    for kind, product in (
        (curvlinops.HessianLinearOperator, lambda v: hvp(losses, params, v)),
        (
            curvlinops.GGNLinearOperator,
            lambda v: ggnvp(
                lambda at: (functional_call(module, at, (inputs,)),),
                lambda z: F.cross_entropy(z[0], labels, reduction="none"),
                params,
                v,
            ),
        ),
    ):
        rows = []
        for row in unit:
            along = {name: value[0] for name, value in shaped(row[None], params).items()}
            rows.append(torch.cat([part.flatten() for part in product(along).values()]) / N)
        torch.testing.assert_close(dense(kind(*args), params), torch.stack(rows), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "fisher"), [("KFAC", "type-2"), ("KFAC", "empirical"), ("EKFAC", "type-2"), ("EKFAC", "empirical")]
)
def test_kronecker_factors_and_corrected_eigenvalues_are_the_same(curvlinops, world, kind, fisher):
    module, inputs, labels = world
    params = {name: value.detach() for name, value in module.named_parameters()}

    def outputs(at):
        return functional_call(module, at, (inputs,))

    probs = outputs(params).softmax(1)
    root = torch.diag_embed(probs.sqrt()) - probs[:, :, None] * probs.sqrt()[:, None, :]
    own = probs - F.one_hot(labels, CLASSES)

    def pairs():
        for cotangents in root.unbind(-1) if fisher == "type-2" else [own]:
            yield from layer_pairs(module, lambda at, c=cotangents: (outputs(at) * c).sum(1), params, tuple(params))

    basis = eigenbasis(kronecker_factors(pairs(), N))
    basis = basis.corrected(pairs(), N) if kind == "EKFAC" else basis
    operator = getattr(curvlinops, f"{kind}LinearOperator")(
        module,
        nn.CrossEntropyLoss(),
        list(module.parameters()),
        [(inputs, labels)],
        fisher_type=fisher,
        separate_weight_and_bias=False,
    )
    torch.testing.assert_close(dense(operator, params), whole(basis, params), rtol=1e-8, atol=1e-11)
