"""The recorder in Hugging Face's Trainer: facts are those of a plain loop over the same batches to the bit, and training goes on as if nobody recorded."""

import contextlib
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import assay
from assay.cli.app import run_app
from assay.core.errors import Mismatch, OutputExists, UsageError
from assay.integrations.batch_keys import NAME
from assay.integrations.data_spec import DataSpec
from assay.runs.recording import Recording
from assay.runs.run import Run
from integrations.texts import Texts, bert, padded

transformers = pytest.importorskip("transformers")
huggingface = pytest.importorskip("assay.integrations.huggingface")
pytestmark = [
    pytest.mark.slow,
    # What the libraries themselves warn of is theirs.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*is not recorded"),
    pytest.mark.filterwarnings("error:.*gradients of your loop"),
    pytest.mark.filterwarnings("error:.*another state of the optimizer"),
]
SEED = 5
NEW = int(transformers.__version__.split(".")[0]) >= 5


def arguments(folder, **settings):
    chosen = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return transformers.TrainingArguments(str(folder), **{**chosen, **settings})


class Halved(transformers.Trainer):
    """Computes a loss of its own, of named inputs."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = F.nll_loss(F.log_softmax(outputs.logits, 1), inputs["labels"]) / 2
        return (loss, outputs) if return_outputs else loss


class Wordy(transformers.Trainer):
    """Overrides what subclasses for fine-tuning override, and calls the original."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen = getattr(self, "seen", 0) + 1
        assert NAME not in inputs
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


def trainer_of(folder, kind=transformers.Trainer, dataset=None, model=None, **settings):
    more = {
        name: settings.pop(name)
        for name in ("compute_loss_func", "callbacks", "eval_dataset", "data_collator", "optimizers")
        if name in settings
    }
    more.setdefault("data_collator", padded)
    # A loader for evaluation draws a number, which moves on what dropout draws.
    model = model or bert(dropout=0.0 if "eval_steps" in settings else 0.1)
    return kind(model, arguments(folder / "hf", **settings), train_dataset=dataset or Texts(), **more)


def plain(folder, trainer, accumulate=1, recording=None, data=None):
    """The same training as a loop of one's own over the Trainer's own loader."""
    loader, model = trainer.get_train_dataloader(), trainer.model
    steps = -(-len(loader) // accumulate) * int(trainer.args.num_train_epochs)
    trainer.create_optimizer_and_scheduler(steps)
    if data is None:
        smoothing = trainer.args.label_smoothing_factor
        forward = huggingface.NamedForward(("labels", "label", "label_ids"))
        data = DataSpec(
            losses=huggingface.SmoothedLosses(forward, smoothing) if smoothing else huggingface.cross_entropies_of(forward)
        )
    divides = not trainer.model_accepts_loss_kwargs and trainer.compute_loss_func is None
    model = trainer.accelerator.prepare(model)
    with assay.record(folder, model, trainer.optimizer, loader, recording, data=data, seed=SEED) as recorder:
        for epoch in range(int(trainer.args.num_train_epochs)):
            huggingface.EpochsBegin(loader)(epoch)
            model.train()
            model.zero_grad()
            for number, batch in enumerate(recorder.epoch(), 1):
                count = torch.tensor(float(len(batch["labels"])))
                with trainer.compute_loss_context_manager():
                    loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True, num_items_in_batch=count)
                # Which versions say so of which models differs, so the Trainer is asked.
                steps = min(accumulate, len(loader) - (number - 1) // accumulate * accumulate)
                (loss / steps if divides else loss).backward()
                recorder.batch(outputs.logits, batch["labels"])
                if number % accumulate == 0 or number == len(loader):
                    nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
                    trainer.optimizer.step()
                    trainer.lr_scheduler.step()
                    model.zero_grad()
    return Run(folder)


def assert_same(run, other, model, same):
    assert run.epochs == other.epochs == 2 and run.fingerprint == other.fingerprint
    for commit, twin in zip(run.commits, other.commits, strict=True):
        assert commit.shard.sums == twin.shard.sums and commit.autocast == twin.autocast
    for (name, value), twin in zip(model.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(value, twin), name


def mean_loss(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs.logits, labels, reduction="sum") / 4


CASES = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 4},
    "workers": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
    "length": {"train_sampling_strategy": "group_by_length"} if NEW else {"group_by_length": True},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": Texts(9, 40)},
    "bf16": {"bf16": True},
    "smoothing": {"label_smoothing_factor": 0.1},
    "named": {"kind": Halved},
    "subclass": {"kind": Wordy, "gradient_accumulation_steps": 2},
    "own loss": {"compute_loss_func": mean_loss},
}


@pytest.mark.parametrize("name", CASES)
def test_facts_and_weights_are_those_of_a_plain_loop(tmp_path, name):
    trainer = trainer_of(tmp_path, **CASES[name])
    assay.attach(trainer, tmp_path / "attached", seed=SEED)
    trainer.train()
    other = trainer_of(tmp_path, **CASES[name])
    run = plain(tmp_path / "plain", other, other.args.gradient_accumulation_steps)
    assert_same(Run(tmp_path / "attached"), run, trainer.model, other.model)


@pytest.mark.parametrize("name", ["plain", "accumulation", "smoothing", "evaluation", "workers", "bf16"])
def test_the_callback_records_what_attach_records(tmp_path, name):
    callback = assay.huggingface.Recorder(tmp_path / "callback", seed=SEED)
    settings = {key: value for key, value in CASES[name].items() if key != "kind"}
    one = trainer_of(tmp_path, callbacks=[callback], **settings)
    one.train()
    two = trainer_of(tmp_path, **settings)
    assay.attach(two, tmp_path / "attached", seed=SEED)
    two.train()
    assert_same(Run(tmp_path / "callback"), Run(tmp_path / "attached"), one.model, two.model)
    assert NAME not in next(iter(one.get_train_dataloader())) and NAME not in next(iter(two.get_train_dataloader()))


def test_a_dataset_of_the_library_and_its_own_collator(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{**padded([item]), "text": f"text {number}"} for number, item in enumerate(Texts().items)]
    dataset = datasets.Dataset.from_list(
        [
            {"input_ids": (row["input_ids"][0].tolist() + [0] * 9)[:9], "label": int(row["labels"]), "text": row["text"]}
            for row in rows
        ]
    )
    trainer = trainer_of(tmp_path, dataset=dataset, data_collator=transformers.default_data_collator)
    assay.attach(trainer, tmp_path / "run", data=DataSpec(ids=dataset["text"]))
    trainer.train()
    run = Run(tmp_path / "run")
    assert run.ids.values[3] == "text 3" and run.labels.tolist() == dataset["label"]


@pytest.mark.parametrize("view", ["train", "eval"])
def test_live_values_and_the_clean_pass_are_those_of_a_plain_loop(tmp_path, view):
    recording = Recording(view=view, live=["aum", "liveval"])
    runs = []
    for form in ("attach", "callback"):
        callbacks = [assay.huggingface.Recorder(tmp_path / form, recording, seed=SEED)] if form == "callback" else []
        trainer = trainer_of(tmp_path, callbacks=callbacks)
        if form == "attach":
            assay.attach(trainer, tmp_path / form, recording, seed=SEED)
        trainer.train()
        runs.append(Run(tmp_path / form))
    other = trainer_of(tmp_path)
    forward = huggingface.NamedForward(("labels", "label", "label_ids"))
    data = DataSpec(losses=huggingface.cross_entropies_of(forward), forward=forward if view == "eval" else None)
    run = plain(tmp_path / "plain", other, recording=recording, data=data)
    for one in runs:
        assert one.fingerprint == run.fingerprint
        for title in ("aum", "liveval"):
            values, same = (assay.score(each, title, save=False)[title].values for each in (one, run))
            assert torch.equal(values, same)


@pytest.mark.parametrize("form", ["attach", "callback"])
def test_live_values_of_accumulated_steps_are_those_of_a_replay(tmp_path, form):
    def trained(folder, recording=None, data=None):
        callback = assay.huggingface.Recorder(tmp_path / folder, recording, data=data, seed=SEED)
        trainer = trainer_of(tmp_path, callbacks=[callback] if form == "callback" else [], gradient_accumulation_steps=3)
        attached = None if form == "callback" else assay.attach(trainer, tmp_path / folder, recording, data=data, seed=SEED)
        trainer.train()
        return attached

    attached = trained("run")
    loop = attached.loop() if attached else huggingface.loop_of(trainer_of(tmp_path, gradient_accumulation_steps=3))
    trained("live", Recording(live=["liveval"]), DataSpec(accumulate=loop.accumulate))
    run = Run(tmp_path / "live")
    assert max(run.micro_batches(0)) == 3 and not run.stopped() and run.fingerprint == Run(tmp_path / "run").fingerprint
    again = assay.score(tmp_path / "run", "liveval", loop=loop, save=False)["liveval"]
    torch.testing.assert_close(assay.score(run, "liveval", save=False)["liveval"].values, again.values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form", ["attach", "callback"])
def test_without_a_seed_training_ends_as_if_nobody_recorded(tmp_path, form):
    weights = []
    for recorded in (False, True):
        callbacks = [assay.huggingface.Recorder(tmp_path / "run")] if recorded and form == "callback" else []
        trainer = trainer_of(
            tmp_path, callbacks=callbacks, eval_strategy="epoch", eval_dataset=Texts(9, 40), gradient_accumulation_steps=2
        )
        if recorded and form == "attach":
            assay.attach(trainer, tmp_path / "run", Recording(live=["aum"]))
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    assert Run(tmp_path / "run").epochs == 2


def test_the_clean_pass_is_recorded_with_drop_last_and_batches_of_dicts(tmp_path):
    trainer = trainer_of(tmp_path, dataloader_drop_last=True)
    assay.attach(trainer, tmp_path / "run", Recording(view="eval"))
    trainer.train()
    run = Run(tmp_path / "run")
    trainer.model.eval()
    batch = padded(Texts().items)
    with torch.no_grad():
        losses = F.cross_entropy(trainer.model(**batch).logits, batch["labels"], reduction="none")
    torch.testing.assert_close(run.shard(1).read("losses"), losses, atol=1e-5, rtol=1e-5)
    assert run.epochs == 2 and run.commits[0].steps == 5


class Stops(transformers.TrainerCallback):
    def __init__(self, at):
        self.at = at

    def on_step_end(self, args, state, control, **more):
        control.should_training_stop = state.global_step == self.at


@pytest.mark.parametrize("form", ["attach", "callback"])
def test_a_resumed_training_goes_on_with_its_run(tmp_path, form):
    def trained(folder, resume=None, stop=None):
        callback = assay.huggingface.Recorder(tmp_path / folder, seed=SEED)
        trainer = trainer_of(
            tmp_path / f"of {folder}",
            callbacks=[*([callback] if form == "callback" else []), *([Stops(stop)] if stop else [])],
            num_train_epochs=4,
            save_strategy="epoch",
        )
        if form == "attach":
            assay.attach(trainer, tmp_path / folder, seed=SEED)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = trained("whole")
    trained("parts", stop=12)
    assert Run(tmp_path / "parts").epochs == 2
    again = trained("parts", resume=True)
    run, other = Run(tmp_path / "parts"), Run(tmp_path / "whole")
    assert run.epochs == 4 and run.fingerprint == other.fingerprint
    assert [one.shard.sums for one in run.commits] == [one.shard.sums for one in other.commits]
    assert all(
        torch.equal(a, b) for a, b in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
    )
    with pytest.raises(
        Mismatch,
        match=r"holds 4 epochs, and the trainer goes on in epoch 2 \(counted from 0\); resume the trainer from its checkpoint",
    ):
        trained("parts", resume=str(tmp_path / "of parts/hf/checkpoint-12"))
    with pytest.raises(
        OutputExists,
        match=r"already holds a run; record into another folder, or go on with it by trainer\.train\(resume_from_checkpoint",
    ):
        trained("parts")


def test_a_training_that_goes_on_without_its_optimizer_s_state_is_told(tmp_path):
    def trained(resume=None, stop=None):
        stops = [Stops(stop)] if stop else []
        trainer = trainer_of(tmp_path, callbacks=stops, num_train_epochs=3, save_strategy="epoch", save_only_model=True)
        assay.attach(trainer, tmp_path / "run", seed=SEED)
        trainer.train(resume_from_checkpoint=resume)

    trained(stop=6)
    with pytest.warns(
        UserWarning,
        match=r"goes on with another state of the optimizer than .*run ended epoch 0 with \(step of parameter 0\): what is",
    ):
        trained(resume=True)
    assert Run(tmp_path / "run").epochs == 3


class Lists(torch.optim.SGD):
    """Keeps lists and more of each parameter, as LBFGS and Shampoo do."""

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for value in group["params"]:
                self.state[value]["last"] = [
                    {"sum": value.detach().sum(0)},
                    {"counts": (1, 2.5, float("nan"))},
                    [value.detach().clone()],
                ]
        return loss


@pytest.mark.parametrize("change", ["none", "another number", "nothing there"])
def test_optimizers_that_keep_more_than_tensors_are_compared(tmp_path, change):
    def trained(resume=None, stop=None):
        model, stops = bert(), [Stops(stop)] if stop else []
        optimizers = (Lists(model.parameters(), lr=0.01), None)
        trainer = trainer_of(
            tmp_path, model=model, optimizers=optimizers, callbacks=stops, num_train_epochs=2, save_strategy="epoch"
        )
        assay.attach(trainer, tmp_path / "run", seed=SEED)
        trainer.train(resume_from_checkpoint=resume)

    trained(stop=6)
    if change != "none":
        file = tmp_path / "hf/checkpoint-6/optimizer.pt"
        state = torch.load(file)
        (held,) = state["state"][3]["last"][2]
        state["state"][3]["last"][2] = [held + 1 if change == "another number" else None]
        torch.save(state, file)
    with (
        contextlib.nullcontext()
        if change == "none"
        else pytest.warns(UserWarning, match=r"ended epoch 0 with \(last of parameter 3\)")
    ):
        trained(resume=True)
    assert Run(tmp_path / "run").epochs == 2


@pytest.mark.parametrize("form", ["attach", "callback"])
def test_two_recorders_in_one_trainer_are_refused_before_the_second_writes(tmp_path, form):
    second = assay.huggingface.Recorder(tmp_path / "two")
    trainer = trainer_of(tmp_path, callbacks=[assay.huggingface.Recorder(tmp_path / "one")] if form == "callback" else [])
    if form == "attach":
        assay.attach(trainer, tmp_path / "one")
    trainer.add_callback(second)
    with pytest.raises(UsageError, match="recorded already, by another recorder; leave one of the two out"):
        trainer.train()
    assert not (tmp_path / "two").exists()


@pytest.mark.filterwarnings("default:.*is not recorded")
def test_an_epoch_of_two_processes_is_left_with_a_warning_and_the_next_is_recorded(tmp_path):
    def trained(resume=None, stop=None, folder="run", epochs=3):
        trainer = trainer_of(
            tmp_path, callbacks=[Stops(stop)] if stop else [], num_train_epochs=epochs, save_strategy="steps", save_steps=2
        )
        if folder:
            assay.attach(trainer, tmp_path / folder)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    with pytest.warns(
        UserWarning, match=r"Epoch 1 of .* was left after 2 batches and is not recorded .*; let the Trainer train on every batch"
    ):
        trained(stop=8)
    with pytest.warns(
        UserWarning,
        match=r"Epoch 1 of .* was left after 4 batches and is not recorded .*; the trainer went on in its middle, from a checkpoint",
    ):
        again = trained(resume=True)
    assert Run(tmp_path / "run").epochs == 2
    # The run is an epoch short of the training, and goes on from its end nevertheless.
    trained(resume=True, epochs=4)
    assert Run(tmp_path / "run").epochs == 3
    with pytest.raises(Mismatch, match="holds 3 epochs, and the trainer goes on in epoch 0"):
        trained(resume=str(tmp_path / "hf/checkpoint-4"))
    # The trainer's own checkpoint was gone on with, and not the state at the end of the run's last epoch.
    torch.testing.assert_close(
        again.model.state_dict(),
        trained(resume=str(tmp_path / "hf/checkpoint-8"), folder=None).model.state_dict(),
        rtol=0,
        atol=0,
    )


def test_methods_that_take_the_training_again(tmp_path):
    trainer = trainer_of(tmp_path, max_grad_norm=0.5, label_smoothing_factor=0.1)
    attached = assay.attach(trainer, tmp_path / "run", Recording(checkpoints="every", live=["liveval"]), seed=SEED)
    trainer.train()
    held = padded(Texts(8, 40).items)
    targets = {"validation": lambda model: F.cross_entropy(model(**held).logits, held["labels"])}
    methods = ["sgd_influence", "grand", "tracin", "liveval"]
    scores = assay.score(tmp_path / "run", methods, loop=attached.loop(), targets=targets, save=False)
    assert all(bool(scores[name].values.isfinite().all()) for name in methods)
    # A trainer that is built anew gives the same training.
    fresh = huggingface.loop_of(trainer_of(tmp_path, max_grad_norm=0.5, label_smoothing_factor=0.1))
    again = assay.score(tmp_path / "run", methods[:1], loop=fresh, targets=targets, save=False)
    assert torch.equal(again["sgd_influence"].values, scores["sgd_influence"].values)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_what_the_callback_recorded_is_taken_again_by_a_trainer_that_is_built_anew(tmp_path, accumulate):
    def trainer(folder=None):
        kept = Recording(checkpoints="every")
        callbacks = [assay.huggingface.Recorder(folder, kept, seed=SEED)] if folder else []
        return trainer_of(tmp_path, callbacks=callbacks, gradient_accumulation_steps=accumulate)

    trainer(tmp_path / "run").train()
    held = padded(Texts(8, 40).items)
    targets = {"validation": lambda model: F.cross_entropy(model(**held).logits, held["labels"])}
    loop = huggingface.loop_of(trainer())
    scores = assay.score(tmp_path / "run", ["sgd_influence", "grand"], loop=loop, targets=targets, save=False)
    assert all(bool(each.values.isfinite().all()) and bool(each.values.any()) for each in scores.values())


def test_what_a_trainer_saved_becomes_the_run_that_was_recorded_beside_it(tmp_path):
    settings = {"save_strategy": "epoch", "logging_strategy": "epoch", "num_train_epochs": 3}
    trainer = trainer_of(tmp_path, **settings)
    assay.attach(trainer, tmp_path / "recorded", Recording(view="eval", keep_logits=True, checkpoints="every"), seed=SEED)
    trainer.train()
    texts = DataLoader(Texts(), 4, collate_fn=padded)
    data = DataSpec(forward=huggingface.NamedForward(("labels",)))
    saved = assay.from_checkpoints(tmp_path / "saved", bert(), texts, tmp_path / "hf", data=data)
    recorded = Run(tmp_path / "recorded")
    assert saved.epochs == recorded.epochs == 3
    for epoch in range(3):
        assert all(torch.equal(value, saved.model(epoch)[name]) for name, value in recorded.model(epoch).items())
    # What was logged at the end of an epoch: the rate of its last step.
    assert [float(saved.saved_rates(epoch)) for epoch in range(3)] == pytest.approx([0.01 * part / 18 for part in (13, 7, 1)])
    ours, theirs = assay.score(saved, ["aum", "loss"], save=False), assay.score(recorded, ["aum", "loss"], save=False)
    for title, scores in ours.items():
        # Texts stand in other batches, so that others are padded.
        torch.testing.assert_close(scores.values, theirs[title].values, rtol=1e-4, atol=1e-5)
    model = bert()
    loop = assay.Loop(model, torch.optim.AdamW(model.parameters()), texts, forward=data.forward)
    assert assay.score(saved, "tracin:target=self", loop=loop, save=False)["tracin:target=self"].values.isfinite().all()


class Told(nn.Module):
    """Cannot be called without labels."""

    def __init__(self):
        super().__init__()
        self.inner = bert(dropout=0.0)

    def forward(self, input_ids, attention_mask, labels):
        outputs = self.inner(input_ids=input_ids, attention_mask=attention_mask)
        return {"loss": F.cross_entropy(outputs.logits, labels), "logits": outputs.logits}


class Untold(Told):
    def forward(self, input_ids, attention_mask, labels=None):
        if labels is None:
            return {"logits": self.inner(input_ids=input_ids, attention_mask=attention_mask).logits}
        return super().forward(input_ids, attention_mask, labels)


@pytest.mark.parametrize("view", ["train", "eval"])
def test_a_model_that_cannot_be_called_without_labels_is_given_them(tmp_path, view):
    found = []
    for model in (Told(), Untold()):
        folder = tmp_path / type(model).__name__
        trainer = trainer_of(tmp_path, model=model)
        attached = assay.attach(trainer, folder, Recording(view=view, checkpoints="every"), seed=SEED)
        trainer.train()
        scores = assay.score(folder, ["grand", "tracin:target=self", "vog"], loop=attached.loop(), save=False)
        found.append(([one.shard.sums for one in Run(folder).commits], scores))
    assert found[0][0] == found[1][0]
    for title, scores in found[0][1].items():
        assert torch.equal(scores.values, found[1][1][title].values) and bool(scores.values.any())


class Pictures(Dataset):
    """22 pictures of 16 by 16 in three classes, and what a model does not take."""

    def __init__(self):
        self.pixels = torch.randn(22, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": index % 3, "file": f"{index}.png"}


def pictured(items):
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": torch.tensor([item["labels"] for item in items]),
    }


def vit():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3))


@pytest.mark.parametrize("removes", [True, False], ids=["columns removed", "columns kept"])
def test_pictures_are_recorded_and_their_training_taken_again(tmp_path, removes):
    collates = transformers.default_data_collator if removes else pictured

    def trained(folder, form):
        callbacks = [assay.huggingface.Recorder(folder, Recording(checkpoints="every"), seed=SEED)]
        trainer = trainer_of(
            tmp_path,
            dataset=Pictures(),
            model=vit(),
            data_collator=collates,
            remove_unused_columns=removes,
            callbacks=callbacks if form == "callback" else [],
        )
        attached = assay.attach(trainer, folder, Recording(checkpoints="every"), seed=SEED) if form == "attach" else None
        trainer.train()
        return attached.loop() if attached else trainer.model

    model, loop = trained(tmp_path / "callback", "callback"), trained(tmp_path / "run", "attach")
    run = Run(tmp_path / "run")
    assert run.epochs == 2 and run.labels.tolist() == [number % 3 for number in range(22)]
    assert run.fingerprint == Run(tmp_path / "callback").fingerprint
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loop.model.state_dict().values(), strict=True))
    held = pictured([Pictures()[number] for number in range(4)])
    targets = {"validation": lambda model: F.cross_entropy(model(pixel_values=held["pixel_values"]).logits, held["labels"])}
    scores = assay.score(run, ["sgd_influence", "vog", "grand"], loop=loop, targets=targets, save=False)
    assert all(bool(each.values.isfinite().all()) and bool(each.values.any()) for each in scores.values())


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Texts().items)


class Silent(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        return super().compute_loss(model, inputs, **kwargs)


class Twice(transformers.Trainer):
    def training_step(self, model, inputs, *args, **kwargs):
        super().training_step(model, inputs, *args, **kwargs)
        return super().training_step(model, inputs, *args, **kwargs)


class Alone(transformers.Trainer):
    def training_step(self, model, inputs, *args, **kwargs):
        loss = model(**inputs).loss
        loss.backward()
        return loss.detach()


class Anew(transformers.Trainer):
    def get_batch_samples(self, *args, **kwargs):
        batches, count = super().get_batch_samples(*args, **kwargs)
        return [{name: batch[name] for name in ("input_ids", "labels", "attention_mask")} for batch in batches], count


BEFORE = {
    "iterable": ({"dataset": Stream(), "max_steps": 4}, "The train dataset is a Stream, which has no stable ids"),
    "drop_last": (
        {"dataloader_drop_last": True},
        "dataloader_drop_last=True leaves 2 of 22 examples out of every epoch; set it to False, or record with",
    ),
    "auto batch": ({"auto_find_batch_size": True}, "auto_find_batch_size=True begins the training again"),
}
DURING = {
    "no outputs": (
        Silent,
        r"Silent.compute_loss returns no logits when it is asked for outputs .*; return \(loss, outputs\) .* or record with",
    ),
    "twice": (Twice, "Twice.compute_loss is called twice for a batch"),
    "no loss": (
        Alone,
        "Alone.training_step does not call compute_loss, so there are no logits to record; call it, or record with",
    ),
    "made anew": (Anew, "A batch of Anew carries no ids: it was made again on the way from the loader"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_cannot_be_recorded_is_refused_before_training(tmp_path, name):
    settings, words = BEFORE[name]
    with pytest.raises(UsageError, match=words):
        assay.attach(trainer_of(tmp_path, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", DURING)
def test_what_a_subclass_hides_is_refused_in_the_first_step(tmp_path, name):
    kind, words = DURING[name]
    trainer = trainer_of(tmp_path, kind)
    attached = assay.attach(trainer, tmp_path / "run")
    with pytest.raises(UsageError, match=words):
        trainer.train()
    # Nothing is held on to, and without the recorder it trains.
    attached.detach()
    assert "training_step" not in vars(trainer)
    # What is mended is recorded in the same folder.
    mended = trainer_of(tmp_path)
    assay.attach(mended, tmp_path / "run")
    mended.train()
    assert Run(tmp_path / "run").epochs == 2


def pair(items):
    made = padded(items)
    return made["input_ids"], made["labels"]


class Pairs(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(input_ids=inputs[0])
        loss = F.cross_entropy(outputs.logits, inputs[1])
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, iterator, number, device):
        return list(itertools.islice(iterator, number)), None


def test_batches_that_are_tuples_are_recorded_by_attach_and_refused_by_the_callback(tmp_path):
    trainer = trainer_of(tmp_path, Pairs, data_collator=pair)
    attached = assay.attach(trainer, tmp_path / "run")
    trainer.train()
    attached.detach()
    assert Run(tmp_path / "run").epochs == 2
    # In a worker too, whose errors torch raises anew.
    for workers in (0, 1):
        recorder = assay.huggingface.Recorder(tmp_path / f"callback {workers}")
        other = trainer_of(tmp_path, Pairs, data_collator=pair, callbacks=[recorder], dataloader_num_workers=workers)
        with pytest.raises(UsageError) as refused:
            other.train()
        assert str(refused.value) == (
            "The collator makes a tuple of a batch, and the callback records batches that are dicts; let it return a dict, or use "
            "assay.attach(trainer, folder)."
        )
    trainer.train()


@pytest.mark.parametrize("form", ["attach", "callback"])
def test_a_collator_that_loses_a_row_is_named(tmp_path, form):
    callbacks = [assay.huggingface.Recorder(tmp_path / "run")] if form == "callback" else []
    trainer = trainer_of(tmp_path, callbacks=callbacks, data_collator=lambda items: padded(items[:-1]))
    if form == "attach":
        assay.attach(trainer, tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"logits of shape \(3, 3\) do not fit a batch of 4 examples, as where collate_fn leaves items out"
    ):
        trainer.train()


def test_more_refusals(tmp_path):
    trainer = trainer_of(tmp_path)
    assay.attach(trainer, tmp_path / "run")
    with pytest.raises(UsageError, match=r"This trainer is recorded already; call detach\(\)"):
        assay.attach(trainer, tmp_path / "other")
    with pytest.raises(UsageError, match="attach: trainer= is a Linear without get_train_dataloader"):
        assay.attach(nn.Linear(2, 2), tmp_path / "other")
    with pytest.raises(
        UsageError, match="Halved computes a loss of its own, and liveval values its steps; give the loss of each example"
    ):
        assay.attach(trainer_of(tmp_path, Halved), tmp_path / "other", Recording(live=["liveval", "aum"]))
    with pytest.raises(UsageError, match="Halved computes a loss of its own; give the loss of each example as losses="):
        huggingface.loop_of(trainer_of(tmp_path, Halved))
    with pytest.raises(UsageError, match="Nothing is being recorded"):
        assay.huggingface.Recorder(tmp_path / "other").recorder  # noqa: B018
    callback = trainer_of(tmp_path, Halved, callbacks=[assay.huggingface.Recorder(tmp_path / "callback")])
    with pytest.raises(
        UsageError, match=r"The model was not called with the whole batch, in which 'assay_keys' is, .* use assay.attach"
    ):
        callback.train()


def test_another_version_is_refused_in_words(tmp_path, monkeypatch):
    def unknown(lacks):
        return pytest.raises(UsageError, match=rf"This version of transformers.* has no {lacks}, .* tested, 4\.57 and 5\.24")

    trainer = trainer_of(tmp_path)
    callback = assay.huggingface.Recorder(tmp_path / "callback")
    with unknown("train_dataloader among what it tells callbacks in on_train_begin"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model, optimizer=object())
    with monkeypatch.context() as patched:
        patched.delattr(transformers.Trainer, "get_batch_samples")
        with unknown("get_batch_samples in Trainer"):
            huggingface.loop_of(trainer)
    del trainer.args.auto_find_batch_size
    monkeypatch.delattr(transformers.TrainingArguments, "auto_find_batch_size", raising=False)
    with unknown("auto_find_batch_size in TrainingArguments"):
        assay.attach(trainer, tmp_path / "run")
    del trainer.callback_handler
    with unknown("callback_handler in Trainer"):
        assay.attach(trainer, tmp_path / "run")


def read_loss(model):
    batch = padded(Texts(6, 50).items)
    labels = batch.pop("labels")
    return F.cross_entropy(model(**batch).logits, labels)


class Unaware(transformers.BertForSequenceClassification):
    """Takes no more than it names, so that the Trainer divides its loss."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def counted(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def each(model, batch):
    logits = model(**{name: part for name, part in batch.items() if name != "labels"}).logits
    return F.cross_entropy(logits, batch["labels"], reduction="none")


@pytest.mark.parametrize(
    ("kind", "settings", "fields"),
    [
        (Unaware, {}, {"accumulate": "batches"}),
        (None, {"compute_loss_func": counted}, {"reduction": "sum"}),
    ],
    ids=["the Trainer divides", "the loss divides"],
)
def test_steps_of_several_batches_are_taken_again(tmp_path, kind, settings, fields):
    # 22 examples in batches of 4: the last step has two batches, and the last batch fewer examples.
    model = bert(dropout=0.0)
    model.__class__ = kind or type(model)
    trainer = trainer_of(tmp_path, model=model, gradient_accumulation_steps=4, optim="sgd", **settings)
    attached = assay.attach(trainer, tmp_path / "run", seed=SEED)
    trainer.train()
    assert Run(tmp_path / "run").micro_batches(0) == [4, 2]
    loop = attached.loop(**({"losses": each} if settings else {}))
    assert {name: getattr(loop, name) for name in fields} == fields
    scores = assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets={"validation": read_loss})["sgd_influence"]
    assert len(scores.ids) == 22 and bool((scores.values != 0).all())


def smoothed(folder, form):
    own = {"compute_loss_func": mean_loss} if form == "own loss" else {}
    callbacks = [assay.huggingface.Recorder(folder, seed=SEED)] if form == "callback" else []
    trainer = trainer_of(folder.parent, callbacks=callbacks, num_train_epochs=1, label_smoothing_factor=0.25, **own)
    if form != "callback":
        assay.attach(trainer, folder, seed=SEED)
    trainer.train()


@pytest.mark.parametrize(
    ("form", "loop"),
    [("attach", "attached.loop() or assay.huggingface.loop_of(trainer)"), ("callback", "assay.huggingface.loop_of(trainer)")],
)
def test_a_run_says_what_its_facts_are_of_and_how_it_is_taken_again(tmp_path, capsys, form, loop):
    smoothed(tmp_path / "run", form)
    assert run_app(["inspect", str(tmp_path / "run")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of the logits and the given labels, without the label smoothing of 0.25" in said
    assert f"of your trainer; in Python, name it: score(run, ['sgd_influence'], loop={loop})." in said
    with pytest.raises(UsageError, match=f"in Python, call with loop={re.escape(loop)}, targets="):
        assay.score(tmp_path / "run", "sgd_influence")
    assert run_app(["score", str(tmp_path / "run"), "loss"]) == 0
    assert capsys.readouterr().out.count("without the label smoothing of 0.25") == 1


def test_nothing_is_said_of_smoothing_where_the_loss_is_not_the_trainers(tmp_path):
    smoothed(tmp_path / "run", "own loss")
    assert Run(tmp_path / "run").smoothing == ""


class Numbered(Texts):
    """Labels that are 0 and 1, as numbers."""

    def __getitem__(self, index):
        return {**self.items[index], "labels": float(index % 2)}


def numbered(items):
    batch = padded([{**item, "labels": 0} for item in items])
    return batch | {"labels": torch.tensor([item["labels"] for item in items])}


def numbers(folder, recorder=None, **settings):
    given = {"dataset": Numbered(), "model": bert(dropout=0.0, classes=1), "data_collator": numbered}
    return trainer_of(folder, callbacks=[recorder] if recorder else [], **{**given, **settings})


def test_predicted_numbers_are_recorded_by_their_losses(tmp_path):
    trainer = numbers(tmp_path)
    assay.attach(trainer, tmp_path / "attached")
    trainer.train()
    assert Run(tmp_path / "attached").task == "losses"
    spec = DataSpec(task="losses", losses=lambda model, batch: (model(**batch).logits[:, 0] - batch["labels"]).square())
    trainer = numbers(tmp_path)
    assay.attach(trainer, tmp_path / "losses", Recording(view="eval"), data=spec)
    trainer.train()
    assert Run(tmp_path / "losses").task == "losses"

    def binary(outputs, labels, num_items_in_batch=None):
        return F.binary_cross_entropy_with_logits(outputs.logits[:, 0], labels)

    trainer = numbers(tmp_path, compute_loss_func=binary)
    with pytest.raises(UsageError, match=r"give data=assay\.DataSpec\(task='losses', losses="):
        assay.attach(trainer, tmp_path / "binary")
        trainer.train()


def test_an_epoch_is_recorded_as_it_is_drawn(tmp_path):
    trainer = trainer_of(tmp_path, dataloader_drop_last=True)
    assay.attach(trainer, tmp_path / "run", data=DataSpec(visits="any", labels=[item["labels"] for item in Texts().items]))
    trainer.train()
    assert [int(Run(tmp_path / "run").visits_in(epoch).sum()) for epoch in range(2)] == [20, 20]


def test_live_values_of_several_labels_are_of_their_losses(tmp_path):
    class Several(Texts):
        def __getitem__(self, index):
            return {**self.items[index], "labels": [float(self.items[index]["labels"] == label) for label in range(3)]}

    model = bert(dropout=0.0)
    model.config.problem_type = "multi_label_classification"
    trainer = trainer_of(tmp_path, dataset=Several(), model=model, data_collator=numbered)
    # One label of each is 1, as in soft labels.
    assay.attach(trainer, tmp_path / "run", Recording(live=["liveval"]), data=DataSpec(task="labels"))
    trainer.train()
    assert Run(tmp_path / "run").label_matrix().sum() == 22
    assert assay.score(tmp_path / "run", "liveval")["liveval"].values.isfinite().all()
