"""Replays of users' loops: several readers at once, kept models whatever trained them, momenta that a scheduler changes, heads."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import assay
from assay.core.errors import Mismatch, NumericalError, UsageError
from assay.core.features import FeatureSpec
from assay.experiments.evidence import open_replay
from settings import grouped

EXAMPLES, CLASSES = 14, 3


def data():
    draw = torch.Generator().manual_seed(4)
    inputs = torch.randn(EXAMPLES + 6, 5, generator=draw, dtype=torch.float64)
    return inputs[:EXAMPLES], torch.arange(EXAMPLES) % CLASSES, (inputs[EXAMPLES:], torch.arange(6) % CLASSES)


class Noisy(Dataset):
    """Draws for each item. Not from Python's generator, which the type checks of these tests draw from too."""

    def __init__(self):
        self.inputs, self.labels, _ = data()

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        noise = torch.randn(5, dtype=torch.float64) + np.random.randn()
        return self.inputs[index] + 0.05 * noise, self.labels[index]


def net(dropout=0.0):
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, CLASSES)).double()


def trained(folder, model, optimizer, dataset=None, *, seed=None, epochs=3, schedule=None, each=None, **given):
    """A recorded loop; `each` takes the step of one batch, if not in the usual way."""
    inputs, labels, _ = data()
    loader = DataLoader(dataset or TensorDataset(inputs, labels), 4, shuffle=True)
    scheduler = schedule(optimizer) if schedule else None
    with assay.record(folder, model, optimizer, loader, **grouped({"seed": seed, "checkpoints": "every", **given})) as recorder:
        for _ in range(epochs):
            for number, (x, y) in enumerate(recorder.epoch()):
                logits = model(x)
                if each is not None:
                    each(number, logits, x, y)
                else:
                    optimizer.zero_grad()
                    F.cross_entropy(logits, y).backward()
                    optimizer.step()
                if scheduler:
                    scheduler.step()
                recorder.batch(logits, y)
    return assay.Loop(model, optimizer, loader)


def opened(folder, loop, **given):
    return open_replay(folder, loop=loop, targets={"validation": data()[2]}, **given)


def told(step):
    """What a step shows, copied."""
    (slopes, adjoint), *_ = step.back([step.step_run.replay.end("validation")])
    params, after = ({name: value.clone() for name, value in part.items()} for part in (step.params, step.after))
    return step.index, params, after, pytree_first(step.batch).clone(), slopes, adjoint.params


def curved(model):
    """What a kept model says of a target, and both curvatures along that target's gradient; its decay comes in between."""
    found = {f"target {name}": value for name, value in model.target("validation").items()}
    batch = next(model.batches())
    for product in ("hvp", "ggnvp"):
        along = model.target("validation")
        assert not model.weight_decay()
        found |= {f"{product} {name}": value for name, value in getattr(batch, product)(along).items()}
    return found


def readers_of_models(replay):
    """Readers of kept models, and of what is made of them, part by part."""
    names = tuple(replay.at(0).params)

    def pairs():
        for batch in replay.at(1).batches():
            for pair in batch.layer_pairs(names):
                yield pair.inputs, pair.gradients

    def gradients():
        for batch in replay.at(replay.kept[-1]).batches():
            for rows, part in batch.grads(names):
                yield torch.tensor([rows.start, rows.stop]), *part.values()

    def features(spec):
        for rows, block in replay.features(FeatureSpec.parse(spec)).blocks():
            yield torch.tensor([rows.start, rows.stop]), block

    return {
        "pairs": pairs,
        "gradients": gradients,
        "penultimate": lambda: features("penultimate@0"),
        "projected": lambda: features("grads:project=8@1"),
        "embeddings": lambda: ((layer.rows,) for layer in replay.at(0).embeddings()),
        "targets": lambda: (tuple(replay.at(epoch).target("validation").values()) for epoch in replay.kept),
        "inputs": lambda: ((batch.input_gradients(),) for batch in replay.at(1).batches()),
    }


def pytree_first(batch):
    return batch[0]


def same(one, other):
    return (
        one[0] == other[0]
        and all(torch.equal(one[k][name], other[k][name]) for k in (1, 2, 5) for name in one[k])
        and torch.equal(one[3], other[3])
        and torch.equal(one[4], other[4])
    )


WORLDS = {
    "batches that can be had at any time": (lambda: None, 0.0, None),
    "batches in the loader's order, drawn at random": (Noisy, 0.3, 3),
}


def state():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_readers_of_steps_and_of_models_do_not_disturb_each_other(tmp_path, world, monkeypatch):
    """Every pair of readers, one step of each in turn, gives what each gives alone."""
    monkeypatch.setattr("assay.replay.checkpoints.BLOCK", 5)
    dataset, dropout, seed = WORLDS[world]
    model = net(dropout)
    loop = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), dataset(), seed=seed)
    replay = opened(tmp_path / "run", loop)
    every = range(replay.epochs[-1].stop)
    of_steps = {"forwards": lambda: replay.forwards(every), "backwards": lambda: replay.backwards(every)}
    ways = {name: (lambda way=way: (tuple(step.params.values()) for step in way())) for name, way in of_steps.items()}
    ways |= readers_of_models(replay)
    # What a reader shows is valid until its next step only.
    readers = {name: (lambda way=way: (tuple(part.clone() for part in parts) for parts in way())) for name, way in ways.items()}
    alone = {name: list(way()) for name, way in readers.items()}
    assert all(len(parts) > 1 for parts in alone.values())
    outside = state()
    for one, other in itertools.combinations_with_replacement(readers, 2):
        for first, second in itertools.zip_longest(
            zip(readers[one](), alone[one], strict=True), zip(readers[other](), alone[other], strict=True)
        ):
            for pair in (first, second):
                assert pair is None or all(torch.equal(a, b) for a, b in zip(*pair, strict=True)), (one, other)
        assert state() == outside


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_readers_of_one_replay_do_not_disturb_each_other(tmp_path, world):
    dataset, dropout, seed = WORLDS[world]
    model = net(dropout)
    loop = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), dataset(), seed=seed)
    replay = opened(tmp_path / "run", loop)
    every = range(replay.epochs[-1].stop)
    ways = {
        "forwards": lambda: replay.forwards(every),
        "later": lambda: replay.forwards(every[5:]),
        "backwards": lambda: replay.backwards(every),
    }
    alone = {name: [told(step) for step in way()] for name, way in ways.items()}
    kept = {epoch: curved(replay.at(epoch)) for epoch in replay.kept}
    held = {epoch: replay.at(epoch) for epoch in replay.kept}
    outside = state()
    iterators, together = {name: way() for name, way in ways.items()}, {name: [] for name in ways}
    left = list(ways)
    while left:
        for name in list(left):
            step = next(iterators[name], None)
            assert state() == outside
            if step is None:
                left.remove(name)
                continue
            # Another reader, a target and the weights of another training come in between.
            for epoch in (replay.kept[0], replay.kept[-1]):
                assert all(torch.equal(value, kept[epoch][key]) for key, value in curved(replay.at(epoch)).items())
            if step.index == 6:
                assert all(
                    torch.equal(value, kept[epoch][key]) for epoch, one in held.items() for key, value in curved(one).items()
                )
                replay.reweighted(torch.ones(EXAMPLES), every[4:], "validation")
            together[name].append(told(step))
            assert state() == outside
    for name, steps in alone.items():
        assert len(steps) == len(together[name]) > 4
        assert all(same(one, other) for one, other in zip(steps, together[name], strict=True))
    # A reader who leaves early leaves nothing behind.
    for way in ways.values():
        iterator = way()
        next(iterator)
        iterator.close()
        del iterator
    assert state() == outside and not torch.are_deterministic_algorithms_enabled()


def accumulated(model, optimizer):
    def each(number, logits, x, y):
        (F.cross_entropy(logits, y) / 2).backward()
        if number % 3 == 1:
            optimizer.step()
            optimizer.zero_grad()

    return each


def closed(model, optimizer):
    def each(number, logits, x, y):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)

    return each


OPTIMIZERS = {
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.01), None, "RMSprop cannot be differentiated"),
    "adagrad": (lambda p: torch.optim.Adagrad(p, lr=0.1), None, "Adagrad cannot be differentiated"),
    "nadam": (lambda p: torch.optim.NAdam(p, lr=0.01), None, "NAdam cannot be differentiated"),
    "amsgrad": (lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True), None, "amsgrad=True cannot be differentiated"),
    "lbfgs": (lambda p: torch.optim.LBFGS(p, lr=0.1), closed, "LBFGS computes the loss several times"),
    "carried": (lambda p: torch.optim.SGD(p, lr=0.1), accumulated, "added to gradients of the last batches of epoch"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kept_models_ask_nothing_of_the_optimizer(tmp_path, name):
    make, each, words = OPTIMIZERS[name]
    model = net()
    optimizer = make(model.parameters())
    loop = trained(tmp_path / "run", model, optimizer, each=each and each(model, optimizer))
    targets = {"validation": data()[2]}
    table = assay.score(tmp_path / "run", ["grand", "tracin", "vog", "prediction_depth:k=3"], loop=loop, targets=targets)
    inputs, labels, held = data()
    model.eval()
    parameters = list(model.parameters())

    def gradient(loss):
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])

    singles = [gradient(F.cross_entropy(model(x[None]), y[None])) for x, y in zip(inputs, labels, strict=True)]
    torch.testing.assert_close(table["grand"].values, torch.stack([g.norm() for g in singles]))
    last = opened(tmp_path / "run", loop).at(2)
    pull = torch.cat([part.flatten() for part in last.target("validation").values()])
    torch.testing.assert_close(pull, gradient(F.cross_entropy(model(held[0]), held[1])))
    rate = optimizer.param_groups[0]["lr"]
    assert {*last.rates.values()} == {rate}
    with pytest.raises(UsageError, match=words):
        assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=targets)


def test_rates_of_what_another_optimizer_trains_are_not_made_up(tmp_path):
    model = net()
    body, head = torch.optim.SGD(model[:4].parameters(), lr=0.1), torch.optim.SGD(model[4].parameters(), lr=0.1)

    def each(number, logits, x, y):
        for optimizer in (body, head):
            optimizer.zero_grad()
        F.cross_entropy(logits, y).backward()
        body.step()
        head.step()

    loop = trained(tmp_path / "run", model, body, each=each)
    targets = {"validation": data()[2]}
    assert len(assay.score(tmp_path / "run", ["grand", "vog"], loop=loop).values()) == 2
    for method in ("tracin", "oti", "sgd_influence"):
        with pytest.raises(UsageError, match=r"another optimizer trains it|not in the optimizer \(4\."):
            assay.score(tmp_path / "run", method, loop=loop, targets=None if method == "oti" else targets)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_momenta_that_a_scheduler_changes_are_taken_again(tmp_path, kind):
    model = net()
    optimizer = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-4),
    }[kind]()
    highest = {"sgd": 0.1, "adamw": 0.005}[kind]
    cycle = lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=13)  # noqa: E731
    loop = trained(tmp_path / "run", model, optimizer, schedule=cycle)
    momenta = assay.Run(tmp_path / "run").momenta(1)
    assert len(momenta[:, 0, 0].unique()) > 1
    scores = assay.score(tmp_path / "run", "sgd_influence:checks=2", loop=loop, targets={"validation": data()[2]})
    (influence,) = scores.values()
    assert not any("refutes" in warning for warning in influence.warnings)
    (error,) = (value for name, value in influence.diagnostics.items() if "single steps" in name)
    assert error < 1e-6


class Misordered(nn.Module):
    """The layer that makes the logits was registered first."""

    def __init__(self):
        super().__init__()
        self.out, self.hidden = nn.Linear(6, CLASSES), nn.Linear(5, 6)
        self.temperature = 2.0

    def forward(self, x):
        return self.out(torch.tanh(self.hidden(x)))


class Tempered(Misordered):
    def forward(self, x):
        return super().forward(x) / self.temperature


class Gated(Misordered):
    """Something linear is called after the logits were made."""

    def forward(self, x):
        logits = super().forward(x)
        self.hidden(x)
        return logits


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inward, self.outward = nn.Linear(5, CLASSES, bias=False), nn.Linear(5, CLASSES, bias=False)
        self.outward.weight = self.inward.weight

    def forward(self, x):
        return self.outward(x + torch.tanh(self.inward(x)) @ self.inward.weight)


class Convolved(nn.Module):
    """What makes the logits is no linear layer, though there is one before it."""

    def __init__(self):
        super().__init__()
        self.gate, self.last = nn.Linear(5, 5), nn.Conv1d(1, CLASSES, 5)

    def forward(self, x):
        return self.last((x * self.gate(x).sigmoid())[:, None])[:, :, 0]


class Calibrated(Misordered):
    """A learned scale and offset of each class follow, a softmax too; other linear layers are called later, one of as many outputs."""

    def __init__(self):
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.rand(CLASSES)), nn.Parameter(torch.rand(CLASSES))
        self.side = nn.Linear(5, CLASSES)

    def forward(self, x):
        logits = super().forward(x) * self.scale + self.offset
        aside = self.side(x), self.hidden(x), logits.log_softmax(-1)
        self.aside = None if self.training else aside
        return logits.log_softmax(-1)


class Summed(Misordered):
    """Two layers make the logits together."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(5, CLASSES)

    def forward(self, x):
        return super().forward(x) + self.other(x)


class Skipped(Misordered):
    def forward(self, x):
        return super().forward(x) + x[:, :CLASSES]


class Mixed(Misordered):
    """A matrix that is in no linear layer makes the logits of what the last one gives; trained or not."""

    def __init__(self, trained=True):
        super().__init__()
        self.mix = nn.Parameter(torch.rand(CLASSES, CLASSES), requires_grad=trained)

    def forward(self, x):
        return super().forward(x).tanh() @ self.mix


class FixedMix(Mixed):
    def __init__(self):
        super().__init__(False)


HEADS = {
    Calibrated: ("out.weight", "out.bias"),
    Summed: (),
    Skipped: (),
    Mixed: (),
    FixedMix: (),
    Misordered: ("out.weight", "out.bias"),
    Tempered: ("out.weight", "out.bias"),
    Gated: ("out.weight", "out.bias"),
    Tied: ("inward.weight",),
    Convolved: (),
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_the_layer_that_makes_the_logits(tmp_path, kind):
    torch.manual_seed(1)
    model = kind().double()
    loop = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    trains = [parameter.requires_grad for parameter in model.parameters()]
    replay = opened(tmp_path / "run", loop)
    assert replay.at(2).head == HEADS[kind]
    copy.deepcopy(replay.training.model)
    assert trains == [parameter.requires_grad for parameter in model.parameters()] and torch.is_grad_enabled()
    if not HEADS[kind]:
        needs = "layers=head needs a model with a trainable linear layer that makes its logits by itself; choose layers=all"
        for method in ("grand", "tracin", "influence"):
            with pytest.raises(UsageError, match=f"{method}: {needs}"):
                assay.score(
                    tmp_path / "run",
                    f"{method}:layers=head",
                    loop=loop,
                    targets={"validation": data()[2]} if method != "grand" else None,
                )
        for features, words in (("penultimate", "by itself; name others, such as"), ("head_grads", "by itself; choose")):
            with pytest.raises(UsageError, match=f"features={features}: .*{words}"):
                assay.score(tmp_path / "run", f"knn_disagreement:features={features}", loop=loop)
        assay.score(tmp_path / "run", "grand", loop=loop)
        return
    inputs, labels, _ = data()
    wanted = [dict(model.named_parameters())[name] for name in HEADS[kind]]
    norms = []
    for x, y in zip(inputs, labels, strict=True):
        parts = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), wanted)
        norms.append(torch.stack([part.square().sum() for part in parts]).sum().sqrt())
    values = assay.score(tmp_path / "run", "grand:layers=head", loop=loop)["grand:layers=head"].values
    torch.testing.assert_close(values, torch.stack(norms).detach())


def test_vog_of_a_model_that_is_not_finite_is_refused(tmp_path):
    model = net()
    loop = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    replay = opened(tmp_path / "run", loop)
    from assay.experiments.evidence import gather
    from assay.methods.vog import VoG
    from assay.replay.replay import Replay

    at = Replay.at

    def diverged(replay, epoch):
        kept = at(replay, epoch)
        if epoch == 2:
            kept.params["0.weight"].fill_(torch.nan)
        return kept

    evidence = gather(replay.run, replay)
    Replay.at, method = diverged, VoG()
    try:
        with pytest.raises(NumericalError, match=r"vog: the input gradients of 14 examples at the end of epoch 2 are NaN"):
            method.run(evidence.narrow(method.title, method.reads))
    finally:
        Replay.at = at


def test_a_replay_that_differs_names_the_commonest_causes(tmp_path):
    model = net()
    loop = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    wrong = assay.Loop(loop.model, loop.optimizer, loop.loader, clip=0.01)
    with pytest.raises(Mismatch, match="label smoothing or class weights without losses= or loss=, clipping without clip="):
        list(opened(tmp_path / "run", wrong).forwards(range(4)))


def test_what_differs_by_rounding_alone_is_said_to(tmp_path):
    model = net()
    loop = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    rounded = assay.Loop(
        loop.model,
        loop.optimizer,
        loop.loader,
        loss=lambda model, batch: F.cross_entropy(3 * model(batch[0]) / 3, batch[1]),
    )
    with pytest.raises(Mismatch, match=r"That is rounding: .* Give loss= .*tolerance=1e-6"):
        list(opened(tmp_path / "run", rounded).forwards(range(4)))
    allowed = assay.ReplayConfig(tolerance=1e-6)
    assert len(list(opened(tmp_path / "run", rounded, replay_config=allowed).forwards(range(4)))) == 4


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam])
def test_another_kind_of_optimizer_than_the_recorded_one_is_refused(tmp_path, kind):
    model = net()
    loop = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    other = assay.Loop(model, kind(model.parameters()), loop.loader)
    with pytest.raises(Mismatch, match=r"recorded another .*optimizer"):
        list(opened(tmp_path / "run", other).forwards(range(4)))


def test_solo_steps_of_losses_under_autocast_are_those_without_apart_from_rounding(tmp_path):
    def net():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES))

    def losses(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def under_autocast(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return losses(model, batch)

    draw = torch.Generator().manual_seed(0)
    dataset = TensorDataset(torch.randn(12, 5, generator=draw), torch.randint(CLASSES, (12,), generator=draw))
    found = []
    for name, each in (("plain", losses), ("autocast", under_autocast)):
        model = net()
        optimizer, loader = torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(dataset, 4)
        with assay.record(
            tmp_path / name, model, optimizer, loader, assay.Recording(live=["liveval"]), data=assay.DataSpec(losses=each), seed=0
        ) as recorder:
            for batch in recorder.epoch():
                optimizer.zero_grad()
                each(model, batch).mean().backward()
                optimizer.step()
                recorder.batch(model(batch[0]), batch[1])
        loop = assay.Loop(model, optimizer, loader, losses=each)
        found.append(assay.score(tmp_path / name, "oti", loop=loop)["oti"].values.double())
        found.append(assay.score(tmp_path / name, "liveval")["liveval"].values.double())
    for plain, rounded in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(rounded, plain, rtol=0, atol=0.05 * float(plain.abs().max()))


def test_a_run_of_lbfgs_goes_on(tmp_path):
    dataset = TensorDataset(*data()[:2])
    for epochs in (1, 2):
        model = net()
        optimizer, loader = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2), DataLoader(dataset, 4)
        with assay.record(tmp_path / "run", model, optimizer, loader, seed=0, resume=True) as recorder:
            for _ in range(recorder.epochs, epochs):
                for x, y in recorder.epoch():

                    def open_replay(x=x, y=y, model=model, optimizer=optimizer):
                        optimizer.zero_grad()
                        loss = F.cross_entropy(model(x), y)
                        loss.backward()
                        return loss

                    logits = model(x)
                    optimizer.step(open_replay)
                    recorder.batch(logits, y)
    assert assay.Run(tmp_path / "run").epochs == 2
