import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from assay.maths.curvature import ggnvp, hvp
from assay.maths.derivatives import mask_padding_rows
from reference.curvature import gauss_newton, hessian
from reference.derivatives import flat

N, CLASSES = 7, 3


class NoForward(torch.autograd.Function):
    """tanh without a forward-mode rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(y := x.tanh())
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class Once(NoForward):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class Own(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


def net(kind):
    torch.manual_seed(0)
    if kind == "tokens":
        model = nn.Sequential(
            nn.Embedding(6, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, CLASSES)
        )
        model[0].weight.data[0] = 0.3
        inputs = torch.randint(0, 6, (N, 3))
    else:
        middle = {"plain": nn.Tanh(), "no forward mode": Own(NoForward), "once": Own(Once)}[kind]
        model, inputs = nn.Sequential(nn.Linear(4, 5), middle, nn.Linear(5, CLASSES)), torch.randn(N, 4, dtype=torch.float64)
    model = model.double()
    params = {name: value.detach().clone() for name, value in model.named_parameters()}
    return model, params, inputs, torch.randint(0, CLASSES, (N,))


LOSSES = {
    "cross entropy": lambda z, y: F.cross_entropy(z, y, reduction="none"),
    "squared": lambda z, y: (z - F.one_hot(y, CLASSES)).square().sum(1),
    # Not convex in the outputs.
    "quartic": lambda z, y: (z.square() - 1).square().sum(1) + (z[:, 0] * z[:, 1]).sin(),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["plain", "tokens", "no forward mode"])
@pytest.mark.parametrize("names", [None, 2])
def test_products_are_those_of_the_dense_matrices(kind, loss, names):
    model, params, inputs, labels = net(kind)
    chosen = dict(list(params.items())[-names if names else 0 :])
    direction = mask_padding_rows(model, {name: torch.randn_like(value) for name, value in chosen.items()})

    def outputs(at):
        return functional_call(model, {**params, **at}, (inputs,))

    def loss_of(z):
        return LOSSES[loss](z, labels)

    H, G = hessian(lambda at: loss_of(outputs(at)), chosen), gauss_newton(outputs, loss_of, chosen)
    found = hvp(lambda at: loss_of(outputs(at)), params, direction)
    torch.testing.assert_close(flat(found), H @ flat(direction), rtol=1e-10, atol=1e-10)
    near = ggnvp(lambda at: (outputs(at),), lambda values: loss_of(values[0]), params, direction)
    torch.testing.assert_close(flat(near), G @ flat(direction), rtol=1e-10, atol=1e-10)
    assert list(found) == list(near) == list(direction) and not any(
        part.requires_grad for part in (*found.values(), *near.values())
    )
    assert kind == "tokens" or float((H - G).norm()) > (0 if names else 1e-2)


def test_several_outputs_are_one():
    model, params, inputs, labels = net("plain")
    direction = {name: torch.randn_like(value) for name, value in params.items()}

    def outputs(at):
        z = functional_call(model, at, (inputs,))
        return z[:, :1], z[:, 1:]

    near = ggnvp(outputs, lambda values: LOSSES["cross entropy"](torch.cat(tuple(values), 1), labels), params, direction)
    G = gauss_newton(lambda at: functional_call(model, at, (inputs,)), lambda z: LOSSES["cross entropy"](z, labels), params)
    torch.testing.assert_close(flat(near), G @ flat(direction), rtol=1e-10, atol=1e-10)


def test_what_has_no_second_derivative_is_refused_where_one_is_needed():
    model, params, inputs, labels = net("once")
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    with pytest.raises(NotImplementedError, match="no second derivative"):
        hvp(lambda at: LOSSES["squared"](functional_call(model, at, (inputs,)), labels), params, direction)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        ggnvp(lambda at: (functional_call(model, at, (inputs,)),), lambda z: LOSSES["squared"](z[0], labels), params, direction)


def test_losses_that_are_linear_in_the_outputs_have_no_gauss_newton_matrix():
    model, params, inputs, _ = net("plain")
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    with pytest.raises(NotImplementedError, match="linear in the outputs"):
        ggnvp(lambda at: (functional_call(model, at, (inputs,)),), lambda z: z[0].sum(1), params, direction)
    linear = hvp(lambda at: 2 * at["x"], {"x": torch.ones(3)}, {"x": torch.ones(3)})
    assert torch.equal(linear["x"], torch.zeros(3)) and math.isfinite(float(linear["x"].sum()))
