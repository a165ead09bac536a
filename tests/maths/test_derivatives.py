import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from assay.maths.derivatives import called_with, directional, example_gradients, mask_padding_rows
from assay.maths.layer_rules import RULES, ProductConfig, example_products
from reference.derivatives import flat, gradients_one_by_one

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

BATCH, CLASSES = 5, 3


class Mean(nn.Module):
    def forward(self, x):
        return x.flatten(2).mean(2)


class Tokens(nn.Module):
    """Embedding with a padding token, attention with an additive mask of four axes, LayerNorm."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6, padding_idx=0)
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, CLASSES)
        self.norm = nn.LayerNorm(6)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mask = torch.zeros(len(tokens), 1, 1, tokens.shape[1], dtype=x.dtype).masked_fill(
            (tokens == 0)[:, None, None], torch.finfo(x.dtype).min
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(self.norm(x + mixed.transpose(1, 2).flatten(2)).mean(1))


class Shared(nn.Module):
    """One layer called twice, one weight shared by two layers, one parameter outside every layer."""

    def __init__(self):
        super().__init__()
        self.twice, self.one, self.other = nn.Linear(4, 4), nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)
        self.other.weight = self.one.weight
        self.scale = nn.Parameter(torch.rand(CLASSES))

    def forward(self, x):
        x = self.twice(self.twice(x).tanh()).tanh()
        return self.one(x) + self.scale * self.other(x * x)


class Tied(nn.Module):
    """The embedding's weight is the last layer's too, unknown to any layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, tokens):
        return F.linear(self.mix(self.embed(tokens)).tanh().mean(1), self.embed.weight)[:, :CLASSES]


class Sequences(nn.Module):
    """Places first, as many as there are examples; then examples and places along one axis; then an input given by name."""

    def __init__(self, first):
        super().__init__()
        self.first, self.one, self.two, self.last = first, nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        if self.first:
            x = self.one(x.transpose(0, 1)).tanh().transpose(0, 1)
        x = self.two(x.flatten(0, 1)).tanh().unflatten(0, x.shape[:2])
        return self.last(input=x.mean(1))


class Attends(nn.Module):
    """Self-attention of torch's own layer over places of which the last is padded for some examples; or attention to other places."""

    def __init__(self, *, first=True, other=False, **settings):
        super().__init__()
        self.first, self.other, self.into, self.out = first, other, nn.Linear(4, 6), nn.Linear(6, CLASSES)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=first, **settings)

    def forward(self, x):
        x = self.into(x).tanh()
        last = torch.arange(x.shape[1]) == x.shape[1] - 1
        padded = last & (x[:, -1:, 0] > 0)
        q = x if self.first else x.transpose(0, 1)
        k = q[..., : self.attention.kdim] * 2 if self.other else q
        mixed, _ = self.attention(q, k, k, key_padding_mask=padded)
        return self.out((x + (mixed if self.first else mixed.transpose(0, 1))).mean(1))


def conv(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(CLASSES))


MODULES = {
    "linear": (lambda: nn.Linear(4, CLASSES), (4,)),
    "no bias": (lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, CLASSES)), (4,)),
    "rows of places": (lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, CLASSES), Mean3()), (3, 4)),
    "conv": (lambda: conv(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3, padding=1)), (2, 6, 6)),
    "conv settings": (
        lambda: conv(nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(1, 2), padding=(2, 1), groups=2, bias=False)),
        (4, 7, 8),
    ),
    "conv same": (lambda: conv(nn.Conv2d(2, 3, 4, padding="same"), nn.ReLU(), nn.Conv2d(3, 2, 3, padding="valid")), (2, 6, 5)),
    "conv circular": (lambda: conv(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")), (2, 5, 5)),
    "conv1d": (lambda: conv(nn.Conv1d(3, 4, 3, padding=2, stride=2, groups=1), nn.Tanh()), (3, 9)),
    "conv1d same": (lambda: conv(nn.Conv1d(2, 4, 4, padding="same", dilation=2, groups=2)), (2, 9)),
    "conv of few places": (
        lambda: conv(nn.Conv2d(8, 8, 3, padding="same"), nn.Tanh(), nn.Conv2d(8, 16, 2, padding=(1, 0), stride=(2, 1), groups=2)),
        (8, 2, 3),
    ),
    "conv1d of few places": (lambda: conv(nn.Conv1d(16, 16, 5, padding="same", dilation=2)), (16, 6)),
    "batch norm": (lambda: conv(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh()), (2, 5, 5)),
    "batch norm of rows": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES)), (4,)),
    "group norm": (lambda: conv(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh()), (2, 5, 5)),
    "instance norm": (lambda: conv(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Tanh()), (2, 5, 5)),
    "layer norm": (lambda: conv(nn.Conv2d(2, 2, 3), nn.LayerNorm([2, 4, 4]), nn.Conv2d(2, 2, 3)), (2, 6, 6)),
    "layer norm without weights": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, CLASSES)),
        (4,),
    ),
    "in place": (lambda: conv(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 2), nn.ReLU(inplace=True)), (2, 6, 6)),
    "shared": (Shared, (4,)),
    "tokens": (Tokens, "tokens"),
    "tied": (Tied, "tokens"),
    "places first": (lambda: Sequences(True), (5, 4)),
    "attention": (Attends, (3, 4)),
    "attention without biases": (lambda: Attends(bias=False), (3, 4)),
    "attention, places first": (lambda: Attends(first=False), (3, 4)),
    "attention, places first, as many as examples": (lambda: Attends(first=False), (5, 4)),
    "attention to others": (lambda: Attends(other=True), (3, 4)),
    "attention with a bias of keys": (lambda: Attends(add_bias_kv=True), (3, 4)),
    "attention by three matrices": (lambda: Attends(kdim=5, vdim=5, other=True), (3, 4)),
    "encoder layer": (
        lambda: nn.Sequential(
            nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), Mean3(), nn.Linear(4, CLASSES)
        ),
        (3, 4),
    ),
    "flattened": (lambda: Sequences(False), (5, 4)),
}
BY_CHUNKS = {
    "instance norm": {"1.weight", "1.bias"},
    "tied": {"embed.weight", "mix.weight", "mix.bias"},
    "places first": {f"{layer}.{name}" for layer in ("one", "two", "last") for name in ("weight", "bias")},
    "flattened": {f"{layer}.{name}" for layer in ("one", "two", "last") for name in ("weight", "bias")},
    "shared": {"scale", "twice.weight", "twice.bias", "one.weight"},
    "attention to others": {"attention.in_proj_weight", "attention.in_proj_bias"},
    "attention with a bias of keys": {"attention.bias_k", "attention.bias_v"},
    "attention by three matrices": {
        f"attention.{name}"
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    },
}
"""What has no rule; everything else must have one."""
FUSED = ("attention", "encoder layer")
"""What torch computes in eval mode by one operation without a forward derivative."""


class Mean3(nn.Module):
    def forward(self, x):
        return x.mean(1)


def loss(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def world(name, seed=0, dtype=torch.float64):
    make, shape = MODULES[name]
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if shape == "tokens":
            inputs = torch.randint(0, 7, (BATCH, 5), generator=draw)
            inputs[:, 0] = 3
            inputs[0, 1] = 3
        else:
            inputs = torch.randn(BATCH, *shape, generator=draw, dtype=torch.float32)
        module = make()
        module(inputs)
    module = module.to(dtype).eval()
    inputs = inputs if shape == "tokens" else inputs.to(dtype)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand(buffer.shape, generator=draw, dtype=dtype))
    params = {name: value.detach().clone() for name, value in module.named_parameters()}
    direction = mask_padding_rows(
        module, {name: torch.randn(value.shape, generator=draw, dtype=dtype) for name, value in params.items()}
    )
    targets = torch.randint(0, CLASSES, (BATCH,), generator=draw)
    return module, params, direction, inputs, targets


def summed(by_parameter):
    return torch.stack(list(by_parameter.values())).sum(0)


def batch_losses(module, inputs, targets):
    return lambda params: loss(functional_call(module, params, (inputs,)), targets)


@pytest.mark.parametrize("name", MODULES)
def test_grad_dots_are_inner_products_with_each_gradient(name):
    module, params, direction, inputs, targets = world(name)
    expected = gradients_one_by_one(module, params, inputs, targets, loss) @ flat(direction)
    found = directional(batch_losses(module, inputs, targets), params, direction)
    torch.testing.assert_close(found.grad_dots, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.losses, loss(module(inputs), targets).detach(), rtol=0, atol=1e-14)
    assert found.way == ("double backward" if name in FUSED else "forward") and not found.grad_dots.requires_grad


@pytest.mark.parametrize("chunk_bytes", [1, 4_000, 2**24])
@pytest.mark.parametrize("name", MODULES)
def test_norms_are_those_of_each_gradient(name, chunk_bytes):
    module, params, _, inputs, targets = world(name)
    expected = gradients_one_by_one(module, params, inputs, targets, loss).square().sum(1)
    found = example_products(module, params, inputs, targets, loss, config=ProductConfig(chunk_bytes=chunk_bytes))
    torch.testing.assert_close(summed(found.grad_sq_norms), expected, rtol=1e-11, atol=1e-13)
    assert set(found.materialised) == BY_CHUNKS.get(name, set()) and not found.grad_dots
    assert not any(part.requires_grad for part in found.grad_sq_norms.values())


def test_a_chunk_has_memory():
    with pytest.raises(ValueError, match="chunk_bytes=0 is no memory for one example; give at least 1"):
        ProductConfig(chunk_bytes=0)


@pytest.mark.parametrize("rules", [True, False])
@pytest.mark.parametrize("chunk_bytes", [1, 4_000, 2**24])
@pytest.mark.parametrize("name", MODULES)
def test_products_are_those_of_each_gradient_by_parameter(name, chunk_bytes, rules):
    module, params, direction, inputs, targets = world(name)
    given = {"direction": direction, "config": ProductConfig(trust=None if rules else False, chunk_bytes=chunk_bytes)}
    found = example_products(module, params, inputs, targets, loss, **given)
    assert set(found.grad_sq_norms) == set(found.grad_dots) == set(params)
    for one, value in direction.items():
        each = gradients_one_by_one(module, {one: params[one]}, inputs, targets, loss)
        torch.testing.assert_close(found.grad_sq_norms[one], each.square().sum(1), rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(found.grad_dots[one], each @ value.flatten(), rtol=1e-10, atol=1e-12)
        assert not found.grad_sq_norms[one].requires_grad and not found.grad_dots[one].requires_grad
    assert set(found.materialised) == (BY_CHUNKS.get(name, set()) if rules else set(params))
    # Of some parameters they are the same numbers.
    some = tuple(params)[::2]
    part = example_products(module, params, inputs, targets, loss, names=some, **given)
    assert set(part.grad_sq_norms) == set(part.grad_dots) == set(some)
    for one in some:
        torch.testing.assert_close(part.grad_dots[one], found.grad_dots[one], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rules", [True, False])
@pytest.mark.parametrize("name", ["batch norm", "batch norm of rows"])
def test_the_running_statistics_may_be_given(name, rules):
    module, params, direction, inputs, targets = world(name)
    held = {key: value.clone() for key, value in module.named_buffers()}
    moved = {key: value + 1 for key, value in held.items()}
    found = example_products(
        module, params, inputs, targets, loss, direction=direction, config=ProductConfig(buffers=moved, trust=rules)
    )
    assert all(torch.equal(value, held[key]) for key, value in module.named_buffers()), "the module keeps its own"
    module.load_state_dict(moved, strict=False)
    each = gradients_one_by_one(module, params, inputs, targets, loss)
    torch.testing.assert_close(summed(found.grad_dots), each @ flat(direction), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(summed(found.grad_sq_norms), each.square().sum(1), rtol=1e-11, atol=1e-13)


def test_what_an_earlier_call_refuted_is_not_tried_again():
    module, params, direction, inputs, targets = world("tied")
    first = example_products(module, params, inputs, targets, loss, direction=direction)
    assert not first.from_layer_rules and set(first.materialised) == set(params)
    again = example_products(
        module, params, inputs, targets, loss, direction=direction, config=ProductConfig(trust=first.from_layer_rules)
    )
    assert not again.from_layer_rules and all(torch.equal(again.grad_dots[name], first.grad_dots[name]) for name in params)


@pytest.mark.parametrize("name", MODULES)
def test_some_parameters_alone(name):
    module, params, _, inputs, targets = world(name)
    some = dict(list(params.items())[::2])
    expected = gradients_one_by_one(module, some, inputs, targets, loss).square().sum(1)
    torch.testing.assert_close(
        summed(example_products(module, some, inputs, targets, loss).grad_sq_norms), expected, rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("chunk_bytes", [1, 2**24])
@pytest.mark.parametrize("name", MODULES)
def test_gradients_of_each_example(name, chunk_bytes):
    module, params, _, inputs, targets = world(name)
    expected = gradients_one_by_one(module, params, inputs, targets, loss)
    starts, rows = [], []
    for start, gradients in example_gradients(module, params, inputs, targets, loss, chunk_bytes=chunk_bytes):
        starts.append(start)
        rows.append(torch.cat([gradients[name].flatten(1) for name in params], 1))
    torch.testing.assert_close(torch.cat(rows), expected, rtol=1e-11, atol=1e-13)
    assert starts == list(range(0, BATCH, len(rows[0]))) and len(rows) == (BATCH if chunk_bytes == 1 else 1)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 5), name=st.sampled_from(sorted(MODULES)))
def test_slopes_and_norms_agree_on_any_problem(seed, scale, name):
    module, params, direction, inputs, targets = world(name, seed)
    params = {name: scale * value for name, value in params.items()}
    grad_dots = directional(batch_losses(module, inputs, targets), params, direction).grad_dots
    products = example_products(module, params, inputs, targets, loss, direction=direction)
    size = float(grad_dots.abs().max()) + 1e-6
    torch.testing.assert_close(summed(products.grad_dots) / size, grad_dots / size, rtol=0, atol=1e-10)
    # Cauchy-Schwarz binds the products by the norms.
    grad_sq_norms = summed(products.grad_sq_norms)
    assert bool((grad_dots.square() <= grad_sq_norms * flat(direction).square().sum() * (1 + 1e-9) + 1e-20).all())


def test_rows_of_padding_are_withheld():
    module, params, direction, *_ = world("tokens")
    assert not direction["embed.weight"][0].any() and direction["embed.weight"][1:].all()
    full = {name: torch.ones_like(value) for name, value in params.items()}
    assert mask_padding_rows(module, full)["embed.weight"].sum() == full["embed.weight"][1:].sum() and full["embed.weight"].all()


def test_single_precision_and_a_world_left_as_it_was():
    module, params, direction, inputs, targets = world("batch norm", dtype=torch.float32)
    module.train(False)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    given = {name: value.clone() for name, value in params.items()}
    grad_sq_norms = summed(example_products(module, params, inputs, targets, loss).grad_sq_norms)
    grad_dots = directional(batch_losses(module, inputs, targets), params, direction).grad_dots
    assert grad_sq_norms.dtype == grad_dots.dtype == torch.float32
    reference = gradients_one_by_one(module, params, inputs, targets, loss)
    torch.testing.assert_close(grad_sq_norms, reference.square().sum(1), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(torch.equal(given[key], value) and not value.requires_grad for key, value in params.items())
    assert torch.equal(state, torch.get_rng_state()) and not any(p.grad is not None for p in module.parameters())
    assert not any(layer._forward_hooks for layer in module.modules())


def test_batch_statistics_couple_examples():
    """In training BatchNorm no example has a gradient of its own, but the weighted sum of losses has a slope by each weight."""
    module, params, direction, inputs, targets = world("batch norm")
    module.train()
    for call in (example_products, lambda *args: list(example_gradients(*args))):
        with pytest.raises(ValueError, match="1 normalises by the batch, which couples its examples"):
            call(module, params, inputs, targets, loss)
    buffers = {name: value.clone() for name, value in module.named_buffers()}

    def losses(here):
        copies = {name: value.clone() for name, value in buffers.items()}
        return loss(functional_call(module, {**here, **copies}, (inputs,)), targets)

    step = 1e-6
    up, down = (losses({name: params[name] + s * step * direction[name] for name in params}) for s in (1, -1))
    expected = (up - down) / (2 * step)
    found = directional(losses, params, direction)
    torch.testing.assert_close(found.grad_dots, expected, rtol=1e-6, atol=1e-8)
    assert found.way == "forward"


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return g * 3 * ctx.saved_tensors[0] ** 2


class Cubed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.bent = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return self.last(NoForwardMode.apply(self.first(x) * self.bent))


def test_an_operation_without_forward_mode_or_batching_rule_falls_back_and_says_so():
    torch.manual_seed(0)
    module, inputs, targets = Cubed().double(), torch.randn(BATCH, 4, dtype=torch.float64), torch.randint(0, CLASSES, (BATCH,))
    params = {name: value.detach() for name, value in module.named_parameters()}
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    each = gradients_one_by_one(module, params, inputs, targets, loss)
    losses = batch_losses(module, inputs, targets)
    found = directional(losses, params, direction)
    torch.testing.assert_close(found.grad_dots, each @ flat(direction), rtol=1e-12, atol=1e-12)
    assert found.way == "double backward"
    norms = example_products(module, params, inputs, targets, loss)
    torch.testing.assert_close(summed(norms.grad_sq_norms), each.square().sum(1), rtol=1e-12, atol=1e-12)
    assert norms.materialised == ("bent",)


class Once(NoForwardMode):
    backward = staticmethod(torch.autograd.function.once_differentiable(NoForwardMode.backward))


def test_a_cut_in_the_graph_is_never_taken_for_zero():
    torch.manual_seed(0)

    class Cut(Cubed):
        def forward(self, x):
            return self.last(Once.apply(self.first(x) * self.bent))

    module, inputs, targets = Cut().double(), torch.randn(BATCH, 4, dtype=torch.float64), torch.randint(0, CLASSES, (BATCH,))
    params = {name: value.detach() for name, value in module.named_parameters()}
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    losses = batch_losses(module, inputs, targets)
    found = directional(losses, params, direction)
    each = gradients_one_by_one(module, params, inputs, targets, loss)
    torch.testing.assert_close(found.grad_dots, each @ flat(direction), rtol=1e-12, atol=1e-12)
    assert found.way == "one by one"
    # A derivative by the layers above alone goes past the cut.
    above = {name: params[name] for name in params if name.startswith("last")}
    along = {name: direction[name] for name in above}
    each = gradients_one_by_one(module, above, inputs, targets, loss)
    torch.testing.assert_close(directional(losses, above, along).grad_dots, each @ flat(along), rtol=1e-12, atol=1e-12)


def test_a_batch_that_does_not_fit_says_what_torch_says():
    module, params, direction, inputs, targets = world("linear")
    with pytest.raises((RuntimeError, ValueError)):
        directional(batch_losses(module, inputs[:, :3], targets), params, direction)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv2d(8, 8, 3, padding="same"), (8, 2, 3)),
        (lambda: nn.Conv2d(8, 16, 2, padding=(1, 0), stride=(2, 1), groups=2), (8, 2, 3)),
        (lambda: nn.Conv2d(16, 8, (3, 2), padding="same", dilation=2), (16, 3, 2)),
        (lambda: nn.Conv2d(16, 8, 3, padding=2, stride=2, bias=False), (16, 3, 3)),
        (lambda: nn.Conv2d(16, 16, 1), (16, 2, 2)),
        (lambda: nn.Conv1d(16, 16, 5, padding="same", dilation=2, groups=2), (16, 6)),
        (lambda: nn.Conv1d(8, 16, 3, padding="valid", stride=2), (8, 7)),
    ],
)
def test_few_places_and_many_say_the_same_of_a_convolution(layer, shape):
    draw = torch.Generator().manual_seed(0)
    conv = layer().double()
    inputs = torch.randn(3, *shape, generator=draw, dtype=torch.float64)
    gradient = torch.randn(conv(inputs).shape, generator=draw, dtype=torch.float64)
    along = torch.randn(conv.weight.shape, generator=draw, dtype=torch.float64)
    rule = RULES[type(conv)]
    for direction in (None, along):
        few, many = (by(conv, inputs, gradient, direction) for by in (rule._by_places, rule._by_gradients))
        for one, other in zip(few, many, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["convolution", "sequence"])
def test_squared_norms_that_cancel_are_taken_from_the_gradients_themselves(kind):
    # The gradient at the output adds up to 0 over the places, and the input is nearly the same at all of them.
    draw = torch.Generator().manual_seed(0)
    outward = torch.randn(4, 32, 3, 3, generator=draw)
    outward -= outward.mean((2, 3), keepdim=True)
    inputs = 100 + 1e-3 * torch.randn(4, 32, 3, 3, generator=draw)
    layer = nn.Conv2d(32, 32, 1)
    if kind == "sequence":
        layer, inputs, outward = nn.Linear(32, 32), inputs.flatten(2).mT, outward.flatten(2).mT
    rule = RULES[type(layer)]
    grad_sq_norms = [
        rule.products(layer, frozenset({"weight"}), part(inputs), part(outward), {}, {})["weight"][0]
        for part in (torch.Tensor.float, torch.Tensor.double)
    ]
    assert bool((grad_sq_norms[0] >= 0).all())
    torch.testing.assert_close(grad_sq_norms[0].double(), grad_sq_norms[1], rtol=0.2, atol=1e-6)


def test_a_layer_of_two_names_is_as_before_after_a_call_with_other_parameters():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    module = nn.Sequential(first, second, nn.Sequential(first))
    own, inputs = list(module.parameters()), torch.randn(3, 2)
    weight, bias = torch.randn(2, 2), torch.randn(2)
    result = called_with(module, {"0.weight": weight, "2.0.bias": bias}, inputs)
    after_first = F.linear(inputs, weight, bias)
    torch.testing.assert_close(result, F.linear(F.linear(after_first, weight, second.bias), weight, bias))
    assert [id(value) for value in module.parameters()] == list(map(id, own)) and first.weight is second.weight
