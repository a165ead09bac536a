"""The recorder in Lightning: facts are those of a plain loop over the same batches to the bit, and training goes on as if nobody recorded."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy as imported
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

import assay
from assay.cli.app import run_app
from assay.core.errors import Mismatch, MissingEvidence, OutputExists, UsageError
from assay.runs.recording import Recording
from assay.runs.run import Run

lightning = pytest.importorskip("lightning.pytorch")
pytestmark = [
    pytest.mark.slow,
    # What the library itself warns of is its own.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*is not recorded"),
    pytest.mark.filterwarnings("error:.*gradients of your loop"),
    pytest.mark.filterwarnings("error:.*another state of the optimizer"),
]
SEED, EXAMPLES = 5, 22


def dataset(first=1):
    inputs = torch.randn(EXAMPLES, 4, generator=torch.Generator().manual_seed(first))
    return TensorDataset(inputs, torch.arange(EXAMPLES) % 3)


class Module(lightning.LightningModule):
    def __init__(self, gives="loss", manual=False, optimizers=1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))
        self.gives, self.automatic_optimization, self.count = gives, not manual, optimizers

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        if self.gives == "nothing":
            return F.nll_loss(F.log_softmax(logits, 1), y)
        loss = F.nll_loss(F.log_softmax(logits, 1), y) if self.gives == "logits" else nn.CrossEntropyLoss()(logits, y)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        if self.gives == "twice":
            F.cross_entropy(logits.detach(), y)
        self.log("train_loss", loss)
        return {"loss": loss, "logits": logits} if self.gives == "logits" else loss

    def validation_step(self, batch, batch_idx):
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        made = [torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5) for _ in range(self.count)]
        return made[0] if self.count == 1 else made


class Data(lightning.LightningDataModule):
    def __init__(self, workers=0):
        super().__init__()
        self.workers = workers

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return [part.clone() for part in batch]

    def train_dataloader(self):
        return DataLoader(dataset(), 4, shuffle=True, num_workers=self.workers, persistent_workers=self.workers > 0)


def trainer_of(folder, callbacks=(), **settings):
    chosen = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), **{**chosen, "enable_checkpointing": False, **settings}
    )


def plain(folder, accumulate=1, autocast=False, epochs=2, recording=None):
    module = Module()
    optimizer = module.configure_optimizers()
    loader = DataLoader(dataset(), 4, shuffle=True)
    with assay.record(folder, module, optimizer, loader, recording, seed=SEED) as recorder:
        for _ in range(epochs):
            for number, (x, y) in enumerate(recorder.epoch(), 1):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    logits = module(x)
                    loss = F.cross_entropy(logits, y)
                (loss / accumulate).backward()
                recorder.batch(logits, y)
                if number % accumulate == 0 or number == len(loader):
                    optimizer.step()
                    optimizer.zero_grad()
    return Run(folder), module


def shards(run):
    return [{name: value for name, value in commit.shard.sums.items()} for commit in run.commits]


CASES = {
    "at the loss": {},
    "returned": {"gives": "logits"},
    "accumulation": {"trainer": {"accumulate_grad_batches": 4}},
    "manual": {"manual": True},
    "data module and workers": {"data": lambda: Data(workers=2)},
    "validation": {"validation": True},
    "bf16": {"trainer": {"precision": "bf16-mixed"}},
    "reload": {"trainer": {"reload_dataloaders_every_n_epochs": 1}, "data": Data},
}


@pytest.mark.parametrize("name", CASES)
def test_facts_and_weights_are_those_of_a_plain_loop(tmp_path, name):
    case = dict(CASES[name])
    settings, data, validation = case.pop("trainer", {}), case.pop("data", None), case.pop("validation", False)
    module = Module(**case)
    trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "callback", seed=SEED)], **settings)
    held = DataLoader(dataset(3), 4) if validation else None
    if data is None:
        trainer.fit(module, DataLoader(dataset(), 4, shuffle=True), held)
    else:
        trainer.fit(module, datamodule=data())
    run, same = plain(
        tmp_path / "plain", settings.get("accumulate_grad_batches", 1), autocast=settings.get("precision") == "bf16-mixed"
    )
    recorded = Run(tmp_path / "callback")
    assert recorded.epochs == 2
    for epoch in range(2):
        for what in ("order", "batch_sizes", "losses", "margins", "rates"):
            assert torch.equal(recorded.shard(epoch).read(what), run.shard(epoch).read(what)), what
    if name != "returned":
        # A loss in two functions rounds otherwise.
        assert shards(recorded) == shards(run)
        assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), same.state_dict().values(), strict=True))
    assert "on_before_batch_transfer" not in vars(module) and "dataloader" not in vars(trainer.fit_loop._data_source)


def test_without_a_seed_training_ends_as_if_nobody_recorded(tmp_path):
    weights = []
    for callbacks in ([], [assay.lightning.Recorder(tmp_path / "run", Recording(live=["aum", "liveval"]))]):
        lightning.seed_everything(7, verbose=False)
        module = Module()
        trainer_of(tmp_path, callbacks).fit(module, DataLoader(dataset(), 4, shuffle=True), DataLoader(dataset(3), 4))
        weights.append(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    run = Run(tmp_path / "run")
    assert run.epochs == 2 and run.labels.tolist() == [number % 3 for number in range(EXAMPLES)]
    assert assay.score(run, ["aum", "liveval"], save=False)["liveval"].values.isfinite().all()


def test_live_values_are_those_of_a_plain_loop(tmp_path):
    live = Recording(live=["aum", "liveval"])
    trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "callback", live, seed=SEED)]).fit(
        Module(), DataLoader(dataset(), 4, shuffle=True)
    )
    run, _ = plain(tmp_path / "plain", recording=live)
    for title in ("aum", "liveval"):
        ours, theirs = (
            assay.score(each, title, save=False, strict=True)[title].values for each in (Run(tmp_path / "callback"), run)
        )
        assert theirs.any() and torch.equal(ours, theirs), title


def test_the_clean_pass_with_batches_left_out_and_ids_of_a_subset(tmp_path):
    module = Module()
    data = Subset(dataset(), range(4, 20))
    trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "run", Recording(view="eval"))], limit_train_batches=2)
    trainer.fit(module, DataLoader(data, 4, shuffle=True))
    run = Run(tmp_path / "run")
    module.eval()
    x, y = dataset()[4:20]
    with torch.no_grad():
        losses = F.cross_entropy(module(x), y, reduction="none")
    torch.testing.assert_close(run.shard(1).read("losses"), losses, atol=1e-6, rtol=1e-5)
    assert run.epochs == 2 and run.commits[0].steps == 2 and list(run.ids.values) == list(range(4, 20))


def test_a_resumed_training_goes_on_with_its_run(tmp_path):
    def trained(folder, epochs, resume=None):
        module = Module()
        saves = lightning.callbacks.ModelCheckpoint(tmp_path / f"of {folder}", save_last=True, save_top_k=-1, filename="{epoch}")
        callbacks = [saves, assay.lightning.Recorder(tmp_path / folder, seed=SEED)]
        trainer = trainer_of(tmp_path, callbacks, max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(module, DataLoader(dataset(), 4, shuffle=True), ckpt_path=resume)
        return module

    whole = trained("whole", 4)
    trained("parts", 2)
    again = trained("parts", 4, tmp_path / "of parts/last.ckpt")
    run, other = Run(tmp_path / "parts"), Run(tmp_path / "whole")
    assert run.epochs == 4 and run.fingerprint == other.fingerprint and shards(run) == shards(other)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True))
    with pytest.raises(Mismatch, match=r"holds 4 epochs, and the trainer goes on in epoch 2 \(counted from 0\)"):
        trained("parts", 5, tmp_path / "of parts/epoch=1.ckpt")
    with pytest.raises(OutputExists, match=r"already holds a run; record into another folder, or go on with it by trainer\.fit"):
        trained("parts", 2)


def test_two_recorders_in_one_trainer_are_refused_before_training(tmp_path):
    callbacks = [assay.lightning.Recorder(tmp_path / name) for name in ("one", "two")]
    with pytest.raises(UsageError, match="several recorders among its callbacks; leave one"):
        trainer_of(tmp_path, callbacks).fit(Module(), DataLoader(dataset(), 4, shuffle=True))
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


@pytest.mark.filterwarnings("default:.*is not recorded")
def test_an_epoch_that_is_gone_on_with_in_its_middle_is_left_with_a_warning_and_the_next_is_recorded(tmp_path):
    def trained(epochs, resume=None, stop=-1):
        saves = lightning.callbacks.ModelCheckpoint(
            tmp_path / "saved", every_n_train_steps=2, save_top_k=-1, filename="{step}", save_on_train_epoch_end=False
        )
        recorder = assay.lightning.Recorder(tmp_path / "run", seed=SEED)
        trainer = trainer_of(tmp_path, [saves, recorder], max_epochs=epochs, max_steps=stop, enable_checkpointing=True)
        trainer.fit(Module(), DataLoader(dataset(), 4, shuffle=True), ckpt_path=resume)
        return trainer

    # 6 batches an epoch.
    with pytest.warns(UserWarning, match="Epoch 1 of .* was left after 2 batches and is not recorded"):
        trained(3, stop=8)
    with pytest.warns(
        UserWarning,
        match=r"Epoch 1 of .* was left after 4 batches and is not recorded .*; the trainer went on in its middle, from a checkpoint",
    ):
        trained(3, tmp_path / "saved/step=8.ckpt")
    assert Run(tmp_path / "run").epochs == 2


def test_what_lightning_saved_becomes_the_run_that_was_recorded_beside_it(tmp_path):
    module = Module()
    saves = lightning.callbacks.ModelCheckpoint(tmp_path / "saved", save_top_k=-1, filename="{epoch}")
    recorder = assay.lightning.Recorder(tmp_path / "recorded", Recording(view="eval", checkpoints="every"), seed=SEED)
    trainer = trainer_of(tmp_path, [saves, recorder], max_epochs=3, enable_checkpointing=True)
    trainer.fit(module, DataLoader(dataset(), 4, shuffle=True))
    saved = assay.from_checkpoints(tmp_path / "run", Module(), DataLoader(dataset(), 22), tmp_path / "saved")
    recorded = Run(tmp_path / "recorded")
    assert saved.epochs == recorded.epochs == 3
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    for epoch in range(3):
        assert all(torch.equal(value, saved.model(epoch)[name]) for name, value in recorded.model(epoch).items())
        assert saved.saved_rates(epoch).tolist() == rates
    ours, theirs = assay.score(saved, ["aum", "loss"], save=False), assay.score(recorded, ["aum", "loss"], save=False)
    for title, scores in ours.items():
        torch.testing.assert_close(scores.values, theirs[title].values, rtol=1e-5, atol=1e-6)


def test_methods_that_take_the_training_again(tmp_path):
    module, loader = Module(), DataLoader(dataset(), 4, shuffle=True)
    trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "run", seed=SEED)])
    trainer.fit(module, loader)
    loop = assay.Loop(module, trainer.optimizers[0], loader)
    targets = {"validation": dataset(3).tensors}
    scores = assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"]
    # The same as of a plain loop that trained alike.
    _, own = plain(tmp_path / "plain")
    loop = assay.Loop(own, own.configure_optimizers(), DataLoader(dataset(), 4, shuffle=True))
    alike = assay.score(tmp_path / "plain", "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"]
    assert torch.equal(scores.values, alike.values)


def test_searches_and_trials_are_not_recorded(tmp_path):
    module = Module()
    module.learning_rate = 0.1
    recorder = assay.lightning.Recorder(tmp_path / "run")
    trainer = trainer_of(tmp_path, [recorder])
    lightning.tuner.Tuner(trainer).lr_find(
        module, DataLoader(dataset(), 4, shuffle=True), num_training=6, attr_name="learning_rate"
    )
    assert not (tmp_path / "run").exists()
    trainer.fit(module, DataLoader(dataset(), 4, shuffle=True))
    assert Run(tmp_path / "run").epochs == 2
    with pytest.warns(UserWarning, match="fast_dev_run trains on a few batches, so nothing is recorded"):
        trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "trial")], fast_dev_run=True).fit(
            Module(), DataLoader(dataset(), 4)
        )
    assert not (tmp_path / "trial").exists()


class Two(Module):
    """Two optimizers, each of a part of the net."""

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.5) for part in (self.net[0], self.net[3])]


def test_two_optimizers_by_hand_are_recorded_and_repeated(tmp_path):
    module, loader = Two(manual=True), DataLoader(dataset(), 4, shuffle=True)
    trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "callback", seed=SEED)])
    trainer.fit(module, loader)
    run, same = plain(tmp_path / "plain")
    recorded = Run(tmp_path / "callback")
    for epoch in range(2):
        for what in ("order", "losses", "margins"):
            assert torch.equal(recorded.shard(epoch).read(what), run.shard(epoch).read(what)), what
        assert torch.equal(recorded.rates(epoch), run.rates(epoch).expand(-1, 2))
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), same.state_dict().values(), strict=True))
    assert "assay.Loop(module, trainer.optimizers, loader)" in recorded.header.about.values()
    (scores,) = assay.score(recorded, "tracin:target=self", loop=assay.Loop(module, trainer.optimizers, loader)).values()
    assert bool((scores.values > 0).all())


REFUSED = {
    "limit": (
        {},
        {"limit_train_batches": 2},
        "limit_train_batches leaves 4 of 6 batches out of every epoch; leave it out, or record with",
    ),
    "overfit": ({}, {"overfit_batches": 2}, "overfit_batches makes another loader"),
    "no logits": (
        {"gives": "nothing"},
        {},
        r"Module.training_step returns no logits, and called F.cross_entropy .* 0 times, not once",
    ),
    "two losses": ({"gives": "twice"}, {}, r"called F.cross_entropy .* 2 times, not once"),
    "optimizers": (
        {"optimizers": 2, "manual": True},
        {},
        "4 parameters are in two of the 2 optimizers, so that one step moves them twice; give each optimizer its own",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded_is_refused_and_leaves_nothing_behind(tmp_path, name):
    made, settings, words = REFUSED[name]
    module, original = Module(**made), F.cross_entropy
    with pytest.raises(UsageError, match=words):
        trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "run")], **settings).fit(module, DataLoader(dataset(), 4))
    assert F.cross_entropy is original and "on_before_batch_transfer" not in vars(module)
    # Nobody holds the folder's lock.
    trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "other")]).fit(Module(), DataLoader(dataset(), 4))


class ByName(Module):
    def training_step(self, batch, batch_idx):
        return imported(self(batch[0]), batch[1])


class Soft(Module):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), F.one_hot(batch[1], 3).float())


def loses_a_row(items):
    return default_collate(items[:-1])


ROWS = "as where collate_fn leaves items out, or the loop rows: keep every item that the sampler asks for"
SEEN = {
    "imported by its name": (
        ByName(),
        None,
        r"0 times, .* \(its file imports it as imported, .*: call F.cross_entropy\); return",
    ),
    "another loss": (
        Module("nothing"),
        None,
        r"0 times, not once, .* \(another loss, or one that was imported by its name, is not",
    ),
    "soft labels": (
        Soft(),
        None,
        r"Soft.training_step gives cross_entropy .* and labels of torch.float32 and shape \(4, 3\) in a batch of 4 .*; return",
    ),
    "a row lost": (Module(), loses_a_row, r"cross_entropy logits of shape \(3, 3\) .* in a batch of 4 examples, " + ROWS),
    "a row lost, returned": (
        Module("logits"),
        loses_a_row,
        r"logits of shape \(3, 3\) do not fit a batch of 4 examples, " + ROWS,
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_the_likely_cause_is_said_where_logits_are_not_found(tmp_path, name):
    module, collate, words = SEEN[name]
    with pytest.raises(UsageError, match=words):
        trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "run")]).fit(
            module, DataLoader(dataset(), 4, collate_fn=collate)
        )


def test_other_strategies_and_another_version_are_refused(tmp_path):
    from types import SimpleNamespace

    recorder, loop = assay.lightning.Recorder(tmp_path / "run"), trainer_of(tmp_path).fit_loop
    fsdp, ddp = (type(name, (), {})() for name in ("FSDPStrategy", "DDPStrategy"))
    for strategy, recording, words in (
        (
            fsdp,
            Recording(),
            "FSDPStrategy does not keep the whole model in each of its 2 processes, .* train with strategy='ddp'",
        ),
        (
            ddp,
            Recording(view="eval"),
            "2 processes train together, and a clean pass is recorded by one; record with view='train'",
        ),
    ):
        together = SimpleNamespace(fast_dev_run=False, callbacks=[], fit_loop=loop, world_size=2, strategy=strategy)
        with pytest.raises(UsageError, match=words):
            assay.lightning.Recorder(tmp_path / "run", recording).setup(together, Module(), "fit")
    other = SimpleNamespace(fast_dev_run=False, callbacks=[], fit_loop=SimpleNamespace())
    with pytest.raises(
        UsageError,
        match=r"This version of lightning.* has no _data_source with a dataloader in trainer.fit_loop, .* tested, 2\.5\.6 and 2\.6\.6",
    ):
        recorder.setup(other, Module(), "fit")


def test_several_loaders_are_refused(tmp_path):
    with pytest.raises(UsageError, match="The training data are a list, and one torch DataLoader is recorded; give one"):
        trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "run")]).fit(Module(), [DataLoader(dataset(), 4)] * 2)
    with pytest.raises(UsageError, match="Nothing is being recorded"):
        assay.lightning.Recorder(tmp_path / "run").recorder  # noqa: B018


def test_an_epoch_is_recorded_as_it_is_drawn(tmp_path):
    recorder = assay.lightning.Recorder(tmp_path / "run", data=assay.DataSpec(visits="any"))
    trainer_of(tmp_path, [recorder], limit_train_batches=2).fit(Module(), DataLoader(dataset(), 4, shuffle=True))
    run = Run(tmp_path / "run")
    assert run.epochs == 2 and [int(run.visits_in(epoch).sum()) for epoch in range(2)] == [8, 8]
    with pytest.raises(UsageError, match="id_field=0 is for loops over recorder"):
        assay.lightning.Recorder(tmp_path / "field", data=assay.DataSpec(ids=range(EXAMPLES), id_field=0))


class Skips(Module):
    """Skips the step of a batch, before or after its loss was computed."""

    def __init__(self, looks, at=1):
        super().__init__()
        self.looks, self.at = looks, at

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx) if batch_idx != self.at or self.looks else None
        return None if batch_idx == self.at else loss


def test_a_step_that_training_step_skips_is_named(tmp_path):
    words = (
        r"Skips\.training_step returned None for batch 1 of epoch 0, by which Lightning skips the step, .*; call F\.cross_entropy with the logits of the whole "
        r"batch before it returns None, or leave such examples out of the training set, or record with assay\.Recording\(view='eval'\)"
    )
    with pytest.raises(UsageError, match=words):
        trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "run")]).fit(Skips(looks=False), DataLoader(dataset(), 4))
    for task in ("losses", "labels"):
        recorder = assay.lightning.Recorder(tmp_path / task, data=assay.DataSpec(task=task))
        with pytest.raises(UsageError, match=r"skips the step, .* to record; leave such examples out of the training set, or"):
            trainer_of(tmp_path, [recorder]).fit(Skips(looks=False, at=0), DataLoader(dataset(), 4))
    # Each cure.
    for folder, looks, view in (("looked", True, "train"), ("clean", False, "eval")):
        recorder = assay.lightning.Recorder(tmp_path / folder, Recording(view=view))
        trainer_of(tmp_path, [recorder]).fit(Skips(looks), DataLoader(dataset(), 4))
        assert Run(tmp_path / folder).epochs == 2 and Run(tmp_path / folder).check()


W = torch.tensor([1.0, 5.0, 0.2])


class Weighted(Module):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], weight=W)


def test_values_of_steps_need_the_loss_that_the_module_trains_on(tmp_path):
    live = Recording(live=["liveval", "aum"])
    trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "run", live)])
    with pytest.warns(UserWarning, match=r"gives cross_entropy weight, .* give data=assay\.DataSpec\(losses="):
        trainer.fit(Weighted(), DataLoader(dataset(), 4, shuffle=True))
    assert Run(tmp_path / "run").epochs == 2
    spec = assay.DataSpec(
        losses=lambda model, batch: W[batch[1]] * F.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        reduction=lambda batch: W[batch[1]].sum(),
    )
    trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "said", live, data=spec)])
    trainer.fit(Weighted(), DataLoader(dataset(), 4, shuffle=True))
    assert assay.score(tmp_path / "said", "liveval", save=False)["liveval"].values.isfinite().all()


class Smooth(Module):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.25)


def test_a_run_says_what_its_facts_are_of_and_how_it_is_taken_again(tmp_path, capsys):
    def said_of(module, data=None, **settings):
        folder = tmp_path / type(module).__name__
        callback = assay.lightning.Recorder(folder, data=data, seed=SEED)
        trainer_of(tmp_path, [callback], max_epochs=1, **settings).fit(module, DataLoader(dataset(), 4, shuffle=True))
        assert run_app(["inspect", str(folder)]) == 0
        return " ".join(capsys.readouterr().out.split())

    said = said_of(Smooth(), accumulate_grad_batches=2, gradient_clip_val=1.0)
    assert "of the logits and the given labels, without the label smoothing of 0.25" in said
    more = "accumulate=trainer.accumulate_grad_batches, clip=trainer.gradient_clip_val"
    assert f"score(run, ['sgd_influence'], loop=assay.Loop(module, trainer.optimizers[0], loader, {more}))." in said
    said = said_of(Numbers())
    assert "label smoothing" not in said
    assert "score(run, ['sgd_influence'], loop=assay.Loop(module, trainer.optimizers[0], loader, losses=losses))." in said


class Scaled(Module):
    """Draws nothing at random, and multiplies its loss."""

    def __init__(self, factor):
        super().__init__(gives="logits")
        self.net, self.factor = nn.Sequential(*[layer for layer in self.net if not isinstance(layer, nn.Dropout)]), factor

    def training_step(self, batch, batch_idx):
        given = super().training_step(batch, batch_idx)
        return {**given, "loss": self.factor * given["loss"]}


@pytest.mark.parametrize("clip", [{}, {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"}])
def test_gradients_that_lightning_makes_inside_a_step_are_compared(tmp_path, clip):
    def trained(folder, factor, **settings):
        trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / folder, Recording(live=["liveval"]))], **settings)
        trainer.fit(Scaled(factor), DataLoader(dataset(), 4, shuffle=True))
        return assay.score(tmp_path / folder, "liveval", save=False, strict=True)["liveval"].values

    assert trained("right", 1, **clip).isfinite().all()
    with pytest.warns(UserWarning, match="liveval stopped .*are 2 times those of its losses"), pytest.raises(MissingEvidence):
        trained("wrong", 2)


def test_steps_of_several_batches_are_taken_again(tmp_path):
    module, loader = Module(), DataLoader(dataset(), 4, shuffle=True)
    trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "run", seed=SEED)], accumulate_grad_batches=4)
    trainer.fit(module, loader)
    run = Run(tmp_path / "run")
    assert run.micro_batches(0) == [4, 2]
    loop = assay.Loop(module, trainer.optimizers[0], loader, accumulate=4)
    targets = {"validation": (dataset(7).tensors[0], dataset().tensors[1])}
    (scores,) = assay.score(run, "sgd_influence", loop=loop, targets=targets, save=False).values()
    assert bool((scores.values != 0).all())


def test_live_values_of_accumulated_steps_are_those_of_a_replay(tmp_path):
    def trained(folder, recording=None, data=None):
        module, loader = Scaled(1), DataLoader(dataset(), 4, shuffle=True)
        callback = assay.lightning.Recorder(tmp_path / folder, recording, data=data, seed=SEED)
        trainer = trainer_of(tmp_path, [callback], accumulate_grad_batches=4)
        trainer.fit(module, loader)
        return assay.Loop(module, trainer.optimizers[0], loader, accumulate=4)

    trained("live", Recording(live=["liveval"]), assay.DataSpec(accumulate=4))
    loop = trained("run")
    run = Run(tmp_path / "live")
    assert run.micro_batches(0) == [4, 2] and not run.stopped()
    live = assay.score(run, "liveval", save=False, strict=True)["liveval"].values
    again = assay.score(tmp_path / "run", "liveval", loop=loop, save=False)["liveval"].values
    assert live.any()
    torch.testing.assert_close(live, again, rtol=1e-5, atol=1e-7)


class Numbers(Module):
    """Learns numbers, and tells the loss of each example."""

    def training_step(self, batch, batch_idx):
        losses = (self(batch[0]) - batch[0][:, :3]).square().mean(1)
        return {"loss": losses.mean(), **({} if self.gives == "nothing" else {"losses": losses.detach()})}


def squared(model, batch):
    return (model(batch[0]) - batch[0][:, :3]).square().mean(1)


def test_losses_of_the_examples_are_recorded_and_their_training_taken_again_with_accumulation(tmp_path):
    data = assay.DataSpec(losses=squared)
    module, loader = Numbers(), DataLoader(dataset(), 4, shuffle=True)
    callback = assay.lightning.Recorder(tmp_path / "run", Recording(checkpoints="every"), data=data, seed=SEED)
    trainer = trainer_of(tmp_path, [callback], accumulate_grad_batches=4)
    trainer.fit(module, loader)
    run = Run(tmp_path / "run")
    assert run.task == "losses" and run.epochs == 2
    # The last step of an epoch is of two batches, and each is divided by four.
    loop = assay.Loop(module, trainer.optimizers[0], loader, losses=squared, accumulate=trainer.accumulate_grad_batches)
    held = dataset(9).tensors
    scores = assay.score(run, ["loss", "sgd_influence"], loop=loop, targets={"validation": held}, save=False)
    assert all(bool(scores[title].values.isfinite().all()) for title in ("loss", "sgd_influence"))
    wrong = assay.Loop(module, trainer.optimizers[0], loader, losses=squared, accumulate="batches")
    with pytest.raises(Mismatch):
        assay.score(run, "sgd_influence", loop=wrong, targets={"validation": held}, save=False)
    silent = assay.lightning.Recorder(tmp_path / "silent", data=assay.DataSpec(task="losses", losses=squared))
    with pytest.raises(
        UsageError, match=r"Numbers.training_step returns no losses of the examples, .* return \{'loss': loss, 'losses': losses\}"
    ):
        trainer_of(tmp_path, [silent]).fit(Numbers("nothing"), loader)


class Tags(Module):
    """One of three classes for each of two tokens, the second of which may not count; tells the mean loss of each example's tokens."""

    def __init__(self):
        super().__init__()
        self.net[3] = nn.Linear(8, 6)

    def training_step(self, batch, batch_idx):
        losses = token_means(self, batch)
        return {"loss": losses.mean(), "losses": losses.detach()}


def token_means(model, batch):
    x, y = batch
    labels = torch.stack([y, ((y + 1) % 3).masked_fill(x[:, 0] > 0, -100)], 1)
    return assay.token_losses(model(x).unflatten(1, (2, 3)), labels)


def test_losses_of_tokens_are_those_of_a_plain_loop(tmp_path):
    data = assay.DataSpec(losses=token_means)
    torch.manual_seed(2)
    module, own = Tags(), Tags()
    own.load_state_dict(module.state_dict())
    trainer = trainer_of(tmp_path, [assay.lightning.Recorder(tmp_path / "callback", data=data, seed=SEED)])
    trainer.fit(module, DataLoader(dataset(), 4, shuffle=True))
    optimizer, loader = own.configure_optimizers(), DataLoader(dataset(), 4, shuffle=True)
    with assay.record(tmp_path / "plain", own, optimizer, loader, data=data, seed=SEED) as recorder:
        for _ in range(2):
            for batch in recorder.epoch():
                losses = token_means(own, batch)
                optimizer.zero_grad()
                losses.mean().backward()
                optimizer.step()
                recorder.losses(losses)
    run, same = Run(tmp_path / "callback"), Run(tmp_path / "plain")
    assert run.task == same.task == "losses" and run.epochs == 2 and shards(run) == shards(same)


class Several(Module):
    def training_step(self, batch, batch_idx):
        labels = (batch[0][:, :3] > 0).float()
        logits = self(batch[0])
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels), "logits": logits, "labels": labels}


def test_several_labels_for_each_example(tmp_path):
    callback = assay.lightning.Recorder(tmp_path / "run", data=assay.DataSpec(task="labels"))
    trainer_of(tmp_path, [callback]).fit(Several(), DataLoader(dataset(), 4, shuffle=True))
    run = Run(tmp_path / "run")
    assert run.task == "labels" and torch.equal(run.label_matrix().float(), (dataset().tensors[0][:, :3] > 0).float())
