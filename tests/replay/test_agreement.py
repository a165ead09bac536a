"""A run of a user's loop, held against the loop that it is scored with: what differs is refused with its ids, what is the same is scored."""

import dataclasses
import json
import random
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import assay
from assay.core.errors import AssayError, Mismatch, UsageError
from assay.experiments import models
from assay.experiments.evidence import data_of, open_replay
from assay.methods import parse
from assay.replay import single_examples
from assay.replay.agreement import Agreement
from assay.replay.losses import cross_entropies
from assay.runs import content
from assay.runs.content import evaluated, looked_at
from assay.runs.run import Run
from settings import grouped

EXAMPLES = 6
KEPT = ["grand", "tracin", "vog", "prediction_depth:k=2"]
"""Methods that look at kept models, without a step."""
DATA_ALONE = ["cg_score", "data_oob"]
"""Methods that look at the data, without a model."""
ALL = [*KEPT, *DATA_ALONE, "loo", "sgd_influence"]


def data():
    draw = torch.Generator().manual_seed(4)
    return torch.randn(EXAMPLES, 3, generator=draw, dtype=torch.float64), torch.arange(EXAMPLES) % 2


def held_out():
    draw = torch.Generator().manual_seed(5)
    return {"validation": (torch.randn(4, 3, generator=draw, dtype=torch.float64), torch.arange(4) % 2)}


def net(activation=nn.Tanh):
    model = nn.Sequential(nn.Linear(3, 4), activation(), nn.Linear(4, 2)).double()
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return model


def of_pair(model, batch):
    return model(batch[0]), batch[1]


def recorded(folder, dataset, model=None, epochs=2, loss=None, batch=2, forward=of_pair, collate=None, rate=0.3, **given):
    """A plain loop, and what it consists of."""
    model = net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    loader = DataLoader(dataset, batch, collate_fn=collate)
    with assay.record(folder, model, optimizer, loader, **grouped({"checkpoints": "every", **given})) as recorder:
        for _ in range(epochs):
            for one in recorder.epoch():
                logits, labels = forward(model, one)
                optimizer.zero_grad()
                (F.cross_entropy(logits, labels) if loss is None else loss(model, one)).backward()
                optimizer.step()
                recorder.batch(logits, labels)
    return model, optimizer, loader


def looped(model, optimizer, loader, dataset=None, collate=None, **given):
    other = loader if dataset is None else DataLoader(dataset, loader.batch_size, collate_fn=collate)
    return assay.Loop(model, optimizer, other, **given)


def scored(folder, loop, method, targets=None):
    names = [method] if isinstance(method, str) else method
    asking = any(parse(name).asks.targets for name in names)
    return assay.score(folder, names, loop=loop, targets=(targets or held_out()) if asking else None)


def refused(kind, words, folder, loop, method, targets=None):
    with pytest.raises(AssayError, match=words) as caught:
        scored(folder, loop, method, targets)
    assert type(caught.value) is kind and "\n" not in str(caught.value) and str(caught.value).endswith(".")


# ---------------------------------------------------------------------- examples, labels, inputs, model


@pytest.mark.parametrize("method", ALL)
def test_examples_in_another_order_are_refused_and_told_where_they_stand(tmp_path, method):
    inputs, labels = data()
    parts = recorded(tmp_path / "run", TensorDataset(inputs, labels))
    words = r"another order than at recording: what was recorded as id \d is now id \d, and ids .* \(6 of 6 looked at\)"
    other = looped(*parts, TensorDataset(inputs.flip(0), labels.flip(0)))
    refused(Mismatch, words, tmp_path / "run", other, method)
    # The same examples, in the order of the recording, have the scores that they have.
    scores = scored(tmp_path / "run", looped(*parts), method)
    assert all(not one.warnings for one in scores.values())


def test_what_is_the_same_is_scored_as_by_hand(tmp_path):
    inputs, labels = data()
    model, *rest = recorded(tmp_path / "run", TensorDataset(inputs, labels))
    (scores,) = scored(tmp_path / "run", looped(model, *rest), "grand").values()
    # The model stands where it was kept last.
    norms = []
    for x, y in zip(inputs, labels, strict=True):
        loss = F.cross_entropy(model(x[None]), y[None])
        norms.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).norm())
    by_epoch = scores.by_epoch[-1] if scores.by_epoch is not None else scores.values
    torch.testing.assert_close(by_epoch, torch.stack(norms), rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", ALL)
def test_other_labels_other_inputs_and_another_activation_are_refused(tmp_path, method):
    inputs, labels = data()
    model, optimizer, loader = recorded(tmp_path / "run", TensorDataset(inputs, labels))
    swapped = labels.clone()
    swapped[[1, 3]] = 0
    words = r"the labels of ids [13], [13] \(2 of 6 looked at\) are not those that were recorded \(id [13]: 1 was recorded, 0 is given\)"
    refused(Mismatch, words, tmp_path / "run", looped(model, optimizer, loader, TensorDataset(inputs, swapped)), method)
    scaled = TensorDataset(inputs * 2, labels)
    refused(Mismatch, "the inputs of ids", tmp_path / "run", looped(model, optimizer, loader, scaled), method)
    if method in DATA_ALONE:
        return
    other = net(nn.ReLU)
    loop = assay.Loop(other, torch.optim.SGD(other.parameters(), lr=0.3), loader)
    words = (
        "with the kept model of epoch 1 the losses of ids .* are not those that were recorded .* though the examples are the same"
    )
    refused(Mismatch, words, tmp_path / "run", loop, method)


def test_a_run_of_an_older_assay_is_held_by_its_labels_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(single_examples.Watcher, "stored", lambda *_: ({}, {}))
    inputs, labels = data()
    parts = recorded(tmp_path / "run", TensorDataset(inputs, labels))
    assert Run(tmp_path / "run").content is None
    flipped = looped(*parts, TensorDataset(inputs.flip(0), labels.flip(0)))
    for method in ALL:
        refused(Mismatch, r"the labels of ids .* \(6 of 6 looked at\) are not those", tmp_path / "run", flipped, method)
    (scores,) = scored(tmp_path / "run", looped(*parts), "grand").values()
    assert "holds no fingerprints of its examples; only labels could be compared" in scores.warnings[0]


class Noisy(Dataset):
    """Draws at random, by torch's global generator or one of its own."""

    def __init__(self, own=False, labels=None, noise=0.1):
        self.inputs, self.labels = data()
        self.labels = self.labels if labels is None else labels
        self.noise, self.generator = noise, torch.Generator().manual_seed(3) if own else None

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        drawn = torch.randn(3, generator=self.generator, dtype=torch.float64)
        return self.inputs[index] + self.noise * drawn, self.labels[index]


@pytest.mark.parametrize("own", [False, True])
def test_of_random_inputs_what_does_not_change_is_held(tmp_path, own):
    model, optimizer, loader = recorded(tmp_path / "run", Noisy(own), seed=1)
    content = Run(tmp_path / "run").content
    assert content.drawn == ("[0]",) and content.label == "[1]"
    (scores,) = scored(tmp_path / "run", looped(model, optimizer, loader, Noisy(own)), "grand").values()
    assert any("draws [0] of its batches at random" in one for one in scores.warnings)
    words = r"the labels of ids .* are not those that were recorded"
    refused(Mismatch, words, tmp_path / "run", looped(model, optimizer, loader, Noisy(own, data()[1].flip(0))), "grand")
    # Where the same seed draws the same inputs, the model is held as well.
    other = net(nn.ReLU)
    loop = assay.Loop(other, torch.optim.SGD(other.parameters(), lr=0.3), DataLoader(Noisy(own), 2))
    if own:
        (scores,) = scored(tmp_path / "run", loop, "grand").values()
        assert any("drawn otherwise here" in one for one in scores.warnings)
    else:
        refused(Mismatch, "the losses of ids .* are not those that were recorded", tmp_path / "run", loop, "grand")


def test_a_clean_pass_in_another_order_or_layout_is_refused(tmp_path):
    inputs, labels = data()
    parts = recorded(tmp_path / "run", TensorDataset(inputs, labels))
    words = r"clean= give other labels than were recorded for ids .* \(id 0: 0 was recorded, 1 is given\)"
    refused(Mismatch, words, tmp_path / "run", looped(*parts, clean=TensorDataset(inputs.flip(0), labels.flip(0))), "grand")

    def collate(items):
        return torch.stack([item["x"] for item in items]), torch.stack([item["y"] for item in items])

    named = Nested("named")
    parts = recorded(tmp_path / "named", named, collate=collate)
    assert len(scored(tmp_path / "named", looped(*parts, clean=named), "grand")["grand"].values) == EXAMPLES
    words = r"clean= cannot be asked for a batch of ids 0, 1, 2, 3, 4 and 1 more: .* Give a dataset whose items collate_fn"
    refused(UsageError, words, tmp_path / "named", looped(*parts, clean=TensorDataset(inputs, labels)), "grand")


class Point(NamedTuple):
    scale: torch.Tensor


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale


OBJECTS = {
    "object": type("Plain", (), {"__init__": lambda self, scale: setattr(self, "scale", scale)}),
    "namespace": lambda scale: SimpleNamespace(scale=scale),
    "nested": lambda scale: SimpleNamespace(inner=[SimpleNamespace(scale=scale)]),
    "named tuple": Point,
    "dataclass": dataclasses.make_dataclass("Held", ["scale"]),
}


def with_object(make, scale, dtype=torch.float64):
    def collate(items):
        inputs, labels = torch.utils.data.default_collate(items)
        return {"x": inputs, "y": labels, "meta": make(torch.full((2,), scale, dtype=dtype))}

    return collate


def times_scale(model, batch):
    held = batch["meta"]
    held = held.inner[0] if hasattr(held, "inner") else held
    return model(batch["x"] * (held._scale if hasattr(held, "_scale") else held.scale)[0]), batch["y"]


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_objects_in_a_batch_hold_is_held(tmp_path, kind):
    make, dataset = OBJECTS[kind], TensorDataset(*data())
    parts = recorded(tmp_path / "run", dataset, forward=times_scale, collate=with_object(make, 1.0))
    loop = looped(*parts, forward=times_scale)
    losses = lambda model, batch: F.cross_entropy(*times_scale(model, batch), reduction="none")  # noqa: E731
    told = recorded(tmp_path / "told", dataset, forward=times_scale, collate=with_object(make, 1.0), losses=losses)
    (scores,) = scored(tmp_path / "told", looped(*told, losses=losses), "grand").values()
    assert not scores.warnings
    assert len(scored(tmp_path / "run", loop, "grand")["grand"]) == EXAMPLES
    other = looped(*parts, dataset, with_object(make, 2.0), forward=times_scale)
    refused(Mismatch, "the inputs of ids .* are not those that were recorded", tmp_path / "run", other, "grand")


@pytest.mark.parametrize("kind", ["private", "slots"])
def test_where_only_the_type_of_an_object_is_known_nobody_says_that_the_examples_are_the_same(tmp_path, kind):
    make = Slotted if kind == "slots" else lambda scale: SimpleNamespace(_scale=scale)
    dataset = TensorDataset(*data())
    losses = lambda model, batch: F.cross_entropy(*times_scale(model, batch), reduction="none")  # noqa: E731
    parts = recorded(tmp_path / "run", dataset, forward=times_scale, collate=with_object(make, 1.0), losses=losses)
    (scores,) = scored(tmp_path / "run", looped(*parts, losses=losses), "grand").values()
    words = r"Of objects in a batch (['meta']) only the type and plain public attributes could be compared with the recording."
    assert words in scores.warnings
    other = looped(*parts, dataset, with_object(make, 2.0), losses=losses)
    words = r"though the rest of the examples is the same\. Of objects in a batch \(\['meta'\]\) only the type and plain public attributes"
    refused(Mismatch, words, tmp_path / "run", other, "grand")


def test_a_run_of_an_older_assay_is_held_as_it_was_recorded(tmp_path, monkeypatch):
    make, dataset = OBJECTS["object"], TensorDataset(*data())
    with monkeypatch.context() as older:
        older.setattr(content, "OPENED", 0)
        older.setattr(
            single_examples.single_examples, "__kwdefaults__", {**single_examples.single_examples.__kwdefaults__, "opened": 0}
        )
        older.setattr(
            content.Content,
            "note",
            lambda self: json.dumps(
                {"drawn": self.drawn, "label": self.label, "losses_by": self.losses_by, "reason": self.reason}, sort_keys=True
            ),
        )
        parts = recorded(tmp_path / "run", dataset, forward=times_scale, collate=with_object(make, 1.0))
    assert Run(tmp_path / "run").content.opened == 0
    (scores,) = scored(tmp_path / "run", looped(*parts, forward=times_scale), "grand").values()
    assert any("only the type and plain public attributes" in one for one in scores.warnings)


@pytest.mark.parametrize(
    ("value", "paths", "known"),
    [
        (SimpleNamespace(b=1, a="x"), [".a", ".b"], True),
        (SimpleNamespace(a=1, _b=2), [".a"], False),
        (SimpleNamespace(), [], False),
        (SimpleNamespace(f=len), [".f"], True),
        (type("Bag", (set,), {})([1]), [], False),
        (nn.Linear(1, 1), [], False),
        (object(), [], False),
        (len, [], False),
        (1.5, [], True),
        (np.array([object()]), [], False),
    ],
)
def test_objects_are_opened_by_their_public_attributes(value, paths, known):
    parts = content.parts_of({"m": value})
    assert [part.path for part in parts] == ["['m']", *(f"['m']{path}" for path in paths)] and parts[0].known == known
    itself = SimpleNamespace()
    itself.me = itself
    deep = content.parts_of(itself)
    assert len(deep) == content.OPENED + 1 and not deep[-1].known


# ---------------------------------------------------------------------- rows


class Texts(Dataset):
    def __init__(self):
        self.texts = [torch.arange(1, 2 + place % 3) + place for place in range(EXAMPLES)]

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        return self.texts[index], index % 2


def padded(items):
    texts, labels = zip(*items, strict=True)
    return nn.utils.rnn.pad_sequence(texts, batch_first=True), torch.tensor(labels)


def by_length(items):
    return padded(sorted(items, key=lambda item: -len(item[0])))


def dropping(items):
    return padded([item for item in items if len(item[0]) < 3])


def repeating(items):
    return padded([*items, items[0]])


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(20, 3, padding_idx=0), nn.Linear(3, 2)

    def forward(self, texts):
        return self.out(self.table(texts).sum(1))


@pytest.mark.parametrize("method", ["grand", "vog", "loo", "prediction_depth:k=2,layers=table"])
@pytest.mark.parametrize(
    ("collate", "words"),
    [
        (by_length, "collate_fn does not keep the order of its items: row 0 of a batch is id . where id . was asked for"),
        (dropping, "collate_fn makes 4 rows of 6 examples"),
        (repeating, "collate_fn makes 7 rows of 6 examples"),
    ],
)
def test_a_collate_that_does_not_keep_its_items_is_found_at_the_first_batch(tmp_path, method, collate, words):
    torch.manual_seed(0)
    parts = recorded(tmp_path / "run", Texts(), Reader(), collate=padded)
    targets = {"validation": (torch.tensor([[3, 9], [8, 0]]), torch.tensor([0, 1]))}
    assert all(len(one.values) == EXAMPLES for one in scored(tmp_path / "run", looped(*parts), method, targets).values())
    refused(UsageError, words, tmp_path / "run", looped(*parts, Texts(), collate), method, targets)


# ---------------------------------------------------------------------- chance in eval mode


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net[2](F.dropout(self.net[1](self.net[0](x)), 0.5))


@pytest.mark.parametrize("method", [one for one in ALL if one not in DATA_ALONE])
def test_chance_that_eval_does_not_switch_off_is_refused(tmp_path, method):
    parts = recorded(tmp_path / "run", TensorDataset(*data()), Dropping(), seed=2)
    words = r"draws at random also in eval mode: the loss of id \d is .* the next time\. Use nn\.Dropout"
    refused(UsageError, words, tmp_path / "run", looped(*parts), method)


def across(model, batch):
    logits = model(batch[0])
    return F.cross_entropy(logits - logits.mean(0), batch[1], reduction="none")


class Centred(nn.Module):
    """Looks at the whole batch also in eval mode."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        logits = self.net(x)
        return logits - logits.mean(0)


@pytest.mark.parametrize("method", ["grand", "tracin", "vog", "influence", "self_influence:solver=cholesky"])
@pytest.mark.parametrize("by", ["losses", "model"])
def test_losses_that_look_across_the_batch_have_no_gradients_of_single_examples(tmp_path, method, by):
    loss, model = (lambda net, batch: across(net, batch).mean(), None) if by == "losses" else (None, Centred())
    parts = recorded(tmp_path / "run", TensorDataset(*data()), model, loss=loss)
    own = {"losses": across} if by == "losses" else {}
    words = r"The loss of id \d is .* in a batch of 6 examples and .* in half of it, in eval mode: it depends on the examples beside it"
    refused(UsageError, words, tmp_path / "run", looped(*parts, **own), method)
    # The step as a whole is what it was.
    scored(tmp_path / "run", looped(*parts, **own), "sgd_influence")


class Hidden(nn.Module):
    """Normalises a hidden layer by the batch also in eval mode."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(net()[0], nn.BatchNorm1d(4, track_running_stats=False).double(), net()[2])

    def forward(self, x):
        return self.net(x)


FEATURES = [
    "prediction_depth:k=2",
    "knn_disagreement:features=penultimate,k=2",
    "outlier_distance:features=logits,k=2",
    "outlier_distance:features=layer:net.1,k=2",
]


@pytest.mark.parametrize("method", FEATURES)
@pytest.mark.parametrize("by", ["losses", "model", "hidden"])
def test_outputs_that_look_across_the_batch_are_none_of_single_examples(tmp_path, method, by):
    loss, model = (lambda net, batch: across(net, batch).mean(), None) if by == "losses" else (None, None)
    if by != "losses":
        model = Centred() if by == "model" else Hidden()
    parts = recorded(tmp_path / "run", TensorDataset(*data()), model, loss=loss)
    own = {"losses": across} if by == "losses" else {}
    loop = looped(*parts, **own)
    if by == "losses":
        # The model itself looks at each example alone.
        (values,) = scored(tmp_path / "run", loop, method.replace("net.1", "1")).values()
        assert len(values) == EXAMPLES
        return
    words = r"The loss of id \d is .* in half of it, in eval mode: .* single examples have no outputs and features of their own\."
    refused(UsageError, words, tmp_path / "run", loop, method)


class Words(Dataset):
    def __len__(self):
        return EXAMPLES

    def __getitem__(self, place):
        return "ab" * (place + 1), place % 2


class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(1, 2).double()

    def forward(self, words):
        return self.out(torch.tensor([[len(one) / 10] for one in words], dtype=torch.float64))


def test_a_batch_with_a_list_in_it_is_not_held_by_halves_that_are_none(tmp_path):
    def losses(model, batch):
        return model(batch[0]).logsumexp(1)

    def listed(items):
        words, labels = zip(*items, strict=True)
        return list(words), torch.tensor(labels)

    own = {"losses": losses}
    parts = recorded(tmp_path / "run", Words(), Lengths(), loss=lambda net, batch: losses(net, batch).mean(), collate=listed)
    (scores,) = scored(tmp_path / "run", looped(*parts, **own), "grand").values()
    model, norms = parts[0], []
    for place in range(EXAMPLES):
        (value,) = losses(model, ([Words()[place][0]], None))
        norms.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))]).norm())
    by_epoch = scores.by_epoch[-1] if scores.by_epoch is not None else scores.values
    torch.testing.assert_close(by_epoch, torch.stack(norms), rtol=1e-10, atol=0)


# ---------------------------------------------------------------------- training again


def test_what_does_not_repeat_the_training_is_refused_by_whatever_trains_again(tmp_path):
    parts = recorded(tmp_path / "run", TensorDataset(*data()), epochs=3)
    for method in ("loo", "loo:form=removed", "sgd_influence"):
        refused(Mismatch, r"does not give what was recorded: epoch \d, ", tmp_path / "run", looped(*parts, clip=0.01), method)
    losses = assay.score(tmp_path / "run", "loss")["loss"]
    targets = held_out() | {"test": (torch.ones(2, 3, dtype=torch.float64), torch.tensor([0, 1]))}
    with pytest.raises(Mismatch, match="does not give what was recorded"):
        assay.cleanse(
            tmp_path / "run", losses, loop=looped(*parts, clip=0.01), targets=targets, grid=assay.RemovalGrid(counts=[1])
        )


def test_the_recorded_training_is_taken_again_once_for_all_that_is_left_out(tmp_path, monkeypatch):
    parts = recorded(tmp_path / "run", TensorDataset(*data()), epochs=2)
    replay = open_replay(tmp_path / "run", loop=looped(*parts), targets=held_out())
    plain = []
    take = type(replay.training).step

    def counted(training, batch, rates, weights=None, divisor=None):
        plain.append(weights is None and divisor is None)
        return take(training, batch, rates, weights, divisor)

    monkeypatch.setattr(type(replay.training), "step", counted)
    everything = range(replay.epochs[0].start, replay.epochs[-1].stop)
    for left_out in range(3):
        replay.retrained([torch.tensor([left_out])], everything, ["validation"])
    assert sum(plain) == len(everything), "the steps of one training"


def left_out(loss, inputs, labels, epochs=4, batch=8, rate=0.05):
    """Change of the validation loss by a loop written by hand: `loss(model, x, y, stays)` of a step, `stays` 0 for who is left out."""

    def trained(without):
        model = net()
        for _ in range(epochs):
            for start in range(0, len(inputs), batch):
                part = torch.arange(start, min(start + batch, len(inputs)))
                stays = (part != without).to(inputs.dtype)
                gradients = torch.autograd.grad(loss(model, inputs[part], labels[part], stays), list(model.parameters()))
                with torch.no_grad():
                    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                        parameter -= rate * gradient
        x, y = held_out()["validation"]
        with torch.no_grad():
            return F.cross_entropy(model(x), y)

    everyone = trained(-1)
    return torch.stack([trained(place) - everyone for place in range(len(inputs))])


def two_dozen():
    draw = torch.Generator().manual_seed(9)
    return torch.randn(22, 3, generator=draw, dtype=torch.float64), torch.randint(2, (22,), generator=draw)


W = torch.tensor([1.0, 3.0], dtype=torch.float64)


def plain(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def weighted(model, batch):
    return W[batch[1]] * plain(model, batch)


def smoothed(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none", label_smoothing=0.2)


TOLD = {
    "sum": (
        lambda model, batch: F.cross_entropy(*of_pair(model, batch), reduction="sum"),
        {"reduction": "sum"},
        lambda model, x, y, stays: (stays * plain(model, (x, y))).sum(),
    ),
    "class weights": (
        lambda model, batch: F.cross_entropy(*of_pair(model, batch), weight=W),
        {"losses": weighted, "reduction": lambda batch: W[batch[1]].sum()},
        lambda model, x, y, stays: (stays * weighted(model, (x, y))).sum() / W[y].sum(),
    ),
    "label smoothing": (
        lambda model, batch: F.cross_entropy(*of_pair(model, batch), label_smoothing=0.2),
        {"losses": smoothed},
        lambda model, x, y, stays: (stays * smoothed(model, (x, y))).mean(),
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_sums_weighted_means_and_smoothing_are_left_one_out_as_by_hand(tmp_path, name):
    loss, told, by_hand = TOLD[name]
    inputs, labels = two_dozen()
    parts = recorded(tmp_path / "run", TensorDataset(inputs, labels), epochs=4, loss=loss, batch=8, rate=0.05)
    loop = looped(*parts, loss=loss, **told)
    wanted = left_out(by_hand, inputs, labels)
    (loo,) = scored(tmp_path / "run", loop, "loo").values()
    torch.testing.assert_close(loo.values, wanted, rtol=1e-7, atol=1e-11)
    (influence,) = scored(tmp_path / "run", loop, "sgd_influence").values()
    # What a linear answer leaves; told as a mean, a sum was five times too small.
    slope = float(influence.values @ wanted / (wanted @ wanted))
    assert 0.7 < slope < 1.3 and float(torch.corrcoef(torch.stack([influence.values, wanted]))[0, 1]) > 0.95


@pytest.mark.parametrize("method", ["sgd_influence", "sgd_influence:form=last_parameters", "loo", "tracin:every=step", "oti"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sum", "loss= is the sum of the losses; give reduction='sum'"),
        (
            "class weights",
            r"weighs the classes \(in proportion 0: 1, 1: 3\).*W\[batch\[1\]\] \* F.cross_entropy.*sum of the weights",
        ),
        (
            "label smoothing",
            r"has a label smoothing of 0\.2; give losses=lambda model, batch: F\.cross_entropy\(.*label_smoothing=0\.2\)",
        ),
    ],
)
def test_a_loss_that_is_not_what_losses_say_is_refused_with_what_fits(tmp_path, method, name, words):
    loss = TOLD[name][0]
    parts = recorded(tmp_path / "run", TensorDataset(*two_dozen()), epochs=1, loss=loss, batch=8, rate=0.05)
    refused(UsageError, words, tmp_path / "run", looped(*parts, loss=loss), method)


def test_a_sum_told_by_a_factor_is_refused_where_batches_are_of_several_sizes(tmp_path):
    loss = TOLD["sum"][0]
    parts = recorded(tmp_path / "run", TensorDataset(*two_dozen()), epochs=1, loss=loss, batch=8, rate=0.05)
    words = r"In a batch of 6, .* 0\.75 times as much; multiply losses= by that factor .* \(here 8\)"
    refused(UsageError, words, tmp_path / "run", looped(*parts, loss=loss, losses=lambda m, b: 8 * plain(m, b)), "loo")


def test_what_is_added_to_the_loss_belongs_to_each_example(tmp_path):
    def decay(model):
        return 0.05 * sum(parameter.square().sum() for parameter in model.parameters())

    def loss(model, batch):
        return F.cross_entropy(*of_pair(model, batch)) + decay(model)

    parts = recorded(tmp_path / "run", TensorDataset(*two_dozen()), epochs=1, loss=loss, batch=8, rate=0.05)
    words = "their gradients point elsewhere; give losses= and reduction= such that"
    refused(UsageError, words, tmp_path / "run", looped(*parts, loss=loss), "loo")
    told = looped(*parts, loss=loss, losses=lambda m, b: plain(m, b) + decay(m))
    assert len(scored(tmp_path / "run", told, "loo")["loo"].values) == 22


@pytest.mark.parametrize("given", [{"reduction": "median"}, {"losses": 3}, {"forward": "model"}])
def test_settings_that_are_none_are_refused(given):
    model = net()
    ((name, _),) = given.items()
    with pytest.raises(UsageError, match=f"Loop: {name}="):
        assay.Loop(model, torch.optim.SGD(model.parameters()), DataLoader(TensorDataset(*data())), **given)


# ---------------------------------------------------------------------- targets of trained examples


class Nested(Dataset):
    def __init__(self, layout, kind=torch.float64):
        (self.inputs, self.labels), self.layout = data(), layout
        self.inputs = self.inputs.to(kind)

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        x, y = self.inputs[index], self.labels[index]
        return {
            "pair": (x, y),
            "triple": (index, x, y),
            "named": {"x": x, "y": y},
            "nested": {"given": {"x": [x, x.flip(0)]}, "y": y},
        }[self.layout]


FORWARD = {
    "pair": of_pair,
    "triple": lambda model, batch: (model(batch[1]), batch[2]),
    "named": lambda model, batch: (model(batch["x"]), batch["y"]),
    "nested": lambda model, batch: (model(batch["given"]["x"][0]), batch["y"]),
}


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", FORWARD)
def test_trained_examples_as_a_target_are_noticed_in_every_layout(tmp_path, layout, kind):
    forward = FORWARD[layout]
    parts = recorded(tmp_path / "run", Nested(layout, kind), net().to(kind), forward=forward)
    loop = looped(*parts, forward=forward)
    targets = {"validation": (data()[0][:4].to(kind), data()[1][:4])}
    refused(Mismatch, "4 of the 4 examples of target 'validation' are trained on", tmp_path / "run", loop, "tracin", targets)
    mixed = torch.cat([data()[0][:1], held_out()["validation"][0]]).to(kind), torch.arange(5) % 2
    (scores,) = scored(tmp_path / "run", loop, "tracin", {"validation": mixed}).values()
    assert any("1 of the 5 inputs of target 'validation' are also inputs of training examples" in one for one in scores.warnings)


def test_a_dataset_is_asked_once_for_targets_and_not_at_all_where_none_is_asked_for(tmp_path):
    class Counting(TensorDataset):
        asked = 0

        def __getitems__(self, keys):
            Counting.asked += len(keys)
            return [self[key] for key in keys]

    parts = recorded(tmp_path / "run", Counting(*data()))
    counts = []
    for targets, asked in ((held_out(), {"validation"}), (held_out(), set()), ({}, None)):
        Counting.asked = 0
        open_replay(tmp_path / "run", loop=looped(*parts), targets=targets, asked=asked)
        counts.append(Counting.asked)
    assert counts[0] - counts[1] == EXAMPLES and counts[1] == counts[2]


# ---------------------------------------------------------------------- other layouts of batches


@pytest.mark.parametrize("layout", ["triple", "named", "nested"])
def test_kept_models_are_asked_for_logits_by_forward(tmp_path, layout):
    plain_parts = recorded(tmp_path / "pair", Nested("pair"))
    wanted = scored(tmp_path / "pair", looped(*plain_parts), ["vog", "prediction_depth:k=2", "grand", "loo"])
    forward = FORWARD[layout]
    parts = recorded(tmp_path / "run", Nested(layout), forward=forward)
    loop = looped(*parts, forward=forward)
    got = scored(tmp_path / "run", loop, ["vog", "prediction_depth:k=2", "grand", "loo"])
    for title, scores in wanted.items():
        torch.testing.assert_close(got[title].values, scores.values, rtol=1e-12, atol=1e-14)
    losses = lambda model, batch: F.cross_entropy(*forward(model, batch), reduction="none")  # noqa: E731
    refused(UsageError, "give losses=.* or forward=", tmp_path / "run", looped(*parts, losses=losses), "vog")
    # A label that is found in the batch is held in every layout.
    other = Nested(layout)
    other.labels = other.labels.flip(0)
    refused(Mismatch, "the labels of ids", tmp_path / "run", looped(*parts, other, forward=forward), "vog")


def test_what_the_loop_prepares_is_prepared_by_forward(tmp_path):
    def forward(model, batch):
        return model(batch[0].double() / 255), batch[1]

    draw = torch.Generator().manual_seed(1)
    dataset = TensorDataset(torch.randint(256, (EXAMPLES, 3), generator=draw, dtype=torch.uint8), data()[1])
    parts = recorded(tmp_path / "run", dataset, forward=forward)
    scores = scored(tmp_path / "run", looped(*parts, forward=forward), ["vog:by_class=false", "grand", "prediction_depth:k=2"])
    assert all(bool((one.values != one.values[0]).any()) for one in scores.values())
    words = r"The losses of a batch cannot be computed in eval mode: .* Give losses=, a function \(model, batch\)"
    refused(UsageError, words, tmp_path / "run", looped(*parts), "grand")


class Encoding(UserDict):
    """A mapping that is no dict, as tokenizers return it."""


@dataclasses.dataclass(frozen=True)
class Record:
    x: object
    y: object


class Pair(NamedTuple):
    x: object
    y: object


class Items(dict):
    """A dict of a class of one's own, which torch's pytree does not open."""


CONTAINERS = {
    "mapping": lambda x, y: Encoding(x=x, y=y),
    "dict of its own": lambda x, y: Items(x=x, y=y),
    "dataclass": Record,
    "named tuple": Pair,
    "attributes": lambda x, y: SimpleNamespace(x=x, y=y),
    "nested": lambda x, y: {"given": [Record(Encoding(x=x), {"note": "text"})], "y": (Pair(y, None),)},
}


def opened_by(name):
    if name == "nested":
        return lambda batch: (batch["given"][0].x["x"], batch["y"][0].x)
    return lambda batch: (batch["x"], batch["y"]) if isinstance(batch, (dict, UserDict)) else (batch.x, batch.y)


@pytest.mark.parametrize("name", CONTAINERS)
def test_batches_of_any_container_are_scored_as_pairs_are(tmp_path, name):
    def collate(items):
        return CONTAINERS[name](*torch.utils.data.default_collate(items))

    def forward(model, batch):
        inputs, labels = opened_by(name)(batch)
        return model(inputs), labels

    methods = ["vog", "prediction_depth:k=2", "grand", "tracin", "loo:form=removed", "sgd_influence", "oti", "in_run_shapley"]
    targets = held_out()
    wanted = scored(tmp_path / "pair", looped(*recorded(tmp_path / "pair", TensorDataset(*data()))), methods, targets)
    parts = recorded(tmp_path / "run", TensorDataset(*data()), forward=forward, collate=collate)
    got = scored(tmp_path / "run", looped(*parts, forward=forward), methods, targets)
    for title, scores in wanted.items():
        torch.testing.assert_close(got[title].values, scores.values, rtol=1e-9, atol=1e-13)


def test_a_model_that_returns_no_tensor_is_told_how_to_be_read(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, inputs):
            return SimpleNamespace(logits=self.inner(inputs))

    model, forward = Model(), lambda model, batch: (model(batch[0]).logits, batch[1])
    parts = recorded(tmp_path / "run", TensorDataset(*data()), model, forward=forward)
    words = r"returns a SimpleNamespace, no tensor of logits; give forward=lambda model, batch: \(model\(batch\[0\]\)\.logits, batch\[1\]\)"
    refused(UsageError, words, tmp_path / "run", looped(*parts), "grand")
    assert len(scored(tmp_path / "run", looped(*parts, forward=forward), ["grand", "vog"])) == 2


def test_methods_that_ask_for_the_same_targets_share_one_look_at_the_data(tmp_path, monkeypatch):
    calls = []

    def counted(*given, asked, **more):
        calls.append(sorted(asked))
        return open_replay(*given, asked=asked, **more)

    monkeypatch.setattr(models, "open_replay", counted)
    parts = recorded(tmp_path / "run", TensorDataset(*data()))
    names = ["tracin", "sgd_influence", "loo", "oti", "grand", "vog", "prediction_depth:k=2"]
    # Nobody gives the target that three of them ask for.
    with pytest.warns(UserWarning, match="was not scored: .* asks for target 'validation'"):
        table = assay.score(tmp_path / "run", names, loop=looped(*parts))
    assert set(table.refused) == {"tracin", "sgd_influence", "loo"} and calls == [["validation"], []]
    assert all(f"{name} asks for target 'validation'" in why for name, why in table.refused.items())
    # Other examples are refused for each of them by the same look.
    calls.clear()
    strange = looped(*parts, TensorDataset(data()[0] + 1, data()[1]))
    with pytest.raises(Mismatch, match="inputs of ids"):
        assay.score(tmp_path / "run", names, loop=strange, targets=held_out())
    assert calls == [["validation"], []]


class Box:
    """Holds something in a place that nobody else knows of."""

    def __init__(self, inside):
        self.inside = inside


def test_a_batch_without_tensors_is_refused_with_places_and_kinds(tmp_path):
    def collate(items):
        inputs, labels = torch.utils.data.default_collate(items)
        return {"x": inputs.numpy(), "more": [labels.numpy()]}

    def forward(model, batch):
        return model(torch.as_tensor(batch["x"])), torch.as_tensor(batch["more"][0])

    parts = recorded(tmp_path / "run", TensorDataset(*data()), forward=forward, collate=collate)
    words = r"A batch \(dict\) holds no tensor in .*, only \['x'\] \(ndarray\), \['more'\]\[0\] \(ndarray\); let collate_fn put"
    refused(UsageError, words, tmp_path / "run", looped(*parts, forward=forward), "grand")


HIDES = {
    "box": (Box, lambda box: box.inside),
    "array": (torch.Tensor.numpy, torch.as_tensor),
    "list": (torch.Tensor.tolist, lambda values: torch.tensor(values, dtype=torch.float64)),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("part", ["inputs", "labels", "weights"])
@pytest.mark.parametrize("name", HIDES)
def test_what_has_no_rows_in_a_batch_goes_with_its_examples(tmp_path, name, part, shared):
    """Gradients of single examples, by rules for layers and one by one: those of a batch of tensors."""
    hide, seen = HIDES[name]
    examples = (*data(), torch.linspace(0.5, 4, EXAMPLES, dtype=torch.float64))

    def collate(items):
        values = dict(zip(("inputs", "labels", "weights"), torch.utils.data.default_collate(items), strict=True))
        return {**values, part: hide(values[part]), "size": torch.tensor(len(items))}

    def forward(model, batch):
        values = {**batch, part: seen(batch[part])}
        return model(values["inputs"]), values["labels"].long()

    def losses(model, batch):
        weights = seen(batch["weights"]) if part == "weights" else batch["weights"]
        found = F.cross_entropy(*forward(model, batch), reduction="none") * weights
        # A parameter that is read behind its layer's back has no rule.
        return found * (1 + model[0].weight.square().sum()) if shared else found

    model, optimizer, loader = recorded(
        tmp_path / "run",
        TensorDataset(*examples),
        forward=forward,
        collate=collate,
        losses=losses,
        loss=lambda model, batch: losses(model, batch).mean(),
    )
    loop = looped(model, optimizer, loader, losses=losses)
    (scores,) = scored(tmp_path / "run", loop, "grand").values()
    expected = []
    for x, y, weight in zip(*examples, strict=True):
        loss = weight * F.cross_entropy(model(x), y) * (1 + model[0].weight.square().sum() if shared else 1)
        expected.append(sum(g.square().sum() for g in torch.autograd.grad(loss, list(model.parameters()))) ** 0.5)
    torch.testing.assert_close(scores.values, torch.stack(expected), rtol=1e-6, atol=0)
    if name == "box":
        # Its rows are found.
        scored(tmp_path / "run", loop, "loo:form=removed")
        return
    with pytest.raises(UsageError, match=rf"has no row for each example.*\['{part}'\] \(.*form=weight"):
        scored(tmp_path / "run", loop, "loo:form=removed")


def test_oversampled_examples_are_told_apart_by_ids(tmp_path):
    twice = Subset(TensorDataset(*data()), [0, 0, 1, 2, 3, 4, 5])
    names = ["0", "0 again", "1", "2", "3", "4", "5"]
    with pytest.raises(UsageError, match="ids"):
        recorded(tmp_path / "none", twice)
    parts = recorded(tmp_path / "run", twice, ids=names)
    (scores,) = scored(tmp_path / "run", looped(*parts, ids=names), "grand").values()
    assert list(scores.ids) == names and scores.values[0] == scores.values[1]


# ---------------------------------------------------------------------- recording leaves no trace


class Traced(nn.Module):
    """Counts its calls, draws its own numbers, and has statistics."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.drop = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3)
        self.out, self.calls = nn.Linear(4, 2), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += len(x)
        return self.out(self.drop(self.norm(self.inner(x.float()))))


def state_of_all(model, dataset):
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        dataset.generator.get_state().tolist(),
        dataset.rng.bit_generator.state["state"],
        model.calls,
        [value.tolist() for value in model.state_dict().values()],
        [module.training for module in model.modules()],
        [parameter.grad for parameter in model.parameters()],
    )


class Own(Noisy):
    def __init__(self):
        super().__init__(own=True)
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + self.rng.normal() + np.random.randn() + random.random(), y


def test_looking_at_examples_and_models_leaves_no_trace():
    dataset, model, met = Own(), Traced(), []
    model.inner.register_forward_hook(lambda *_: met.append(1))
    model.norm.eval()
    before = state_of_all(model, dataset)
    ids = assay.core.ids.Ids(range(EXAMPLES))
    watcher = single_examples.Watcher(DataLoader(dataset, 2), np.arange(EXAMPLES), ids, cross_entropies, None)
    watcher.begin(model, True, True)
    tensors, notes = watcher.stored(model, dataset.labels, True)
    assert not watcher.reason and set(tensors) == {
        f"content {name}" for name in ("positions", "fixed", "whole", "start", "losses")
    }
    assert state_of_all(model, dataset) == before and not met and notes


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recorded_training_ends_in_the_same_bits(tmp_path, workers):
    def trained(folder):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        model, dataset = Traced(), Own()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(dataset, 3, shuffle=True, num_workers=workers)

        def steps(batches, note):
            for x, y in batches:
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                note(logits, y)

        if folder is None:
            steps(loader, lambda *_: None)
            steps(loader, lambda *_: None)
        else:
            with assay.record(folder, model, optimizer, loader) as recorder:
                steps(recorder.epoch(), recorder.batch)
                steps(recorder.epoch(), recorder.batch)
        return state_of_all(model, dataset)[:-1]

    assert trained(tmp_path / "run") == trained(None)
    assert Run(tmp_path / "run").content_losses(1) is not None


class Refusing(TensorDataset):
    """Gives examples to its loader only."""

    def __getitems__(self, keys):
        if len(keys) == 1:
            raise RuntimeError("only whole batches are given")
        return [super(Refusing, self).__getitem__(key) for key in keys]


def test_what_cannot_be_looked_at_does_not_end_the_training_and_is_told(tmp_path):
    recorded(tmp_path / "run", Refusing(*data()))
    content = Run(tmp_path / "run").content
    assert "could not be asked for single examples (only whole batches are given)" in content.reason
    # A batch that the default losses cannot read: fingerprints are there, losses are not.
    forward = FORWARD["named"]
    parts = recorded(tmp_path / "named", Nested("named"), forward=forward)
    content = Run(tmp_path / "named").content
    assert len(content.positions) == EXAMPLES and content.label == "['y']"
    assert Run(tmp_path / "named").content_losses(1) is None and "A batch is not (inputs, labels)" in content.reason
    (scores,) = scored(tmp_path / "named", looped(*parts, forward=forward), "grand").values()
    assert any("holds no losses of its kept models" in one for one in scores.warnings)
    # With losses= at recording they are.
    losses = lambda model, batch: F.cross_entropy(*forward(model, batch), reduction="none")  # noqa: E731
    parts = recorded(tmp_path / "told", Nested("named"), forward=forward, losses=losses)
    (scores,) = scored(tmp_path / "told", looped(*parts, losses=losses), "grand").values()
    assert not scores.warnings
    other = net(nn.ReLU)
    loop = assay.Loop(other, torch.optim.SGD(other.parameters(), lr=0.3), parts[2], losses=losses)
    refused(Mismatch, "the losses of ids", tmp_path / "told", loop, "grand")


def test_how_many_are_looked_at():
    ids = assay.core.ids.Ids(range(100_000))
    assert [evaluated(n) for n in (3, 16, 500, 1000, 2048, 10**6)] == [3, 16, 16, 31, 64, 64]
    sizes = [len(looked_at(ids.take(np.arange(n)))) for n in (3, 512, 10_000, 100_000)]
    assert sizes == [3, 512, 512, 1562]
    # Who is looked at depends on ids, not on their order.
    few = ids.take(np.arange(2000))
    other = few.take(np.arange(2000)[::-1].copy())
    assert set(few.take(looked_at(few).numpy())) == set(other.take(looked_at(other).numpy()))


def test_rows_for_methods_of_inputs_are_held_too(tmp_path):
    inputs, labels = data()
    parts = recorded(tmp_path / "run", TensorDataset(inputs, labels), checkpoints="none")
    rows, _ = data_of(Run(tmp_path / "run"), looped(*parts))
    assert torch.equal(rows, inputs)
    with pytest.raises(Mismatch, match="another order"):
        data_of(Run(tmp_path / "run"), looped(*parts, TensorDataset(inputs.flip(0), labels.flip(0))))


def test_one_call_looks_at_the_examples_once_and_the_next_call_anew(tmp_path, monkeypatch):
    inputs, labels = data()
    parts = recorded(tmp_path / "run", TensorDataset(inputs, labels))
    alone = {name: scored(tmp_path / "run", looped(*parts), name)[name] for name in ("cg_score", "grand", "loo")}
    looks, look = [], Agreement._look
    monkeypatch.setattr(Agreement, "_look", lambda self, *given: looks.append(1) or look(self, *given))
    # One of them is refused, so that what is left is opened once more.
    with pytest.warns(UserWarning, match="prediction_depth was not scored"):
        together = scored(tmp_path / "run", looped(*parts), ["cg_score", "grand", "loo", "prediction_depth"])
    assert len(looks) == 1
    for name, scores in alone.items():
        assert torch.equal(together[name].values, scores.values) and together[name].warnings == scores.warnings
    refused(Mismatch, "another order", tmp_path / "run", looped(*parts, TensorDataset(inputs.flip(0), labels.flip(0))), [*alone])
    assert len(looks) == 3, "the second time all are looked at, to word the refusal"


def test_a_training_that_ends_elsewhere_is_no_failed_trial_of_an_executor(tmp_path):
    parts = recorded(tmp_path / "run", TensorDataset(*data()), epochs=2)
    with ThreadPoolExecutor(1) as pool, pytest.raises(Mismatch, match="does not give what was recorded"):
        assay.score(
            tmp_path / "run", "loo", loop=looped(*parts, clip=0.01), targets=held_out(), execution=assay.Execution(pool=pool)
        )


def test_a_run_that_goes_on_looks_at_few_examples_only(tmp_path, monkeypatch):
    draw = torch.Generator().manual_seed(4)
    many = TensorDataset(torch.randn(700, 3, generator=draw, dtype=torch.float64), torch.arange(700) % 2)
    looked, asked = [], single_examples.single_examples
    monkeypatch.setattr(
        single_examples, "single_examples", lambda *given, **how: looked.append(len(given[3])) or asked(*given, **how)
    )
    recorded(tmp_path / "run", many, epochs=1, batch=100)
    model, optimizer, loader = recorded(tmp_path / "run", many, epochs=1, batch=100, resume=True)
    recorded(tmp_path / "none", many, epochs=1, batch=100, checkpoints="none")
    assert looked == [512, evaluated(700), 512]
    run = Run(tmp_path / "run")
    assert len(run.content.positions) == 512 and all(run.content_losses(epoch) is not None for epoch in (-1, 0, 1))
    assert len(scored(tmp_path / "run", looped(model, optimizer, loader), "grand")["grand"]) == 700
