"""A live selector in a loop of one's own: trained as a loop by hand does, recorded as that, resumed, taken again, differentiated; or refused."""

import dataclasses
import math
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

import assay
from assay.core.errors import Mismatch, MissingEvidence, UsageError
from assay.core.live_selection import AbstractLiveSelector, EpochSelection
from assay.core.method import Source
from assay.experiments.evidence import open_replay
from assay.maths.draws import uniform
from assay.replay.generators import seed_loop
from assay.runs.run import Run
from settings import grouped

EXAMPLES, CLASSES, EPOCHS, BATCH = 37, 3, 5, 7
SELECT = "infobatch:ratio=0.6"


def data(dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES + 9, 3, generator=draw, dtype=torch.float64).to(dtype)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    return inputs[:EXAMPLES], labels[:EXAMPLES], inputs[EXAMPLES:], labels[EXAMPLES:]


def parts(dtype=torch.float64, drop=0.0, momentum=0.9, **given):
    """Model, optimizer and loader as the loop begins."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(drop) if drop else nn.Identity(), nn.Linear(6, CLASSES)).to(
        dtype
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=momentum, weight_decay=1e-3)
    given = {"batch_size": BATCH, "shuffle": True, "generator": torch.Generator(), **given}
    return model, optimizer, DataLoader(TensorDataset(*data(dtype)[:2]), **given)


def losses_of(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def trained(recorder, model, optimizer, epochs=EPOCHS, reduce=torch.mean, losses=losses_of, stop=None):
    """The loop, as docs show it."""
    for epoch in range(recorder.epochs, epochs):
        if epoch == stop:
            return
        for x, y in recorder.epoch():
            logits = model(x)
            loss = reduce(recorder.weighted(losses(lambda _: logits, (x, y))))  # noqa: B023  (called at once)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.batch(logits, y)


def recorded(folder, own=None, loop=trained, selected=True, **given):
    model, optimizer, loader = parts() if own is None else own
    settings = {"seed": 0, "checkpoints": "every", **({"select": SELECT, "epochs": EPOCHS} if selected else {}), **given}
    with assay.record(folder, model, optimizer, loader, **grouped(settings)) as recorder:
        loop(recorder, model, optimizer)
    return Run(folder)


def by_hand(dtype=torch.float64, ratio=0.6, seed=0, drop=0.0):
    """InfoBatch in bare torch: the model at the end, and of each epoch the steps' positions, and each example's weight, 0 where it is left out."""
    model, optimizer, loader = parts(dtype, drop)
    inputs, labels, *_ = data(dtype)
    last, epochs = torch.full((EXAMPLES,), math.nan, dtype=torch.float64), []
    ids = assay.Ids(range(EXAMPLES))
    for epoch in range(EPOCHS):
        weights = torch.ones(EXAMPLES, dtype=torch.float64)
        if 0 < epoch < math.floor(0.875 * EPOCHS):
            below = last < last.mean()
            weights[below] = 1 / (1 - ratio)
            weights[below & (uniform(ids.keys, seed, "policy infobatch", epoch) < ratio)] = 0
        seed_loop(seed, epoch, loader)
        # What a DataLoader draws for its workers before its sampler draws.
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        order = [place for place in iter(loader.sampler) if weights[place]]
        steps = list(torch.tensor(order).split(BATCH))
        if len(order) < EXAMPLES and len(steps[-1]) == 1:
            steps[-2:] = [torch.cat(steps[-2:])]
        for places in steps:
            losses = F.cross_entropy(model(inputs[places]), labels[places], reduction="none")
            last[places] = losses.detach().double()
            optimizer.zero_grad()
            (losses * weights[places].to(dtype)).mean().backward()
            optimizer.step()
        epochs.append((steps, weights))
    return model, epochs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("selecting") / "run")


def loop_of(own=None, **given):
    return assay.Loop(*(parts() if own is None else own), **given)


TARGET = {"validation": data()[2:]}
EXACT = assay.ReplayConfig(tolerance=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_it_trains_records_and_replays_as_the_loop_by_hand_to_the_bit(tmp_path, dtype, drop):
    run = recorded(tmp_path, parts(dtype, drop))
    model, epochs = by_hand(dtype, drop=drop)
    assert run.header.select == SELECT and run.header.partial
    assert sum(bool((weights == 0).any()) for _, weights in epochs) == 3
    for epoch, (steps, weights) in enumerate(epochs):
        assert [step.tolist() for step in run.order(epoch)] == [step.tolist() for step in steps]
        assert torch.equal(run.visits_in(epoch), (weights > 0).long())
        assert run.weights(epoch) is None if bool((weights == 1).all()) else torch.equal(run.weights(epoch), weights)
    end = run.model(EPOCHS - 1)
    assert all(torch.equal(value, end[name]) for name, value in model.state_dict().items())
    replay = open_replay(run, loop=loop_of(parts(dtype, drop)), targets={"validation": data(dtype)[2:]}, replay_config=EXACT)
    replay.hold_end(range(replay.epochs[-1].stop))
    assert all(torch.equal(replay.training.params[name], value) for name, value in model.named_parameters())


def test_an_epoch_is_the_whole_ones_order_without_those_left_out(run, tmp_path):
    whole = recorded(tmp_path, selected=False)
    assert whole.header.select == "" and not whole.header.partial
    for epoch in range(EPOCHS):
        kept = run.visits_in(epoch) > 0
        assert torch.cat(run.order(epoch)).tolist() == [place for place in torch.cat(whole.order(epoch)).tolist() if kept[place]]
        assert {len(step) for step in run.order(epoch)[:-1]} == {BATCH}


def test_a_selector_that_keeps_all_trains_as_without(run, tmp_path):
    kept, plain = recorded(tmp_path / "kept", select="infobatch:delta=0"), recorded(tmp_path / "plain", selected=False)
    assert [a.shard.sums for a in kept.commits] == [b.shard.sums for b in plain.commits]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_loop_that_stopped_goes_on_to_the_same_bits(run, tmp_path, stop):
    recorded(tmp_path, loop=lambda *given: trained(*given, stop=stop))
    again = recorded(tmp_path, resume=True)
    assert again.epochs == EPOCHS and [a.shard.sums for a in again.commits] == [b.shard.sums for b in run.commits]
    assert all(torch.equal(again.model(EPOCHS - 1)[name], value) for name, value in run.model(EPOCHS - 1).items())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 6}, "begun with epochs=5, not 6"),
        ({"select": "infobatch"}, "select='infobatch:ratio=0.6', not"),
        ({"selected": False}, "partial=True, not False"),
    ],
)
def test_it_is_resumed_as_it_was_begun_only(tmp_path, given, words):
    recorded(tmp_path, loop=lambda *given: trained(*given, stop=2))
    with pytest.raises(Mismatch, match=words):
        recorded(tmp_path, resume=True, **given)


def test_an_epoch_that_was_left_is_chosen_anew_from_the_losses_before_it(run, tmp_path):
    def leaving(recorder, model, optimizer):
        trained(recorder, model, optimizer, stop=2)
        with pytest.warns(UserWarning, match="was left after 1 batches"):
            for x, y in recorder.epoch():
                recorder.weighted(losses_of(model, (x, y)))
                recorder.batch(model(x), y)
                break
            trained(recorder, model, optimizer, stop=3)

    left = recorded(tmp_path, loop=leaving)
    assert left.epochs == 3 and left.commits[2].shard.sums["order"] == run.commits[2].shard.sums["order"]
    assert left.commits[2].shard.sums["weights"] == run.commits[2].shard.sums["weights"]


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize(
    "given",
    [
        {},
        pytest.param({"num_workers": 2}, marks=pytest.mark.slow),
        pytest.param({"num_workers": 1, "persistent_workers": True}, marks=pytest.mark.slow),
    ],
)
def test_workers_and_loops_without_a_seed(tmp_path, seed, given):
    own = parts(**given)
    run = recorded(tmp_path, own, seed=seed)
    assert any(run.weights(epoch) is not None for epoch in range(EPOCHS))
    replay = open_replay(run, loop=loop_of(parts(**given)), targets=TARGET, replay_config=EXACT)
    replay.hold_end(range(replay.epochs[-1].stop))


def test_a_part_of_the_dataset_by_its_sampler(tmp_path):
    taken = list(range(3, 30, 2))
    own = parts(shuffle=None, sampler=SubsetRandomSampler(taken, generator=torch.Generator()), generator=None)
    run = recorded(tmp_path, own)
    assert run.ids.values.tolist() == taken
    assert any(int(run.visits_in(epoch).sum()) < len(taken) for epoch in range(EPOCHS))
    own = parts(shuffle=None, sampler=SubsetRandomSampler(taken, generator=torch.Generator()), generator=None)
    replay = open_replay(run, loop=loop_of(own), targets=TARGET, replay_config=EXACT)
    replay.hold_end(range(replay.epochs[-1].stop))


def unrolled(run, weights):
    """The target after the recorded steps with every loss times its recorded weight and one more, as one graph."""
    inputs, labels, held, held_labels = data()
    model = parts()[0]
    params = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    slots = {}
    for epoch in range(run.epochs):
        own = run.weights(epoch) if run.weights(epoch) is not None else torch.ones(EXAMPLES, dtype=torch.float64)
        for places in run.order(epoch):
            losses = F.cross_entropy(torch.func.functional_call(model, params, inputs[places]), labels[places], reduction="none")
            loss = (own[places] * weights[places] * losses).sum() / len(places)
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            for (name, value), gradient in zip(list(params.items()), gradients, strict=True):
                gradient = gradient + 1e-3 * value
                slots[name] = 0.9 * slots[name] + gradient if name in slots else gradient
                params[name] = value - 0.2 * slots[name]
    return F.cross_entropy(torch.func.functional_call(model, params, held), held_labels)


@pytest.mark.slow
def test_sgd_influence_is_the_derivative_of_the_unrolled_steps(run):
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(unrolled(run, weights), weights)
    scores = assay.score(run, "sgd_influence", loop=loop_of(), targets=TARGET)["sgd_influence"]
    torch.testing.assert_close(scores.values, -exact, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_leaving_one_out_is_training_without_it_at_the_same_weights_and_the_same_parts(run):
    scores = assay.score(run, "loo:form=weight", loop=loop_of(), targets=TARGET)
    values = next(iter(scores.values())).values
    whole = unrolled(run, torch.ones(EXAMPLES, dtype=torch.float64)).item()
    for place in (0, 5, 17, 36):
        weights = torch.ones(EXAMPLES, dtype=torch.float64)
        weights[place] = 0
        assert float(values[place]) == pytest.approx(unrolled(run, weights).item() - whole, rel=1e-6, abs=1e-10)


def test_tracin_in_steps_and_grand_are_the_sums_by_hand(run):
    inputs, labels, held, held_labels = data()
    scores = assay.score(run, ["tracin:every=step", "grand:at=1", "influence"], loop=loop_of(), targets=TARGET)
    expected = torch.zeros(EXAMPLES, dtype=torch.float64)
    model, optimizer, _ = parts()
    for epoch in range(run.epochs):
        own = run.weights(epoch) if run.weights(epoch) is not None else torch.ones(EXAMPLES, dtype=torch.float64)
        for places in run.order(epoch):
            target = torch.autograd.grad(F.cross_entropy(model(held), held_labels), list(model.parameters()))
            for place in places.tolist():
                loss = own[place] * F.cross_entropy(model(inputs[place : place + 1]), labels[place : place + 1])
                gradient = torch.autograd.grad(loss, list(model.parameters()))
                dot = sum(float((a * b).sum()) for a, b in zip(gradient, target, strict=True))
                expected[place] += 0.2 * dot / len(places)
            losses = F.cross_entropy(model(inputs[places]), labels[places], reduction="none")
            optimizer.zero_grad()
            (losses * own[places]).mean().backward()
            optimizer.step()
        if epoch == 1:
            gradients = [
                torch.autograd.grad(losses_of(model, (inputs[i : i + 1], labels[i : i + 1])).sum(), model.parameters())
                for i in range(EXAMPLES)
            ]
            norms = torch.stack([torch.cat([part.flatten() for part in one]).norm() for one in gradients])
    torch.testing.assert_close(scores["grand:at=1"].values, norms, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scores["tracin:every=step"].values, expected, rtol=1e-9, atol=1e-12)


def normed():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    return model, torch.optim.SGD(model.parameters(), lr=0.1), parts()[2]


@pytest.mark.parametrize("view", ["train", "eval"])
def test_one_example_that_is_left_over_joins_the_batch_before(tmp_path, monkeypatch, view):
    """BatchNorm cannot be trained on one."""
    # 29 of 37 are kept: four batches of 7, and one.
    fixed = dataclasses.dataclass(frozen=True)(type("Fixed8", (Fixed,), {"dropped": 8, "name": "fixed8"}))()
    if view == "train":
        monkeypatch.setattr(Fixed, "select_epoch", late(Fixed.select_epoch))
    run = recorded(tmp_path, normed(), select=fixed, view=view)
    last = EPOCHS - 1
    assert [len(step) for step in run.order(last)] == [7, 7, 7, 8]
    replay = open_replay(run, loop=loop_of(normed()), targets=TARGET, replay_config=EXACT)
    replay.hold_end(range(replay.epochs[-1].stop))


def late(choose):
    """Only after the first epoch, whose labels are not known."""

    def chosen(self, state, ids, epoch, epochs, seed):
        found = choose(self, state, ids, epoch, epochs, seed)
        return found if epoch else EpochSelection(torch.ones(len(ids), dtype=torch.bool), found.weights)

    return chosen


class Fixed(AbstractLiveSelector):
    """Leaves the first few of the ids out of every epoch."""

    dropped: ClassVar[int] = 3
    name: ClassVar[str] = "fixed"
    source: ClassVar[Source] = Source("nobody", "https://example.org")

    def start(self, examples):
        return {"met": torch.zeros(examples)}

    def update(self, state, positions, losses):
        state["met"][positions] += 1

    def select_epoch(self, state, ids, epoch, epochs, seed):
        weights = 1 + ids.ranks.to(torch.float64) / len(ids)
        return EpochSelection(ids.ranks >= self.dropped, weights)


def test_an_epoch_without_some_labels_is_refused_and_its_cure_works(tmp_path):
    fixed = dataclasses.dataclass(frozen=True)(Fixed)()
    with pytest.raises(
        UsageError, match=r"fixed leaves examples out of the first epoch.*record with assay.Recording\(view='eval'\)"
    ):
        recorded(tmp_path / "train", select=fixed)
    run = recorded(tmp_path / "eval", select=fixed, view="eval")
    assert run.weights(0)[:4].tolist() == [0, 0, 0, 1 + 3 / EXAMPLES] and run.missing(0) is None
    assert assay.score(run, "aum")["aum"].values.isfinite().all()
    scores = assay.score(run, "sgd_influence", loop=loop_of(), targets=TARGET)["sgd_influence"]
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(unrolled(run, weights), weights)
    assert scores.unscored.values.tolist() == [0, 1, 2]
    torch.testing.assert_close(scores.values, -exact[3:], rtol=1e-9, atol=1e-12)
    assert exact[:3].tolist() == [0, 0, 0]


CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)


def smoothed(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none", label_smoothing=0.1)


def class_weighted(model, batch):
    return CLASS_WEIGHTS[batch[1]] * losses_of(model, batch)


@pytest.mark.parametrize(
    ("losses", "reduce", "reduction"),
    [
        (smoothed, torch.mean, "mean"),
        (losses_of, lambda weighted: weighted.sum() / (2.0 * len(weighted)), lambda batch: 2.0 * len(batch[0])),
        (losses_of, torch.sum, "sum"),
        (class_weighted, torch.mean, "mean"),
    ],
)
def test_other_losses_and_reductions_are_taken_again(tmp_path, losses, reduce, reduction):
    own = parts()
    own[1].param_groups[0]["lr"] = 0.02
    run = recorded(tmp_path, own, loop=lambda *given: trained(*given, losses=losses, reduce=reduce))
    replay = open_replay(run, loop=loop_of(losses=losses, reduction=reduction), targets=TARGET, replay_config=EXACT)
    replay.hold_end(range(replay.epochs[-1].stop))
    assert any(run.weights(epoch) is not None for epoch in range(EPOCHS))
    assert assay.score(run, "sgd_influence", loop=loop_of(losses=losses, reduction=reduction), targets=TARGET)


def test_without_its_weights_it_is_refused(run, monkeypatch):
    monkeypatch.setattr(Run, "weights", lambda self, epoch: None)
    replay = open_replay(run, loop=loop_of(), targets=TARGET, replay_config=EXACT)
    with pytest.raises(Mismatch, match="epoch 1"):
        replay.hold_end(range(replay.epochs[-1].stop))


def test_a_loss_that_knows_no_weights_is_refused_and_its_cure_works(run):
    with pytest.raises(UsageError, match=r"loss= knows no weights.*leave loss= out"):
        assay.score(run, "sgd_influence", loop=loop_of(loss=lambda model, batch: losses_of(model, batch).mean()), targets=TARGET)
    assert assay.score(run, "sgd_influence", loop=loop_of(losses=losses_of), targets=TARGET)


def test_methods_along_with_the_steps_say_what_they_say_afterwards(run, tmp_path):
    live = recorded(tmp_path, live=["liveval", "confidence"])
    for name, loop in (("liveval", {"loop": loop_of()}), ("confidence", {})):
        own, after = assay.score(live, name)[name].values, assay.score(run, name, **loop)[name].values
        torch.testing.assert_close(own, after, rtol=1e-6, atol=1e-7)


def test_what_reads_the_missing_facts_is_refused_and_the_page_says_it(run, tmp_path):
    with pytest.raises(MissingEvidence, match="reads epochs that did not train on every example"):
        assay.score(run, "variability")
    page = assay.report(run, assay.score(run, "confidence"), tmp_path / "page.html").read_text()
    assert f"{SELECT} chose before every epoch" in page


def forgetting(recorder, model, optimizer):
    trained(recorder, model, optimizer, stop=1)
    for x, y in recorder.epoch():
        logits = model(x)
        optimizer.zero_grad()
        F.cross_entropy(logits, y).backward()
        optimizer.step()
        recorder.batch(logits, y)


def passing_by(recorder, model, optimizer, both=False, twice=1.0):
    for _ in range(EPOCHS):
        for x, y in recorder.epoch():
            logits = model(x)
            losses = F.cross_entropy(logits, y, reduction="none")
            weighted = recorder.weighted(losses)
            optimizer.zero_grad()
            (losses.mean() + (twice * weighted).mean() if both else losses.mean()).backward()
            optimizer.step()
            recorder.batch(logits, y)


def unevenly(recorder, model, optimizer):
    trained(recorder, model, optimizer, reduce=lambda weighted: (weighted * torch.arange(len(weighted))).mean())


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (forgetting, "Epoch 1, batch 0: recorder.weighted was not called"),
        (passing_by, r"Epoch 0, batch 0: the optimizer moved, and nobody called backward on what recorder.weighted returned"),
        (
            lambda *given: passing_by(*given, both=True),
            "Epoch 0, batch 0: what was called backward on is not the mean or the sum",
        ),
        (unevenly, "Epoch 0, batch 0: what was called backward on is not the mean or the sum"),
        (
            lambda *given: trained(*given, losses=lambda model, batch: losses_of(model, batch).mean()),
            r"float64 of shape \(\), where 7 .*reduction='none'",
        ),
        (lambda *given: trained(*given, losses=lambda model, batch: losses_of(model, batch).detach()), "have no gradient"),
        (lambda recorder, *given: recorder.weighted(torch.zeros(7)), "outside recorder.epoch"),
        (
            lambda *given: trained(*given, epochs=EPOCHS + 1),
            r"was given epochs=5, and epoch 5 begins; record again with assay\.LiveSelection\(",
        ),
    ],
)
def test_what_a_loop_forgets_is_refused(tmp_path, loop, words):
    with pytest.raises(UsageError, match=words):
        recorded(tmp_path, loop=loop)


def test_a_loss_that_is_scaled_is_the_same_loss(run, tmp_path):
    """As a gradient scaler does it, which takes the factor off the gradients again."""

    def scaled(recorder, model, optimizer):
        for _ in range(EPOCHS):
            for x, y in recorder.epoch():
                logits = model(x)
                loss = recorder.weighted(F.cross_entropy(logits, y, reduction="none")).mean()
                optimizer.zero_grad()
                (loss * 1024).backward()
                for parameter in model.parameters():
                    parameter.grad /= 1024
                optimizer.step()
                recorder.batch(logits, y)

    assert [a.shard.sums for a in recorded(tmp_path, loop=scaled).commits] == [b.shard.sums for b in run.commits]


def test_a_factor_that_overflows_is_the_scalers_to_pass_over(tmp_path):
    """In numbers of 16 bits a scaler first tries factors that are too large, and leaves such steps out."""

    def overflowing(recorder, model, optimizer):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
        for _ in range(EPOCHS):
            for x, y in recorder.epoch():
                logits = model(x)
                loss = recorder.weighted(F.cross_entropy(logits, y, reduction="none").half()).sum()
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                recorder.batch(logits, y)

    run = recorded(tmp_path, parts(torch.float32), loop=overflowing)
    assert run.epochs == EPOCHS and max(run.micro_batches(0)) > 1


def test_losses_that_the_loop_writes_into_afterwards_are_told_as_they_were(run, tmp_path):
    def writing(recorder, model, optimizer):
        for _ in range(EPOCHS):
            for x, y in recorder.epoch():
                logits = model(x)
                losses = F.cross_entropy(logits, y, reduction="none")
                loss = recorder.weighted(losses).mean()
                losses.detach().zero_()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.batch(logits, y)

    assert [a.shard.sums for a in recorded(tmp_path, loop=writing).commits] == [b.shard.sums for b in run.commits]


class Halves(BatchSampler):
    """Cuts batches its own way."""


@pytest.mark.parametrize(
    ("own", "given", "words"),
    [
        ({"drop_last": True}, {}, r"drop_last=True .*set drop_last=False"),
        (
            {"batch_sampler": Halves(range(EXAMPLES), 4, False), "batch_size": 1, "shuffle": None, "generator": None},
            {},
            "Halves cuts them itself; give the DataLoader batch_size= and a sampler",
        ),
        (
            {"sampler": RandomSampler(range(EXAMPLES), replacement=True), "shuffle": None},
            {},
            "draws with replacement.*gives each example once",
        ),
        (
            {"sampler": RandomSampler(range(EXAMPLES), num_samples=9), "shuffle": None},
            {"view": "eval"},
            "The sampler draws 9 times",
        ),
        ({}, {"epochs": None}, "LiveSelection: epochs= is None; give a whole number"),
        ({}, {"select": None}, "LiveSelection: selector= is None; give a text"),
        ({}, {"epochs": 0}, "1 or more"),
        ({}, {"select": "top_k:keep=0.3"}, "chooses once, by a score"),
    ],
)
def test_loaders_and_settings_that_do_not_go_with_it_are_refused(tmp_path, own, given, words):
    with pytest.raises(UsageError, match=words):
        recorded(tmp_path / "run", parts(**own), **given)
    assert not (tmp_path / "run").exists()


def test_a_selector_by_its_name_alone_is_refused_with_the_whole_call(tmp_path):
    model, optimizer, loader = parts()[:3]
    with pytest.raises(UsageError, match=r"give select=assay\.LiveSelection\('infobatch:ratio=0\.5', epochs=NUMBER\)"):
        assay.record(tmp_path / "run", model, optimizer, loader, select="infobatch:ratio=0.5")
    assert not (tmp_path / "run").exists()
