"""Products with the derivative of the outputs, kept layer by layer, against the whole matrix."""

import pytest
import torch
from torch.func import functional_call

from assay.maths import layer_jacobian
from assay.maths.kronecker import eigenbasis, kronecker_factors, shifted
from assay.maths.layer_jacobian import LayerJacobian
from assay.maths.layer_pairs import layer_pairs
from maths.test_derivatives import BATCH, CLASSES, MODULES
from maths.test_derivatives import world as net
from maths.test_kronecker import shaped, whole
from maths.test_layer_pairs import REFUSED
from reference.derivatives import gradients_one_by_one

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
COLUMNS = 2


def flat(params):
    return torch.cat([value.flatten(1) for value in params.values()], 1)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in REFUSED])
def test_it_is_the_derivative_of_every_output(name, monkeypatch):
    module, params, _, inputs, targets = net(name)
    exact = torch.stack(
        [gradients_one_by_one(module, params, inputs, targets, lambda z, y, c=c: z[:, c]) for c in range(CLASSES)], 1
    )

    def pairs(x, c):
        return layer_pairs(module, lambda at: functional_call(module, at, (x,))[:, c], params, tuple(params), chunk_bytes=2000)

    parts = [LayerJacobian.of(pair for c in range(CLASSES) for pair in pairs(part, c)) for part in inputs.split(2)]
    found = LayerJacobian.joined(parts)
    draw = torch.Generator().manual_seed(0)
    v = torch.randn(COLUMNS, exact.shape[2], generator=draw, dtype=torch.float64)
    w = torch.randn(BATCH, CLASSES, COLUMNS, generator=draw, dtype=torch.float64)
    near = {"rtol": 1e-9, "atol": 1e-10}
    basis = eigenbasis(kronecker_factors(found.pairs(w), BATCH)).corrected(found.pairs(w), BATCH)
    mixed = torch.einsum("ncp,nck->nkp", exact, w).flatten(0, 1)
    matrix = whole(basis, params) + 0.1 * torch.eye(exact.shape[2], dtype=torch.float64)
    turned = basis.turned(shaped(mixed, params))
    for layer, part in zip(basis.layers.values(), turned, strict=True):
        torch.testing.assert_close(layer.values, part.square().sum(0) / BATCH, **near)
    for chunk_bytes in (1, 2**24):
        monkeypatch.setattr(layer_jacobian, "CHUNK_BYTES", chunk_bytes)
        torch.testing.assert_close(found.times(shaped(v, params)), exact @ v.T, **near)
        back = found.pulled(w)
        torch.testing.assert_close(flat({key: back[key] for key in params}), torch.einsum("ncp,nck->kp", exact, w), **near)
        grams = found.grams(basis, lambda layer: 1 / shifted(layer, dict.fromkeys(params, 0.1)))
        torch.testing.assert_close(grams, exact @ torch.linalg.inv(matrix) @ exact.mT, **near)
