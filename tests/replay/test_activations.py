"""Layers of any net: which are found, what is taken of them, and that neither an in-place activation nor a second call spoils it."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay import nets
from assay.core.errors import NumericalError, UnknownName, UsageError
from assay.replay.activations import found, layered

N = 10


def taken(model, inputs, names=None, batch=4, room=10**9):
    model.eval()

    def batches():
        for positions in torch.arange(len(inputs)).split(batch):
            yield positions, inputs[positions]

    passes = []

    def forward(part):
        passes.append(len(part))
        with torch.no_grad():
            return model(part)

    layers = {one.name: one.rows for one in layered(model, batches, forward, len(inputs), names, room)}
    return layers, passes


def test_a_residual_net_is_looked_at_where_the_paper_does():
    model = nets.build("resnet18", (3, 8, 8), 10, 0).eval()
    inputs = torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layers, _ = taken(model, inputs)
    assert list(layers) == ["(input)", "0", *map(str, range(3, 11)), "(softmax)"]
    with torch.no_grad():
        stem = model[1](model[0](inputs))
        block, x = model[3], F.relu(stem)
        before = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(x))))) + block.shortcut(x)
        logits = model(inputs)
    torch.testing.assert_close(layers["(input)"], inputs.flatten(1))
    torch.testing.assert_close(layers["0"], stem.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layers["3"], before.flatten(1), rtol=1e-4, atol=1e-5)
    assert bool((layers["3"] < 0).any()), "after the addition and before the ReLU"
    torch.testing.assert_close(layers["(softmax)"], logits.softmax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        ("logistic", (5,), []),
        ("mlp:widths=6-7", (5,), ["1", "3"]),
        ("lenet", (1, 12, 12), ["0", "3", "7", "9"]),
        ("six_conv", (3, 8, 8), ["0", "3", "6", "9", "12", "15"]),
    ],
)
def test_layers_with_weights_are_found_in_order(net, shape, expected):
    model = nets.build(net, shape, 3, 0).eval()
    assert [place.name for place in found(model, lambda: model(torch.randn(2, *shape)))] == expected


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Twice(nn.Module):
    """Two layers of one's own, one of them called twice, with activations that work in place."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.act, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)

    def forward(self, x):
        x = self.act(self.first(x))
        for _ in range(2):
            x = self.act(self.again(x))
        return self.head(x)


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped])
def test_a_layer_called_twice_counts_twice_and_activations_in_place_change_nothing(wrap):
    torch.manual_seed(0)
    inner = Twice()
    model, inputs = wrap(inner), torch.randn(N, 5)
    layers, _ = taken(model, inputs)
    prefix = "" if model is inner else "inner."
    assert list(layers) == ["(input)", f"{prefix}first", f"{prefix}again", f"{prefix}again#2", "(softmax)"]
    with torch.no_grad():
        one = F.linear(inputs, inner.first.weight, inner.first.bias)
        two = F.linear(one.relu(), inner.again.weight, inner.again.bias)
        three = F.linear(two.relu(), inner.again.weight, inner.again.bias)
    for name, rows in (("first", one), ("again", two), ("again#2", three)):
        torch.testing.assert_close(layers[prefix + name], rows)
        assert bool((layers[prefix + name] < 0).any())


def test_as_many_layers_as_have_room_are_taken_in_one_pass_and_it_ends_with_the_last():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(N, 5)
    calls = []
    model[4].register_forward_hook(lambda *_: calls.append(1))
    whole, once = taken(model, inputs)
    # One pass finds the layers, one their sizes, and each has four batches of the ten.
    assert len(once) == 2 + 3
    calls.clear()
    parts, often = taken(model, inputs, room=8 * N * 4)
    assert len(often) == 2 + 3 * 3 and len(calls) == 1 + 3, "a pass for an inner layer goes on to the logits"
    assert all(torch.equal(whole[name], parts[name]) for name in whole) and list(whole) == list(parts)


def test_named_layers_are_looked_at_as_they_are():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    layers, _ = taken(model, torch.randn(N, 5), ["1"])
    assert list(layers) == ["(input)", "1", "(softmax)"] and bool((layers["1"] >= 0).all())
    with pytest.raises(UnknownName, match="No layer of the model is named '3'"):
        taken(model, torch.randn(N, 5), ["3"])
    with pytest.raises(UsageError, match=r"layers=1\+1 must name at least one layer, and each once"):
        taken(model, torch.randn(N, 5), ["1", "1"])


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embedding(tokens))).mean(1))


def test_tokens_are_averaged_and_are_no_layer_themselves():
    torch.manual_seed(0)
    model, tokens = Tokens(), torch.randint(7, (N, 4))
    layers, _ = taken(model, tokens)
    assert list(layers) == ["embedding", "mix", "(softmax)"]
    torch.testing.assert_close(layers["embedding"], model.embedding(tokens).mean(1).detach())


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 3))

    def forward(self, x):
        return x @ self.weight


def test_a_net_without_inner_layers_has_its_input_and_its_softmax():
    inputs = torch.randn(N, 5)
    layers, _ = taken(Bare(), inputs)
    assert list(layers) == ["(input)", "(softmax)"] and torch.equal(layers["(input)"], inputs)
    with pytest.raises(
        UsageError, match=r"no layer between its tokens and its logits.* choose a method that reads no layers, such as grand"
    ):
        taken(OneHot(), torch.randint(7, (N, 4)))


class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7, 3))

    def forward(self, tokens):
        return F.one_hot(tokens, 7).float().mean(1) @ self.weight


def test_a_layer_that_is_never_called_is_refused():
    model = Twice()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(
        UsageError, match=r"Layer spare is not called for every batch; name others, such as layers=\S+ \(what can be looked at: "
    ):
        taken(model, torch.randn(N, 5), ["spare"])


class Held(nn.Module):
    """Layers in a list, as most hand-written nets have them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 6), nn.Linear(6, 7)])
        self.parts = nn.ModuleDict({"head": nn.Linear(7, 3)})

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return self.parts["head"](x)


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped, lambda model: Wrapped(Wrapped(model))])
def test_lists_of_layers_are_opened(wrap):
    layers, _ = taken(wrap(Held()), torch.randn(N, 5))
    assert [name.removeprefix("inner.").removeprefix("inner.") for name in layers] == [
        "(input)",
        "layers.0",
        "layers.1",
        "(softmax)",
    ]


class Ends(nn.Module):
    """Modules called as the ends of a net are."""

    def __init__(self):
        super().__init__()
        self.input, self.softmax, self.head = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.softmax(self.input(x).tanh()).tanh())


def test_modules_may_be_called_input_and_softmax():
    inputs = torch.randn(N, 5)
    layers, _ = taken(Ends(), inputs)
    assert list(layers) == ["(input)", "input", "softmax", "(softmax)"] and layers["input"].shape == (N, 6)
    named, _ = taken(Ends(), inputs, ["softmax"])
    assert list(named) == ["(input)", "softmax", "(softmax)"]


class Turned(nn.Module):
    """A recurrent layer that has time in front."""

    def __init__(self):
        super().__init__()
        self.first, self.recurrent, self.head = nn.Linear(5, 5), nn.LSTM(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.recurrent(self.first(x).transpose(0, 1))[0][-1])


def test_layers_with_another_axis_in_front_are_passed_over_or_refused():
    inputs = torch.randn(N, 6, 5)
    layers, _ = taken(Turned(), inputs)
    assert list(layers) == ["(input)", "first", "(softmax)"]
    with pytest.raises(UsageError, match="Layer recurrent does not give a row of numbers for each example"):
        taken(Turned(), inputs, ["recurrent"])


class Sometimes(nn.Module):
    """A layer that only some batches go through."""

    def __init__(self):
        super().__init__()
        self.first, self.extra, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        return self.head(x if len(x) == 2 else self.extra(x))


def test_a_layer_that_one_batch_does_not_go_through_is_refused():
    # Ten examples in batches of four: the last one has two.
    with pytest.raises(UsageError, match="Layer extra is not called for every batch"):
        taken(Sometimes(), torch.randn(N, 5))


def test_what_is_not_finite_is_no_layer_and_halves_are_kept_in_single_precision():
    model, inputs = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(N, 5)
    layers, _ = taken(model.to(torch.bfloat16), inputs.to(torch.bfloat16))
    assert all(rows.dtype == torch.float32 for rows in layers.values())
    model[0].bias.data[0] = float("nan")
    with pytest.raises(NumericalError, match="Layer 0 makes numbers that are NaN or infinite"):
        taken(model, inputs.to(torch.bfloat16))


def test_a_later_call_is_named_by_its_number():
    torch.manual_seed(0)
    model, inputs = Twice(), torch.randn(N, 5)
    every, _ = taken(model, inputs)
    second, _ = taken(model, inputs, ["again#2"])
    assert torch.equal(second["again#2"], every["again#2"])
    for wrong in ("again#0", "again#x", "other#2"):
        with pytest.raises(UnknownName, match="No layer of the model"):
            taken(model, inputs, [wrong])
    with pytest.raises(UsageError, match="Layer again#3 is not called"):
        taken(model, inputs, ["again#3"])


class Encoder(nn.Module):
    """Gives what it makes of tokens in an object of several tensors, as encoders of Hugging Face do."""

    def __init__(self, blocks, pack):
        super().__init__()
        self.embeddings = nn.Sequential(nn.Embedding(7, 6), nn.LayerNorm(6))
        self.encoder = Stack(blocks, pack)
        self.pooler = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.pack = pack

    def forward(self, tokens):
        hidden = unpacked(self.encoder(self.embeddings(tokens)))[0]
        return self.pack(last_hidden_state=hidden, pooler_output=self.pooler(hidden[:, 0]))


class Stack(nn.Module):
    def __init__(self, blocks, pack):
        super().__init__()
        self.layer = nn.ModuleList(nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True) for _ in range(blocks))
        self.pack = pack

    def forward(self, hidden):
        for layer in self.layer:
            hidden = layer(hidden)
        return self.pack(last_hidden_state=hidden)


class Classifier(nn.Module):
    def __init__(self, blocks, pack):
        super().__init__()
        self.bert, self.dropout, self.classifier = Encoder(blocks, pack), nn.Dropout(), nn.Linear(6, 3)

    def forward(self, tokens):
        return self.classifier(self.dropout(unpacked(self.bert(tokens))[1]))


def unpacked(output):
    return list((output if isinstance(output, dict) else vars(output)).values())


@pytest.mark.parametrize("pack", [dict, types.SimpleNamespace])
@pytest.mark.parametrize("blocks", [1, 2])
def test_what_gives_an_object_of_tensors_is_opened(pack, blocks):
    torch.manual_seed(0)
    model, tokens = Classifier(blocks, pack), torch.randint(7, (N, 4))
    layers, _ = taken(model, tokens)
    inner = [f"bert.encoder.layer.{number}" for number in range(blocks)]
    assert list(layers) == ["bert.embeddings.0", *inner, "bert.pooler.0", "(softmax)"]
    torch.testing.assert_close(layers["bert.embeddings.0"], model.bert.embeddings(tokens).mean(1).detach())
    with pytest.raises(
        UsageError, match=r"Layer bert does not give a row .* such as layers=bert\.pooler\.0 \(what can be looked at: bert\.em"
    ):
        taken(model, tokens, ["bert"])
    assert list(taken(model, tokens, ["bert.pooler.0"])[0]) == ["bert.pooler.0", "(softmax)"]
