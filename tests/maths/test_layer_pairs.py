"""Inputs and output gradients of layers, held against the gradients of single examples and against whole matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from assay.maths.layer_pairs import layer_pairs
from groups import slow
from maths.test_derivatives import CLASSES, MODULES, conv, loss, world
from reference.derivatives import gradients_one_by_one

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

PADDED = {
    f"conv {mode} {layer.__name__}": (
        lambda layer=layer, mode=mode: conv(layer(4, 6, 3, padding=2, padding_mode=mode, stride=2, groups=2, dilation=1)),
        (4, 7) if layer is nn.Conv1d else (4, 7, 6),
    )
    for layer in (nn.Conv1d, nn.Conv2d)
    for mode in ("circular", "reflect", "replicate")
}
MORE = {
    "same circular": (lambda: conv(nn.Conv2d(2, 3, (4, 3), padding="same", padding_mode="circular", dilation=(1, 2))), (2, 6, 7)),
    "depthwise": (lambda: conv(nn.Conv2d(4, 4, 3, groups=4, dilation=2, padding=1), nn.Tanh()), (4, 7, 6)),
    "batch norm of places": (lambda: conv(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), (2, 6)),
    "layer norm of tokens": (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, CLASSES), Middle()), (3, 4)),
    "group norm of rows": (lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(3, 6), nn.Linear(6, CLASSES)), (4,)),
    "not reached": (lambda: Unreached(), (4,)),
}
REFUSED = {
    "instance norm": r"Parameter 1\.weight is in InstanceNorm2d, and only plain Linear, Conv1d",
    "shared": r"Parameter scale is in Shared, and only plain",
    "tied": r"Parameter embed\.weight is used elsewhere too, behind its layer's back",
    "places first": r"Parameter last\.weight is in a layer that is called 2 times in one pass, or is given its input by name",
    "attention to others": r"Parameter attention\.in_proj_weight is in attention that was not called, or of which query, key and value are not one",
    "attention with a bias of keys": r"Parameter attention\.bias_k is in MultiheadAttention, and only plain",
    "attention by three matrices": r"Parameter attention\.q_proj_weight is in MultiheadAttention, and only plain",
    "flattened": r"Parameter one\.weight is in a layer that is called 0 times in one pass",
}
CLEAN = [name for name in (*MODULES, *PADDED, *MORE) if name not in REFUSED]


class Middle(nn.Module):
    def forward(self, x):
        return x.mean(1)


class Unreached(nn.Module):
    """A layer that is called and changes nothing."""

    def __init__(self):
        super().__init__()
        self.aside, self.out = nn.Linear(4, 2), nn.Linear(4, CLASSES)

    def forward(self, x):
        self.aside(x)
        return self.out(x)


@pytest.fixture(autouse=True)
def more(monkeypatch):
    for name, made in (PADDED | MORE).items():
        monkeypatch.setitem(MODULES, name, made)


def pairs_of(name, names=None, dtype=torch.float64, **given):
    module, params, _, inputs, targets = world(name, dtype=dtype)

    def losses(at):
        return loss(functional_call(module, at, (inputs,)), targets)

    return list(layer_pairs(module, losses, params, names or tuple(params), **given))


def each(pairs, examples):
    """The gradient of each example by each parameter."""
    found = {}
    for pair in pairs:
        count = len(pair.gradients)
        for n in range(count):
            for name, value in pair.summed(torch.eye(count, dtype=pair.gradients.dtype)[n]).items():
                found.setdefault(name, [None] * examples)[pair.rows.start + n] = value
    return {name: torch.stack(values) for name, values in found.items()}


@pytest.mark.parametrize("chunk_bytes", [1, 4_000, 2**24])
@pytest.mark.parametrize("name", CLEAN)
def test_the_sum_over_positions_is_the_gradient_of_each_example(name, chunk_bytes):
    module, params, _, inputs, targets = world(name)
    expected = gradients_one_by_one(module, params, inputs, targets, loss)
    pairs = pairs_of(name, chunk_bytes=chunk_bytes)
    found = each(pairs, len(inputs))
    assert set(found) == set(params)
    row = torch.cat([found[name].flatten(1) for name in params], 1)
    torch.testing.assert_close(row, expected, rtol=1e-10, atol=1e-12)
    assert not any(part.requires_grad for pair in pairs for part in (pair.inputs, pair.gradients))
    for pair in pairs:
        shown = {name: params[name] for name in pair.matrix.names}
        back = pair.matrix.named(pair.matrix.of(shown))
        assert all(torch.equal(back[name], value) for name, value in shown.items())
        assert pair.matrix.of(shown).shape == (pair.matrix.groups, pair.matrix.outputs, pair.matrix.columns)
        if not pair.matrix.indexed:
            by_hand = torch.einsum("ngpo,ngpc->goc", pair.gradients, pair.inputs)
            torch.testing.assert_close(pair.matrix.of(pair.summed(torch.ones(len(pair.inputs), dtype=by_hand.dtype))), by_hand)


@pytest.mark.parametrize("chunk_bytes", [2_000])
def test_chunks_keep_to_their_memory(chunk_bytes):
    pairs = pairs_of("conv", chunk_bytes=chunk_bytes)
    assert (
        all((pair.inputs.numel() + pair.gradients.numel()) * 8 <= chunk_bytes or len(pair.inputs) == 1 for pair in pairs)
        and len(pairs) > 3
    )


@pytest.mark.parametrize("name", [name for name in CLEAN if name not in ("not reached", "layer norm without weights")])
def test_single_precision_is_not_refused(name):
    assert pairs_of(name, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_whose_digits_cancel_on_the_way_back_are_not_refused(dtype, bias):
    # Two features that are normalised are 1 and -1 whatever they were: next to nothing goes back, and of it few digits are right.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 2, bias=bias), nn.LayerNorm(2), nn.Tanh(), nn.Linear(2, CLASSES, bias=bias)).to(dtype)
    inputs, targets = 100 * torch.randn(30, 4, dtype=dtype), torch.arange(30) % CLASSES
    params = {name: value.detach() for name, value in module.named_parameters()}

    def losses(at, used=0.0):
        aside = used * ({**params, **at}["0.weight"] * inputs[:, None, :] / 100).sum((1, 2)).tanh()
        return loss(functional_call(module, at, (inputs,)), targets) + aside

    found = each(layer_pairs(module, losses, params, tuple(params)), 30)
    (exact,) = (value for name, value in found.items() if name == "3.weight")
    assert float(found["0.weight"].abs().max()) < 1e-3 * float(exact.abs().max())
    # As small a use elsewhere as what comes back itself.
    with pytest.raises(ValueError, match=r"0\.weight is used elsewhere"):
        layer_pairs(module, lambda at: losses(at, 1e-4), params, tuple(params))


def test_some_parameters_alone():
    for names in (("0.weight",), ("0.bias",), ("3.bias", "0.weight")):
        pairs = pairs_of("conv", names)
        assert sorted(name for pair in pairs for name in pair.matrix.names) == sorted(names)
        whole = each(pairs_of("conv"), 5)
        for name, value in each(pairs, 5).items():
            torch.testing.assert_close(value, whole[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_pair_makes_is_refused_by_name(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        pairs_of(name)


class Behind(nn.Module):
    """A weight that is used once more, on the first examples of a batch or by the loss; or a layer of two names."""

    def __init__(self, how):
        super().__init__()
        self.how, self.one, self.two, self.out = how, nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        if how == "shared":
            self.two.weight = self.one.weight

    def forward(self, x):
        h = self.two(self.one(x).tanh()).tanh()
        if self.how == "first":
            h = h + 0.1 * torch.cat([F.linear(x[:1], self.two.weight), 0 * x[1:]])
        if self.how == "axis":
            h = h.flip(0)
        return self.out(h)


@pytest.mark.parametrize(
    ("how", "names", "words"),
    [
        ("first", ("two.weight",), r"two\.weight is used elsewhere"),
        ("shared", ("one.weight",), r"one\.weight belongs to several layers"),
        ("axis", ("one.weight",), r"one\.weight is used elsewhere"),
        ("loss", ("out.bias",), r"out\.bias is used elsewhere"),
    ],
)
def test_a_parameter_used_behind_its_layer_s_back_is_never_wrong(how, names, words):
    torch.manual_seed(0)
    module = Behind(how).double()
    params = {name: value.detach() for name, value in module.named_parameters()}
    inputs, targets = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % CLASSES

    def losses(at):
        values = loss(functional_call(module, at, (inputs,)), targets)
        return values + 1e-3 * {**params, **at}["out.bias"].square().sum() if how == "loss" else values

    with pytest.raises(ValueError, match=words):
        layer_pairs(module, losses, params, names)
    # The others are had all the same.
    if how != "axis":
        assert len(list(layer_pairs(module, losses, params, ("out.weight", "two.bias")))) == 2
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.parametrize(("name", "parameter"), [("places first", "one.weight"), ("flattened", "two.bias")])
def test_rows_that_are_no_examples_are_refused(name, parameter):
    with pytest.raises(ValueError, match=rf"Parameter {parameter} is (used elsewhere too|in a layer whose inputs do not stand)"):
        pairs_of(name, (parameter,))


def test_padding_and_embeddings_that_are_scaled():
    torch.manual_seed(0)
    tokens, targets = torch.tensor([[0, 1], [2, 0], [3, 3]]), torch.tensor([0, 1, 2])

    def made(**options):
        module = nn.Sequential(nn.Embedding(5, 3, **options), nn.Flatten(), nn.Linear(6, CLASSES)).double()
        params = {name: value.detach() for name, value in module.named_parameters()}
        return module, params, lambda at: loss(functional_call(module, at, (tokens,)), targets)

    module, params, losses = made(padding_idx=0, sparse=True)
    (pair,) = layer_pairs(module, losses, params, ["0.weight"])
    assert pair.matrix.indexed and not pair.gradients[:, 0][tokens == 0].any()
    for options in ({"scale_grad_by_freq": True}, {"max_norm": 0.5}):
        module, params, losses = made(**options)
        with pytest.raises(ValueError, match=r"0\.weight is in Embedding, and only plain"):
            layer_pairs(module, losses, params, ["0.weight"])


@pytest.mark.parametrize("name", [*CLEAN[:4], *slow(*CLEAN[4:])])
def test_columns_come_one_after_another_from_one_forward_pass(name):
    module, params, _, inputs, _ = world(name, dtype=torch.float64)
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))

    def outputs(at):
        return functional_call(module, at, (inputs,))

    together = list(layer_pairs(module, outputs, params, tuple(params)))
    assert len(calls) == 1
    alone = [
        pair
        for column in range(CLASSES)
        for pair in layer_pairs(module, lambda at, column=column: outputs(at)[:, column], params, tuple(params))
    ]
    assert len(together) == len(alone) > 0
    for one, other in zip(together, alone, strict=True):
        assert one.matrix == other.matrix and one.rows == other.rows
        torch.testing.assert_close(one.inputs, other.inputs, rtol=0, atol=0)
        torch.testing.assert_close(one.gradients, other.gradients, rtol=1e-12, atol=1e-15)


class Aside(nn.Module):
    """One output uses a weight beside its layer, or sees the other examples; the first does neither."""

    def __init__(self, how):
        super().__init__()
        self.layer, self.how = nn.Linear(4, CLASSES), how

    def forward(self, x):
        out = self.layer(x)
        more = self.layer.weight.sum() if self.how == "behind" else 0.1 * out[:, -1].mean()
        return torch.cat([out[:, :-1], out[:, -1:] * (1 + more)], 1)


@pytest.mark.parametrize("how", ["behind", "among others"])
def test_what_is_wrong_with_one_column_alone_is_refused(how):
    torch.manual_seed(0)
    module, inputs = Aside(how).double(), torch.randn(5, 4, dtype=torch.float64)
    params = dict(module.named_parameters())

    def outputs(at):
        return functional_call(module, at, (inputs,))

    assert list(layer_pairs(module, lambda at: outputs(at)[:, :-1], params, tuple(params)))
    with pytest.raises(ValueError, match="is used elsewhere too"):
        layer_pairs(module, outputs, params, tuple(params))
