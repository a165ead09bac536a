"""An epoch driven by a trainer's events gives what one gives that a loop iterates: facts, order, steps and states, to the bit."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

import assay
from assay.core.errors import UsageError
from assay.integrations.batch_keys import NAME, DictCollate, check_one_label, labels_in, logits_of, taken
from assay.integrations.pytorch import record
from assay.replay.keyed import keyed_copy
from assay.runs.recording import Recording
from assay.runs.run import Run
from integrations.test_loops import data, net


def pushed(folder, *, ahead=1, accumulate=1, epochs=2, stop=None, workers=0, **recording):
    """Trains as a trainer does that fetches some batches ahead and steps once for several."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    loader = DataLoader(data(), 4, shuffle=True, num_workers=workers)
    recorder = record(folder, model, optimizer, loader, Recording(**recording), seed=3)
    keyed = keyed_copy(loader, lasting_workers=False)
    recorder.keyed(keyed)
    for epoch in range(epochs):
        recorder.begin_epoch()
        batches, number = iter(keyed), 0
        while fetched := [batch for _, batch in zip(range(ahead), batches, strict=False)]:
            for batch in fetched:
                x, y = recorder.begin_batch(batch)
                logits = model(x)
                F.cross_entropy(logits, y).backward()
                recorder.batch(logits, y)
                number += 1
                if number % accumulate == 0:
                    optimizer.step()
                    model.zero_grad()
            if epoch and number == stop:
                break
        recorder.end_epoch("train on")
    recorder.close()
    return Run(folder), model


def iterated(folder, accumulate=1, epochs=2, **recording):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    with record(folder, model, optimizer, DataLoader(data(), 4, shuffle=True), Recording(**recording), seed=3) as recorder:
        for _ in range(epochs):
            for number, (x, y) in enumerate(recorder.epoch(), 1):
                logits = model(x)
                F.cross_entropy(logits, y).backward()
                recorder.batch(logits, y)
                if number % accumulate == 0:
                    optimizer.step()
                    model.zero_grad()
    return Run(folder), model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ahead": 3},
        {"ahead": 3, "accumulate": 3},
        {"view": "eval", "ahead": 2},
        {"live": ["liveval", "aum"], "checkpoints": "every"},
    ],
    ids=str,
)
def test_pushed_batches_are_recorded_as_iterated_ones(tmp_path, settings):
    run, model = pushed(tmp_path / "pushed", **settings)
    settings.pop("ahead", None)
    other, same = iterated(tmp_path / "iterated", **settings)
    assert run.fingerprint == other.fingerprint and run.epochs == 2
    for epoch in range(2):
        assert run.commits[epoch].shard.sums == other.commits[epoch].shard.sums
    assert run.checkpoint(1).sums == other.checkpoint(1).sums
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))


def test_an_epoch_that_a_trainer_leaves_is_not_recorded_and_the_warning_says_what_to_do(tmp_path):
    with pytest.warns(UserWarning, match=r"was left after 2 batches and is not recorded .*; train on\.") as said:
        run, _ = pushed(tmp_path / "run", ahead=2, stop=2)
    assert len(said) == 1 and run.epochs == 1


def test_the_end_of_an_eval_epoch_is_what_the_trainer_says(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), 4)
    recorder = record(tmp_path / "run", model, optimizer, loader, Recording(view="eval"))
    keyed = keyed_copy(loader)
    recorder.keyed(keyed)
    for whole in (False, True):
        recorder.begin_epoch()
        recorder.begin_batch(next(iter(keyed)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if not whole else "error")
            recorder.end_epoch(whole=whole)
    recorder.close()
    assert Run(tmp_path / "run").epochs == 1 and Run(tmp_path / "run").commits[0].steps == 1


def test_batches_out_of_place_are_refused(tmp_path):
    model = net()
    loader = DataLoader(data(), 4)
    recorder = record(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), loader)
    keyed = keyed_copy(loader)
    recorder.keyed(keyed)
    batches = iter(keyed)
    with pytest.raises(UsageError, match=r"begin_batch was called outside an epoch; call recorder.begin_epoch"):
        recorder.begin_batch(next(batches))
    recorder.begin_epoch()
    recorder.begin_batch(next(batches))
    with pytest.raises(UsageError, match="Batch 0 of epoch 0 was not recorded"):
        recorder.begin_batch(next(batches))
    recorder.__exit__(RuntimeError, None, None)


@pytest.mark.parametrize(
    ("name", "base", "extra"),
    [("huggingface", "TrainerCallback", "hf"), ("lightning", "Callback", "lightning"), ("skorch", "Callback", "skorch")],
)
def test_a_library_that_is_not_installed_is_named_with_what_to_install(tmp_path, monkeypatch, name, base, extra):
    room = getattr(assay, name)
    monkeypatch.setattr(room, base, object)
    with pytest.raises(
        UsageError, match=rf"assay\.{name}\.Recorder needs the package .*; install it by `pip install 'assay\[{extra}\]'`"
    ):
        room.Recorder(tmp_path / "run")


ALONE = {"n_gpu": 1, "world_size": 1, "deepspeed": None, "fsdp": None, "fsdp_config": {}, "auto_find_batch_size": False}
TOGETHER = {
    "n_gpu": (
        2,
        "The Trainer would spread each batch over 2 GPUs by DataParallel, which is not recorded; set CUDA_VISIBLE_DEVICES",
    ),
    "world_size": (3, "3 processes train together, and a clean pass is recorded by one; record with view='train'"),
    "fsdp": (
        "full_shard",
        "FSDP in its first version, or by torch_xla, keeps flattened parts of parameters, which are not recorded; set FSDP_VERSION=2",
    ),
    "deepspeed": ("plan.json", "DeepSpeed keeps parameters in parts, which are not recorded; train without it"),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_trainings_of_several_processes_are_refused(name):
    value, words = TOGETHER[name]
    trainer = SimpleNamespace(args=SimpleNamespace(**{**ALONE, name: value}), train_dataset=None)
    with pytest.raises(UsageError, match=words):
        assay.huggingface._check_trainer(trainer, Recording(view="eval"), assay.DataSpec())


def test_a_loader_that_accelerate_shares_out_is_refused(tmp_path):
    class Shard(BatchSampler):
        num_processes = 2

    model = net()
    loader = DataLoader(data(), batch_sampler=Shard(SequentialSampler(data()), 4, False))
    with pytest.raises(UsageError, match="Shard gives each of 2 processes a part of the examples"):
        record(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), loader)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_keys_travel_inside_a_dict_and_are_taken_out(workers):
    loader = DataLoader([{"x": torch.tensor(float(i)), "labels": i % 3} for i in range(10)], 4, shuffle=True, num_workers=workers)
    for batch in keyed_copy(loader, collate=DictCollate):
        assert set(batch) == {"x", "labels", NAME} and batch[NAME].names == ("x", "labels")
        fetched = taken(batch)
        assert fetched.keys == fetched.batch["x"].int().tolist() and set(fetched.batch) == {"x", "labels"}
        assert taken(batch) is None
    (pair, *_) = keyed_copy(DataLoader(data(), 4), collate=DictCollate)
    assert taken(pair) is pair and pair.keys == [0, 1, 2, 3]


def test_what_models_return_and_batches_hold():
    loss, logits, labels = torch.tensor(1.0), torch.zeros(2, 3), torch.tensor([0, 1])
    for outputs in (logits, {"loss": loss, "logits": logits}, (loss, logits, torch.ones(4)), (logits,), [loss, logits]):
        assert logits_of(outputs) is logits
    assert logits_of({"loss": loss}) is None and logits_of((loss,)) is None and logits_of(loss.item()) is None
    assert labels_in({"x": 1, "label": labels}) is labels and labels_in((1, labels)) is labels and labels_in((1, 2, 3)) is None
    with pytest.raises(UsageError, match="those of parts of an example, such as tokens"):
        check_one_label(torch.zeros(2, 5, 3), labels, "here")
    with pytest.raises(UsageError, match="here: the batch holds no labels under labels, label"):
        check_one_label(logits, None, "here")
