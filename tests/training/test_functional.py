import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.training.functional import Functional, cross_entropies
from reference.derivatives import flat, gradients_one_by_one

EXAMPLES, CLASSES = 11, 3
RULES, CHUNKS = "norms by layer", "gradients in chunks of examples"


def smoothed(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels, reduction="none", label_smoothing=0.1)


def world(kind):
    torch.manual_seed(0)
    if kind == "conv":
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES))
        inputs = torch.randn(EXAMPLES, 1, 6, 6, dtype=torch.float64)
    else:
        model, inputs = (
            nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)),
            torch.randn(EXAMPLES, 4, dtype=torch.float64),
        )
    model = model.double()
    params = {name: value.detach().clone() for name, value in model.named_parameters()}
    buffers = {name: torch.rand_like(value) + 0.5 for name, value in model.named_buffers() if value.is_floating_point()}
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    return model, params, buffers, direction, (inputs, torch.randint(0, CLASSES, (EXAMPLES,)))


@pytest.mark.parametrize("losses", [cross_entropies, smoothed])
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("way", [RULES, CHUNKS])
def test_products_are_those_of_each_gradient(kind, way, losses):
    model, params, buffers, direction, batch = world(kind)
    if way == CHUNKS:
        # An own kind of layer, for which there is no rule.
        for layer in model.modules():
            layer.__class__ = type("Own", (type(layer),), {})
    functional = Functional(model, losses)
    found, said = functional.products(params, buffers, batch, tuple(params), direction)
    again, _ = functional.products(params, buffers, batch, tuple(params), direction)
    assert said == way and all(torch.equal(again.slopes[name], found.slopes[name]) for name in params)
    model.load_state_dict(buffers, strict=False)
    model.eval()
    torch.testing.assert_close(functional(params, buffers, batch), losses(model, batch).detach(), rtol=0, atol=1e-14)
    each = gradients_one_by_one(model, params, *batch, lambda outputs, labels: losses(nn.Identity(), (outputs, labels)))
    torch.testing.assert_close(torch.stack(list(found.slopes.values())).sum(0), each @ flat(direction), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.stack(list(found.squares.values())).sum(0), each.square().sum(1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("made", [False, True])
def test_a_sweep_needs_no_value_of_a_gradient_unless_a_weight_is_made_of_others(made):
    model, *_, batch = world("conv")
    if made:
        nn.utils.parametrizations.weight_norm(model[0])
    functional, found = Functional(model), []
    buffers = {name: value for name, value in model.named_buffers()}
    for valued in (True, False):
        leaves = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
        losses, seen = functional.with_statistics(leaves, buffers, batch, valued=valued)
        weights = torch.ones_like(losses).requires_grad_()
        first = torch.autograd.grad((weights * losses).sum(), list(leaves.values()), create_graph=True)
        assert bool(torch.stack([part.isnan().any() for part in first]).any()) == (not valued and not made)
        along = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view(part.shape)).sum() for part in first)
        along = along + sum((value * value.detach()).sum() for _, value in seen.values())
        found.append(torch.autograd.grad(along, [weights, *leaves.values()]))
    assert all(part.isfinite().all() and part.abs().max() > 0 for part in found[1])
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
