import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.core.errors import UsageError
from assay.replay.functional import Functional, channels_last_pools
from assay.replay.losses import cross_entropies
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
        along = along + sum((value * value.detach()).sum() for calls in seen.values() for _, value in calls)
        found.append(torch.autograd.grad(along, [weights, *leaves.values()]))
    assert all(part.isfinite().all() and part.abs().max() > 0 for part in found[1])
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d((2, 3), dilation=2, ceil_mode=True),
        nn.MaxPool2d(9),
        nn.MaxPool2d(2, return_indices=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 5])
def test_pools_with_channels_last_give_the_same_bits(pool, channels):
    # After a ReLU many windows hold several largest numbers, all 0.
    inputs = torch.randn(4, channels, 9, 10, generator=torch.Generator().manual_seed(0)).relu()
    outward = torch.randn(4, channels, 9, 10, generator=torch.Generator().manual_seed(1))

    def both(model):
        leaf = inputs.clone().requires_grad_()
        value = model(leaf * 1.0)
        value = value[0] if isinstance(value, tuple) else value
        (gradient,) = torch.autograd.grad((value * outward[..., : value.shape[2], : value.shape[3]]).sum(), leaf)
        return value, gradient

    plain = both(pool)
    with channels_last_pools(pool):
        swift = both(pool)
    for one, other in zip(plain, swift, strict=True):
        assert torch.equal(one, other) and one.is_contiguous() == other.is_contiguous()
    assert not pool._forward_hooks and not pool._forward_pre_hooks


def test_images_that_come_with_channels_last_stay_so_and_an_error_leaves_no_hook():
    inputs = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    pool = nn.MaxPool2d(2)
    with channels_last_pools(pool):
        found = pool(inputs)
    assert torch.equal(found, pool(inputs)) and found.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError), channels_last_pools(pool):
        pool(torch.randn(2, 3, 1, 1))
    assert not pool._forward_hooks and not pool._forward_pre_hooks


def test_losses_without_gradients_are_the_same_bits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES))
    batch = torch.randn(EXAMPLES, 1, 8, 8), torch.arange(EXAMPLES) % CLASSES
    functional, params = Functional(model), {name: value.detach() for name, value in model.named_parameters()}
    plain = functional(params, {}, batch)
    with torch.no_grad():
        swift = functional(params, {}, batch)
    assert torch.equal(plain, swift)
    direction = {name: torch.ones_like(value) for name, value in params.items()}
    first, _ = functional.products(params, {}, batch, tuple(params), direction)
    again, _ = functional.products(params, {}, batch, tuple(params), direction)
    assert tuple(params) in functional._all_by_rule, "the second time goes with channels last"
    for name in params:
        assert torch.equal(first.squares[name], again.squares[name]) and torch.equal(first.slopes[name], again.slopes[name])


def test_pools_with_channels_last_go_through_every_transform():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES)).double()
    inputs, labels = torch.randn(EXAMPLES, 1, 8, 8, dtype=torch.float64), torch.arange(EXAMPLES) % CLASSES
    params = {name: value.detach() for name, value in model.named_parameters()}
    along = {name: torch.randn_like(value) for name, value in params.items()}

    def losses(at):
        return F.cross_entropy(torch.func.functional_call(model, at, (inputs,)), labels, reduction="none")

    def alone(at, one, label):
        return F.cross_entropy(torch.func.functional_call(model, at, (one[None],)), label[None])

    def all_of():
        yield torch.func.jvp(losses, (params,), (along,))[1]
        yield torch.func.vmap(torch.func.grad(alone), (None, 0, 0))(params, inputs, labels)["0.weight"]
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        (first,) = torch.autograd.grad(losses(leaves).square().sum(), leaves["0.weight"], create_graph=True)
        yield torch.autograd.grad(first.square().sum(), leaves["0.weight"])[0]

    plain = list(all_of())
    with channels_last_pools(model):
        for one, other in zip(plain, all_of(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_hook_of_the_users_on_a_pool_sees_what_it_always_sees():
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES)), []
    model[1].register_forward_hook(lambda layer, args, output: seen.append(output.view(len(output), -1)))
    batch = torch.randn(EXAMPLES, 1, 8, 8), torch.arange(EXAMPLES) % CLASSES
    with torch.no_grad():
        Functional(model)({name: value.detach() for name, value in model.named_parameters()}, {}, batch)
    assert seen[0].shape == (EXAMPLES, 36)


@pytest.mark.parametrize("outputs", [lambda x: (x, x), lambda x: x[:, 0], lambda x: x[:, :1]], ids=["two", "flat", "one logit"])
def test_outputs_that_are_no_logits_are_refused(outputs):
    class Model(nn.Linear):
        def forward(self, x):
            return outputs(super().forward(x))

    model = Model(4, CLASSES)
    params = {name: value.detach() for name, value in model.named_parameters()}
    with pytest.raises(UsageError, match="are not \\(batch, classes\\) with at least two classes"):
        Functional(model).predicted(params, {}, (torch.randn(EXAMPLES, 4), torch.zeros(EXAMPLES, dtype=torch.int64)))
