"""Features of kept models, against a hook, autograd one by one, and the dense projection."""

import gc
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay import nets
from assay.core.errors import MissingEvidence, NotWritten, UnknownName, UsageError
from assay.core.models import head_factors
from assay.core.selection import choose
from assay.experiments.evidence import gather, open_replay
from assay.maths.projections import rademacher
from assay.policies.deepfool import DeepFool
from assay.replay import checkpoints, example_rows, features

N, CLASSES = 20, 3


def counted(monkeypatch, replay):
    """First positions of the batches that are fetched from now on."""
    seen, clean = [], replay.training.clean
    monkeypatch.setattr(replay.training, "clean", lambda positions: [seen.append(int(positions[0])), clean(positions)][1])
    return seen


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(checkpoints, "BLOCK", 8)


class Backwards(nn.Module):
    """The layer that makes the logits is registered first; there is a linear layer behind it that makes something else."""

    def __init__(self):
        super().__init__()
        self.out, self.hidden, self.side = nn.Linear(6, CLASSES), nn.Linear(5, 6), nn.Linear(6, CLASSES)

    def forward(self, inputs):
        hidden = torch.tanh(self.hidden(inputs))
        logits = self.out(hidden)
        self.aside = self.side(2 * hidden)
        return logits


class Tokens(nn.Module):
    """Whole numbers in, tokens inside, an inner layer that works in place on what it is given."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.act, self.head = (
            nn.Embedding(11, 6),
            nn.Linear(6, 4),
            nn.ReLU(inplace=True),
            nn.Linear(4, CLASSES),
        )

    def forward(self, tokens):
        return self.head(self.act(self.mix(self.embed(tokens))).mean(1))


class Scaled(nn.Module):
    """What follows the layer that makes the logits leaves their number as it is; that layer is called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, inputs):
        return self.head(torch.relu(self.head(self.first(inputs)))) / 2


class NoHead(nn.Module):
    """Logits by a convolution."""

    def __init__(self):
        super().__init__()
        self.inner, self.conv = nn.Conv1d(1, 4, 1), nn.Conv1d(4, CLASSES, 5)

    def forward(self, inputs):
        return self.conv(torch.relu(self.inner(inputs[:, None])))[:, :, 0]


def replayed(folder, model, inputs, labels, epochs=2, keep="every", **given):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    loader = DataLoader(TensorDataset(inputs, labels), 7, shuffle=True, generator=torch.Generator().manual_seed(1))
    with assay.record(folder, model, optimizer, loader, assay.Recording(checkpoints=keep)) as recorder:
        for _ in range(epochs):
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    return open_replay(folder, loop=assay.Loop(model, optimizer, loader, **given))


def batch_of(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(N, *shape, generator=draw, dtype=torch.float64), torch.arange(N) % CLASSES


def evidence_of(folder, model, *parts, **given):
    replay = replayed(folder, model, *parts, **given)
    return gather(replay.run, replay), replay


def hooked(replay, module, inputs, epoch=-1, before=True, call=-1):
    """What goes into a module of the kept model, or what comes out, in a pass of plain torch over the same batches."""
    model = replay.training.model
    state = {name: value for name, value in replay.run.model(replay.kept[epoch]).items() if name in model.state_dict()}
    found = []
    model.eval()
    layer = model.get_submodule(module)
    with torch.no_grad():
        for part in inputs.split(checkpoints.BLOCK):
            met = []
            hook = layer.register_forward_hook(
                lambda _, args, output, met=met: met.append((args[0] if before else output).clone())
            )
            functional_call(model, state, (part,))
            hook.remove()
            found.append(met[call])
    return torch.cat(found)


ZOO = {
    "logistic": ("logistic", (5,)),
    "mlp": ("mlp:widths=6-7", (5,)),
    "lenet": ("lenet", (1, 12, 12)),
    "six_conv": ("six_conv", (3, 8, 8)),
    "block_conv": ("block_conv", (3, 16, 16)),
    "resnet18": ("resnet18", (3, 8, 8)),
    "resnet34": ("resnet34:width=2", (3, 8, 8)),
    "resnet50": ("resnet50:width=2", (3, 8, 8)),
    "vgg16": ("vgg16:width=2,head=dense", (3, 32, 32)),
    "wide_resnet": ("wide_resnet:depth=10,widen=1", (3, 8, 8)),
    "vit": ("vit:width=8,heads=2,depth=2", (3, 8, 8)),
}


LARGE = {"resnet18", "resnet34", "resnet50", "vgg16"}


def test_the_whole_zoo_is_here():
    assert set(ZOO) == set(nets.catalogue())


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in ZOO])
def test_penultimate_is_what_goes_into_the_head_of_every_net_of_the_zoo(name, tmp_path):
    net, shape = ZOO[name]
    model, (inputs, labels) = nets.build(net, shape, CLASSES, 0).double(), batch_of(*shape)
    evidence, replay = evidence_of(tmp_path / "run", model, inputs, labels, epochs=1)
    head = [place for place, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
    expected = hooked(replay, head, inputs)
    found = evidence.features("penultimate")
    assert found.dims == expected.shape[1] == model.get_submodule(head).in_features and found.ids == replay.run.ids
    assert torch.equal(found.rows(), expected.flatten(1))


def test_penultimate_is_found_by_the_order_of_calls_and_not_of_registration(tmp_path):
    torch.manual_seed(0)
    inputs, labels = batch_of(5)
    evidence, replay = evidence_of(tmp_path / "run", Backwards().double(), inputs, labels)
    assert torch.equal(evidence.features("penultimate").rows(), hooked(replay, "out", inputs))
    assert torch.equal(evidence.features("penultimate@0").rows(), hooked(replay, "out", inputs, epoch=1))
    assert not torch.equal(evidence.features("penultimate@0").rows(), evidence.features("penultimate@1").rows())
    assert torch.equal(evidence.features("layer:hidden").rows(), hooked(replay, "hidden", inputs, before=False))


def test_of_a_head_that_is_called_twice_the_last_call_counts(tmp_path):
    torch.manual_seed(0)
    inputs, labels = batch_of(5)
    evidence, replay = evidence_of(tmp_path / "run", Scaled().double(), inputs, labels)
    first, last = (hooked(replay, "head", inputs, call=call) for call in (0, 1))
    assert torch.equal(evidence.features("penultimate").rows(), last) and not torch.equal(first, last)
    assert torch.equal(evidence.features("layer:head#2").rows(), hooked(replay, "head", inputs, before=False))
    assert torch.equal(evidence.features("layer:head").rows(), hooked(replay, "head", inputs, before=False, call=0))


def test_logits_are_what_the_model_gives_also_behind_the_head(tmp_path):
    torch.manual_seed(0)
    inputs, labels = batch_of(5)
    evidence, replay = evidence_of(tmp_path / "run", Scaled().double(), inputs, labels)
    found = evidence.features("logits")
    expected = hooked(replay, "", inputs, before=False)
    assert found.dims == expected.shape[1] == 5 and torch.equal(found.rows(), expected)
    assert torch.equal(evidence.features("logits@0").rows(), hooked(replay, "", inputs, epoch=1, before=False))
    # The logits are half of what the head makes, so that its weights do not say where the boundaries are.
    with pytest.raises(UsageError, match="deepfool:keep=2: no trained linear layer makes the model's logits by itself"):
        choose(DeepFool(2), None, evidence)


def test_examples_without_one_class_have_no_logits(tmp_path):
    model, (inputs, _) = nn.Linear(5, 3).double(), batch_of(5)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    loader = DataLoader(TensorDataset(inputs, (inputs[:, :3] > 0).double()), 7)
    with assay.record(tmp_path / "run", model, optimizer, loader, data=assay.DataSpec(task="labels")) as recorder:
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)

    def losses(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none").mean(1)

    replay = open_replay(tmp_path / "run", loop=assay.Loop(model, optimizer, loader, losses=losses))
    with pytest.raises(UsageError, match=r"features=logits: the examples of this run do not have one class each.*layer:NAME"):
        gather(replay.run, replay).features("logits")


def test_of_tokens_a_layer_is_their_mean_and_what_works_in_place_changes_nothing(tmp_path):
    torch.manual_seed(0)
    tokens = torch.randint(11, (N, 9), generator=torch.Generator().manual_seed(0))
    evidence, replay = evidence_of(tmp_path / "run", Tokens().double(), tokens, torch.arange(N) % CLASSES)
    assert torch.equal(evidence.features("penultimate").rows(), hooked(replay, "head", tokens))
    expected = hooked(replay, "mix", tokens, before=False)
    assert bool((expected < 0).any())
    torch.testing.assert_close(evidence.features("layer:mix").rows(), expected.mean(1), rtol=1e-14, atol=1e-14)


def one_by_one(replay, inputs, labels, names, epoch=-1):
    model = replay.training.model.eval()
    state = {name: value for name, value in replay.run.model(replay.kept[epoch]).items() if name in model.state_dict()}
    found = []
    for x, y in zip(inputs, labels, strict=True):
        leaves = {name: state[name].clone().requires_grad_() for name in names}
        loss = F.cross_entropy(functional_call(model, {**state, **leaves}, (x[None],)), y[None])
        found.append(
            torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)])
        )
    return torch.stack(found)


@pytest.mark.parametrize(
    ("net", "shape", "head"), [("lenet", (1, 12, 12), "11"), ("mlp:widths=6-7", (5,), "5"), (None, (5,), "out")]
)
def test_head_grads_are_those_of_autograd(net, shape, head, tmp_path):
    torch.manual_seed(0)
    model = (Backwards() if net is None else nets.build(net, shape, CLASSES, 0)).double()
    inputs, labels = batch_of(*shape)
    evidence, replay = evidence_of(tmp_path / "run", model, inputs, labels)
    found = evidence.features("head_grads")
    expected = one_by_one(replay, inputs, labels, [f"{head}.weight", f"{head}.bias"])
    assert found.dims == expected.shape[1]
    torch.testing.assert_close(found.rows(), expected, rtol=1e-12, atol=1e-13)
    # Errors times what goes into the head: the closed form of the cross-entropy.
    outside = hooked(replay, head, inputs)
    layer = {name: value for name, value in replay.run.model(replay.kept[-1]).items() if name.startswith(f"{head}.")}
    errors = (outside @ layer[f"{head}.weight"].T + layer[f"{head}.bias"]).softmax(1) - F.one_hot(labels, CLASSES)
    closed = torch.cat([(errors[:, :, None] * outside[:, None]).flatten(1), errors], 1)
    torch.testing.assert_close(found.rows(), closed, rtol=1e-11, atol=1e-13)
    # As two factors, whose outer products have the same inner products.
    factors = found.factors()
    torch.testing.assert_close(factors.dots(torch.arange(N), slice(None)), expected @ expected.T, rtol=1e-12, atol=1e-13)
    assert factors.left.shape[1] + factors.right.shape[1] == outside.shape[1] + 1 + CLASSES
    first = one_by_one(replay, inputs, labels, [f"{head}.weight", f"{head}.bias"], epoch=1)
    torch.testing.assert_close(evidence.features("head_grads@0").rows(), first, rtol=1e-12, atol=1e-13)


class PerToken(Tokens):
    """Logits of each token, whose mean is that of the sequence."""

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embed(tokens)))).mean(1)


@pytest.mark.parametrize(("net", "tokens"), [(PerToken, True), (Scaled, False)])
def test_a_head_whose_gradients_are_sums_of_products_is_taken_as_rows(net, tokens, tmp_path):
    model, labels = net().double(), torch.arange(N) % CLASSES
    inputs = torch.randint(11, (N, 4), generator=torch.Generator().manual_seed(0)) if tokens else batch_of(5)[0]
    replay = replayed(tmp_path / "run", model, inputs, labels)
    model = replay.at(replay.kept[-1])
    names = model.head or ("head.weight", "head.bias")
    assert head_factors(model.batches(), names) is None
    if model.head:
        found = gather(replay.run, replay).features("head_grads")
        assert found.factors() is None
        assert torch.equal(found.vectors().rows, found.rows())


@pytest.mark.parametrize("room", [1, features.GRADIENT_BYTES])
def test_projected_gradients_are_the_dense_projection(room, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "GRADIENT_BYTES", room)
    model, (inputs, labels) = nets.build("mlp:widths=6-7", (5,), CLASSES, 0).double(), batch_of(5)
    evidence, replay = evidence_of(tmp_path / "run", model, inputs, labels)
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    matrix = torch.cat([rademacher(0, name, range(size), 70) for name, size in sizes.items()])
    found = evidence.features("grads:project=70")
    assert found.dims == 70
    torch.testing.assert_close(found.rows(), one_by_one(replay, inputs, labels, list(sizes)) @ matrix, rtol=1e-11, atol=1e-13)


def test_losses_of_ones_own_are_differentiated(tmp_path):
    torch.manual_seed(0)
    model, (inputs, labels) = Backwards().double(), batch_of(5)

    def losses(model, batch):
        x, y = batch
        return F.cross_entropy(model(x), y, reduction="none", label_smoothing=0.2)

    evidence, replay = evidence_of(tmp_path / "run", model, inputs, labels, losses=losses)
    state = replay.run.model(1)
    outside = hooked(replay, "out", inputs)
    smooth = 0.8 * F.one_hot(labels, CLASSES).double() + 0.2 / CLASSES
    errors = (outside @ state["out.weight"].T + state["out.bias"]).softmax(1) - smooth
    closed = torch.cat([(errors[:, :, None] * outside[:, None]).flatten(1), errors], 1)
    torch.testing.assert_close(evidence.features("head_grads").rows(), closed, rtol=1e-11, atol=1e-13)
    assert torch.equal(evidence.features("penultimate").rows(), outside)


def test_readers_do_not_disturb_each_other_and_blocks_are_their_own(tmp_path):
    torch.manual_seed(0)
    inputs, labels = batch_of(5)
    evidence, replay = evidence_of(tmp_path / "run", Backwards().double(), inputs, labels)
    specs = ["penultimate", "penultimate@0", "layer:hidden", "head_grads", "grads:project=9@0", "penultimate"]
    alone = [evidence.features(spec).rows() for spec in specs]
    weights = {name: value.clone() for name, value in replay.training.model.state_dict().items()}
    whole, places = [torch.full_like(rows, torch.nan) for rows in alone], []
    for blocks in zip(*(evidence.features(spec).blocks() for spec in specs), strict=True):
        # Between two blocks somebody else asks for the model, its gradients and its layers.
        next(iter(replay.at(1).batches())).grad_sq_norms(["out.weight"])
        evidence.features("penultimate@0").rows().zero_()
        for rows, (part, block) in zip(whole, blocks, strict=True):
            rows[part] = block
            block.zero_()
        places.append(blocks[0][0])
    assert [(part.start, part.stop) for part in places] == [(0, 8), (8, 16), (16, 20)]
    for rows, expected in zip(whole, alone, strict=True):
        assert torch.equal(rows, expected)
    assert all(torch.equal(value, weights[name]) for name, value in replay.training.model.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in replay.training.model.modules())
    found = evidence.features("penultimate")
    assert found.fingerprint == evidence.features("penultimate@1").fingerprint != evidence.features("penultimate@0").fingerprint


def mapped(folder):
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


@pytest.mark.slow
def test_large_features_stand_in_a_file_that_goes_with_the_last_reader(tmp_path, monkeypatch):
    torch.manual_seed(0)
    evidence, replay = evidence_of(tmp_path / "run", Backwards().double(), *batch_of(5))
    specs = ["penultimate", "layer:hidden@0", "head_grads", "grads:project=9"]
    small = [evidence.features(spec) for spec in specs]
    expected = [(one.rows(), one.fingerprint) for one in small]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(features, "ON_DISK", N * 9 * 8 - 1)
    monkeypatch.setattr(example_rows, "BLOCK", 7)
    passes = counted(monkeypatch, replay)
    for spec, (rows, fingerprint) in zip(specs, expected, strict=True):
        large = spec in ("head_grads", "grads:project=9")
        passes.clear()
        found = evidence.features(spec)
        whole = found.rows()
        assert torch.equal(whole, rows) and whole.dtype == rows.dtype and bool(mapped(scratch)) == large
        whole.zero_()
        assert found.fingerprint == fingerprint and torch.equal(found.rows(), rows)
        assert torch.equal(torch.cat([block for _, block in found.blocks()]), rows)
        if large:
            assert [len(block) for _, block in found.blocks()] == [7, 7, 6]
            assert passes.count(16) == 1, "all readers share what was made once"
        del found, whole
        gc.collect()
        assert not mapped(scratch) and not list(scratch.iterdir())


def test_large_features_that_cannot_be_written_are_refused_in_a_sentence(tmp_path, monkeypatch):
    evidence, _ = evidence_of(tmp_path / "run", Backwards().double(), *batch_of(5))
    monkeypatch.setattr(features, "ON_DISK", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    found = evidence.features("penultimate")
    with pytest.raises(
        NotWritten, match=r"features=penultimate take 0.0 GB and cannot be written to .*absent .*set TMPDIR to a folder"
    ):
        found.rows()


def test_what_goes_straight_into_the_head_is_not_the_readers_to_spoil(tmp_path, monkeypatch):
    inputs, labels = batch_of(5)
    model = nets.build("logistic", (5,), CLASSES, 0).double()
    evidence, replay = evidence_of(tmp_path / "run", model, inputs, labels)
    # A dataset may hand out its own memory.
    monkeypatch.setattr(replay.training, "clean", lambda at: (inputs[at[0] : at[-1] + 1], labels[at[0] : at[-1] + 1]))
    first = evidence.features("penultimate").rows()
    for _, block in evidence.features("penultimate").blocks():
        block.zero_()
    assert torch.equal(evidence.features("penultimate").rows(), first) and bool(first.all())


def test_what_there_is_not_is_refused_with_a_cure(tmp_path):
    torch.manual_seed(0)
    inputs, labels = batch_of(5)
    evidence, _ = evidence_of(tmp_path / "run", NoHead().double(), inputs, labels, keep="last")
    with pytest.raises(UsageError, match=r"features=penultimate: no linear layer .* features=layer:conv \(.*inner"):
        evidence.features("penultimate")
    assert evidence.features("layer:inner").dims == 20
    with pytest.raises(UsageError, match=r"features=head_grads: no linear layer .* features=grads:project=512"):
        evidence.features("head_grads")
    assert evidence.features("grads:project=4").rows().shape == (N, 4)
    with pytest.raises(UnknownName, match=r"No layer of the model is named 'iner'\. Did you mean inner"):
        evidence.features("layer:iner")
    with pytest.raises(MissingEvidence, match="kept no model of epoch 5"):
        evidence.features("layer:inner@5")
    with pytest.raises(UsageError, match=r"features=layer:inner#2: Layer inner#2 is not called .* features=layer:conv"):
        evidence.features("layer:inner#2")


def test_a_frozen_head_has_no_gradient(tmp_path):
    torch.manual_seed(0)
    model, (inputs, labels) = Backwards().double(), batch_of(5)
    model.out.requires_grad_(False)
    evidence, replay = evidence_of(tmp_path / "run", model, inputs, labels)
    with pytest.raises(UsageError, match="no linear layer that is trained"):
        evidence.features("head_grads")
    assert torch.equal(evidence.features("penultimate").rows(), hooked(replay, "out", inputs))
