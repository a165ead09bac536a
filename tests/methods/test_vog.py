"""VoG against expected values from elsewhere, against one backward pass per example, and on tokens."""

import pathlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
import plain_loop
from assay.core.errors import MissingEvidence, UsageError
from assay.methods.vog import VoG, vog, within_class
from assay.replay.functional import Functional
from methods.loops import CLASSES, EXAMPLES, World

VARIANTS = [{}, {"by_class": False}, {"stage": "late", "count": 2, "reduce": "var"}]
REFUSED = ["count=3", "stage=late,count=1", "reduce=max", "stage=middle"]

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "vog.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize("kind", ["all", "early", "late", "rgb"])
def test_equals_what_was_computed_elsewhere(golden, kind):
    gradients, labels = (golden["grads_rgb"], golden["label_rgb"]) if kind == "rgb" else (golden["grads"], golden["label"])
    gradients = {"early": gradients[: golden["early_count"]], "late": gradients[-golden["late_count"] :]}.get(kind, gradients)
    for reduce in ("std", "var"):
        torch.testing.assert_close(vog(gradients, reduce=reduce), golden[f"{kind}_{reduce}"], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(vog(gradients, labels), golden[f"{kind}_znorm"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(vog(gradients, labels).abs(), golden[f"{kind}_absz"], rtol=1e-9, atol=1e-12)


def test_a_class_without_spread_is_at_its_mean():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    values = torch.tensor([0.1, 0.1, 0.1, 5.0, 1.0, 3.0], dtype=torch.float64)
    assert within_class(values, labels).tolist() == [0, 0, 0, 0, -1, 1]


def by_hand(world, epochs, reduce="std"):
    """One backward pass per example and kept model, everything stacked."""
    model = world.model.eval()
    rows = []
    for epoch in epochs:
        model.load_state_dict(world.run.model(epoch), strict=False)
        own = []
        for x, y in zip(world.inputs, world.labels, strict=True):
            x = x.clone()[None].requires_grad_()
            own.append(torch.autograd.grad(model(x)[0, y], x)[0][0])
        rows.append(torch.stack(own))
    variance = torch.stack(rows).var(0, unbiased=False)
    return (variance.sqrt() if reduce == "std" else variance).mean(1)


@pytest.mark.parametrize("norm", [False, True])
def test_equals_one_backward_pass_per_example_and_model(tmp_path, norm):
    world = World(tmp_path / "run", "momentum", epochs=6, norm=norm)
    names = [
        "vog:by_class=False",
        "vog:stage=early,reduce=var,by_class=False",
        "vog:stage=late,count=3,by_class=False",
        "vog",
    ]
    table = world.score(*names)
    expected = {
        names[0]: by_hand(world, range(6)),
        names[1]: by_hand(world, range(2), "var"),
        names[2]: by_hand(world, range(3, 6)),
        names[3]: within_class(by_hand(world, range(6)), world.labels),
    }
    for title, values in expected.items():
        assert values.abs().max() > 1e-4
        torch.testing.assert_close(table[title].values, values, rtol=1e-9, atol=1e-12)
    assert table["vog"].unit == "standard deviations within the class"
    assert [table[name].unit for name in names[:2]] == ["logit per input unit", "squared logit per input unit"]
    assert table[names[2]].diagnostics["epochs whose end was looked at"] == [3, 4, 5]


def test_too_few_models_are_refused(tmp_path):
    world = World(tmp_path / "run", checkpoints="last", epochs=1)
    with pytest.raises(MissingEvidence, match="needs the models of at least 2 epochs, and the run kept 1; record with"):
        world.score("vog")
    world = World(tmp_path / "more", epochs=3)
    with pytest.raises(MissingEvidence, match="at least 4 epochs, and the run kept 3"):
        world.score("vog:stage=late,count=4")
    for given in ({"count": 3}, {"stage": "early", "count": 1}):
        with pytest.raises(UsageError, match="goes with stage=early or late, from 2 on"):
            VoG(**given)


class Words(nn.Module):
    """Tokens and their places, each with an embedding."""

    def __init__(self):
        super().__init__()
        self.places, self.embed, self.out = nn.Embedding(4, 5), nn.Embedding(9, 5), nn.Linear(5, CLASSES)

    def forward(self, tokens):
        places = self.places(torch.arange(tokens.shape[1]).expand_as(tokens))
        return self.out((self.embed(tokens) + places).tanh().mean(1))


def test_tokens_are_differentiated_by_their_embeddings():
    torch.manual_seed(0)
    model = Words().double()
    tokens, labels = torch.randint(9, (EXAMPLES, 4)), torch.randint(CLASSES, (EXAMPLES,))
    params = {name: value.detach() for name, value in model.named_parameters()}
    found = Functional(model).input_gradients(params, {}, (tokens, labels))
    for row, label, gradients in zip(tokens, labels, found, strict=True):
        embedded = model.embed(row).detach().requires_grad_()
        logit = model.out((embedded + model.places.weight).tanh().mean(0))[label]
        torch.testing.assert_close(gradients, torch.autograd.grad(logit, embedded)[0], rtol=1e-12, atol=1e-14)


class Sums(nn.Module):
    """Whole numbers without an embedding; or outputs that are no logits."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.out, self.classes = nn.Linear(4, CLASSES), classes

    def forward(self, inputs):
        return self.out(inputs.to(torch.float32))[:, : self.classes].squeeze(1)


def test_what_cannot_be_differentiated_is_refused():
    model, labels = Sums(), torch.tensor([0, 1])
    params = {name: value.detach() for name, value in model.named_parameters()}
    with pytest.raises(UsageError, match=r"whole numbers and no nn\.Embedding takes them"):
        Functional(model).input_gradients(params, {}, (torch.ones(2, 4, dtype=torch.int64), labels))
    with pytest.raises(UsageError, match=r"not \(batch, classes\)"):
        Functional(Sums(1)).input_gradients(params, {}, (torch.ones(2, 4), labels))
    coupled = nn.Sequential(nn.Linear(4, CLASSES), nn.BatchNorm1d(CLASSES, track_running_stats=False))
    params = {name: value.detach() for name, value in coupled.named_parameters()}
    with pytest.raises(UsageError, match="couples its examples"):
        Functional(coupled).input_gradients(params, {}, (torch.ones(2, 4), labels))


def test_pictures_average_over_channels_first(tmp_path):
    """In a real run of a convolution net, mode and gradients come back as they were."""
    torch.manual_seed(0)
    inputs, labels = torch.rand(20, 3, 6, 6), torch.arange(20) % CLASSES
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(inputs, labels), 5, shuffle=True, generator=torch.Generator().manual_seed(0))
    with assay.record(tmp_path / "run", model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
        for _ in range(3):
            plain_loop.epoch(recorder, model, optimizer)
    run = assay.Run(tmp_path / "run")
    found = assay.score(run, "vog", loop=assay.Loop(model, optimizer, loader))["vog"].values
    assert model.training and all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
    stacked = []
    for epoch in range(3):
        model.load_state_dict(run.model(epoch), strict=False)
        leaf = inputs.clone().requires_grad_()
        picked = model.eval()(leaf).gather(1, labels[:, None]).sum()
        stacked.append(torch.autograd.grad(picked, leaf)[0])
    torch.testing.assert_close(found, vog(torch.stack(stacked), labels), rtol=1e-5, atol=1e-6)
