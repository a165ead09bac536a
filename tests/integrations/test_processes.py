"""Trainings in several processes, recorded as one run, or by the first process alone."""

import contextlib
import datetime
import gc
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import assay
from assay.core.errors import Mismatch, NumericalError, RunLocked, UsageError
from assay.integrations import processes
from assay.integrations.loop_state import saved_state
from assay.integrations.pytorch import record
from assay.maths.observations import observe
from assay.replay.loop import LoopTraining
from assay.runs.recording import Recording
from assay.runs.run import Run

EXAMPLES, EPOCHS = 22, 2


def data(examples=EXAMPLES):
    inputs = torch.randn(examples, 4, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, torch.arange(examples) % 3)


def one_process(rank, port, world, part, args):
    torch.set_num_threads(1)
    # As torchrun says it.
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    torch.distributed.init_process_group("gloo")
    try:
        part(rank, *args)
    finally:
        # The model holds the group, and torch's threads of a group that outlives the interpreter abort the process.
        gc.collect()
        torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together(part, *args, world=2):
    torch.multiprocessing.spawn(one_process, (free_port(), world, part, args), nprocs=world)


def net(norm=True):
    torch.manual_seed(0)
    layers = [nn.BatchNorm1d(5)] if norm else [nn.Tanh()]
    return nn.Sequential(nn.Linear(4, 5), *layers, nn.Linear(5, 3))


def first_process_alone(rank, folder):
    made = net()
    model = nn.parallel.DistributedDataParallel(made)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sampler = DistributedSampler(data(), num_replicas=2, rank=rank)
    loader = DataLoader(data(), 4, sampler=sampler)

    def train(batches, note=lambda logits, labels: None):
        for x, y in batches:
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            note(logits, y)

    clean = []
    if rank:
        for _ in range(EPOCHS):
            train(loader)
    else:
        with record(folder, model, optimizer, loader, Recording(view="eval")) as recorder:
            for _ in range(EPOCHS):
                train(recorder.epoch(), recorder.batch)
                made.eval()
                with torch.no_grad():
                    clean.append(made(data().tensors[0]))
                made.train()
        torch.save(clean, f"{folder}.pt")


@pytest.mark.slow
def test_the_first_process_of_a_parallel_training_records_a_clean_pass(tmp_path):
    together(first_process_alone, str(tmp_path / "run"))
    run, clean = Run(tmp_path / "run"), torch.load(tmp_path / "run.pt")
    assert run.epochs == EPOCHS and run.check() and not [key for key in run.model(1) if key.startswith("module")]
    labels = data().tensors[1]
    for epoch in range(EPOCHS):
        expected = F.cross_entropy(clean[epoch], labels, reduction="none")
        torch.testing.assert_close(run.shard(epoch).read("losses"), expected)


# ---------------------------------------------------------------------------------------------- one run of all processes


def sampler_of(examples, rank, world):
    return DistributedSampler(range(examples), num_replicas=world, rank=rank, shuffle=True, seed=5)


def all_record(rank, folder, settings):
    """A training in which every process records; what differs from the usual one stands in `settings`."""
    says = {
        "examples": 21,
        "epochs": EPOCHS,
        "accumulate": 1,
        "wrap": True,
        "resume": False,
        "seed": None,
        "live": ["aum"],
        **settings,
    }
    world = torch.distributed.get_world_size()
    model = net(norm=False)
    wrapped = nn.parallel.DistributedDataParallel(model) if says["wrap"] else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    sampler = sampler_of(says["examples"], rank, world)
    loader = DataLoader(data(says["examples"]), 4, sampler=sampler)
    recording = Recording(live=says["live"], mean_probs=True, keep_logits=True)
    with record(folder, wrapped, optimizer, loader, recording, seed=says["seed"], resume=says["resume"]) as recorder:
        for epoch in range(recorder.epochs, says["epochs"]):
            sampler.set_epoch(epoch)
            for number, (x, y) in enumerate(recorder.epoch(), 1):
                steps = number % says["accumulate"] == 0 or number == len(loader)
                if says.get("killed") == (rank, epoch, number):
                    os.kill(os.getpid(), signal.SIGKILL)
                if says.get("nan") == (rank, epoch, number):
                    x = x * float("nan")
                with contextlib.nullcontext() if steps or not says["wrap"] else wrapped.no_sync():
                    logits = wrapped(x)
                    (F.cross_entropy(logits, y) / says["accumulate"]).backward()
                if steps:
                    optimizer.step()
                    optimizer.zero_grad()
                recorder.batch(logits, y)
            recorder.validation(logits[:1].detach() * 0, y[:1] * 0)
    del wrapped, recorder


def expects(rank, folder, settings, error, words):
    expects_of(all_record, rank, folder, settings, error, words)


def expects_of(part, rank, folder, settings, error, words):
    """Every process ends with the same error."""
    processes.WAITS = datetime.timedelta(seconds=20)
    with pytest.raises(error, match=words) as caught:
        part(rank, folder, settings)
    said = [f"{type(caught.value).__name__}: {caught.value}", *getattr(caught.value, "__notes__", ())]
    pathlib.Path(f"{folder}.{rank}").write_text("\n".join(said))
    caught = None
    gc.collect()


def in_one_process(world, examples, accumulate):
    """The slow, obvious same training: of each step first the gradient of every process, then their mean."""
    model = net(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    samplers = [sampler_of(examples, rank, world) for rank in range(world)]
    inputs, labels = data(examples).tensors
    facts, orders = [], []
    for epoch in range(EPOCHS):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [torch.tensor(list(sampler)).split(4) for sampler in samplers]
        seen, order = {}, []
        for first in range(0, len(parts[0]), accumulate):
            numbers = range(first, min(first + accumulate, len(parts[0])))
            order += [parts[rank][number] for number in numbers for rank in range(world)]
            mean = [torch.zeros_like(value) for value in model.parameters()]
            for rank in range(world):
                optimizer.zero_grad()
                for number in numbers:
                    index = parts[rank][number]
                    logits = model(inputs[index])
                    (F.cross_entropy(logits, labels[index]) / accumulate).backward()
                    for place, row in zip(index.tolist(), logits.detach(), strict=True):
                        seen.setdefault(place, []).append((number, rank, row))
                for total, value in zip(mean, model.parameters(), strict=True):
                    total += value.grad / world
            for total, value in zip(mean, model.parameters(), strict=True):
                value.grad = total
            optimizer.step()
        facts.append(torch.stack([min(seen[place], key=lambda visit: visit[:2])[2] for place in range(examples)]))
        orders.append(order)
    return model, facts, orders


@pytest.mark.slow
@pytest.mark.parametrize(("world", "examples", "accumulate"), [(2, 21, 1), (2, 21, 2), (3, 20, 1)])
def test_all_processes_record_one_run(tmp_path, world, examples, accumulate):
    together(all_record, str(tmp_path / "run"), {"examples": examples, "accumulate": accumulate}, world=world)
    run = Run(tmp_path / "run")
    model, facts, orders = in_one_process(world, examples, accumulate)
    assert run.epochs == EPOCHS and run.check() and run.processes == world
    # A sum of two gradients does not depend on their order, one of three does.
    same = {"rtol": 0, "atol": 0} if world == 2 else {}
    for epoch in range(EPOCHS):
        shard, order = run.shard(epoch), run.order(epoch)
        torch.testing.assert_close(shard.read("logits"), facts[epoch], **same)
        expected = observe(facts[epoch], data(examples).tensors[1])
        torch.testing.assert_close(shard.read("margins"), expected["margins"], **same)
        assert [batch.tolist() for batch in order] == [batch.tolist() for batch in orders[epoch]]
        # Filled up by the sampler: each example once in the facts, and counted as often as it was trained on.
        visits = run.visits_in(epoch)
        assert int(visits.sum()) == world * -(-examples // world) > examples and int(visits.min()) == 1
        assert run.missing(epoch) is None
        whole, rest = divmod(len(order) // world, accumulate)
        assert run.micro_batches(epoch) == [world * accumulate] * whole + [world * rest] * (rest > 0)
        assert run.validation(epoch)[1].tolist() == [world, 0, 0]
    kept = run.model(EPOCHS - 1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(kept[name], value, **same)
    assert assay.score(run, "aum", save=False)["aum"].values.isfinite().all()


ENDS = {
    "nan": ({"nan": (1, 1, 2)}, NumericalError, "Epoch 1: logits of .* are NaN"),
    "not wrapped": ({"wrap": False}, Mismatch, "Epoch 1: process 1 has other weights than process 0 .*DistributedDataParallel"),
    "live steps": ({"live": ["liveval"]}, UsageError, "liveval.* values the steps .* several train together"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_what_ends_one_process_ends_all_with_a_sentence(tmp_path, name):
    settings, error, words = ENDS[name]
    folder = str(tmp_path / "run")
    together(expects, folder, settings, error, words)
    if name == "live steps":
        assert not pathlib.Path(folder).exists()
        return
    # The epoch before is whole, nothing of this one is there, and the lock is free.
    run = Run(folder)
    assert run.epochs == 1 and run.check()


WEIGHTS = torch.tensor([1.0] * 6 + [0.3] * 14)


class DrawnShares(DistributedSampler):
    """Draws with replacement, by weights, and shares that order out."""

    replacement = True

    def __iter__(self):
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.multinomial(WEIGHTS, self.total_size, True, generator=draw).tolist()[self.rank :: self.num_replicas])


def drawn_by_all(rank, folder, kind):
    """A training on epochs as they are drawn, in every process; what the model said at each visit is saved beside the run."""
    examples, world = data(20), torch.distributed.get_world_size()
    made = net(norm=False)
    model, optimizer = nn.parallel.DistributedDataParallel(made), torch.optim.SGD(made.parameters(), lr=0.1)
    if kind == "shared":
        sampler = DrawnShares(examples, num_replicas=world, rank=rank, seed=3)
    else:
        sampler = torch.utils.data.WeightedRandomSampler(WEIGHTS, 18, generator=torch.Generator().manual_seed(rank))
    loader = DataLoader(examples, 4, sampler=sampler)
    if kind == "accelerate":
        accelerate = pytest.importorskip("accelerate")
        made = net(norm=False)
        parts = made, torch.optim.SGD(made.parameters(), lr=0.1), loader
        model, optimizer, loader = accelerate.Accelerator(cpu=True).prepare(*parts)
    spec, recording, said = assay.DataSpec(visits="any"), Recording(keep_logits=True, live=["aum"]), []
    with record(folder, model, optimizer, loader, recording, data=spec, seed=3 if kind == "shared" else None) as recorder:
        for epoch in range(EPOCHS):
            if kind == "shared":
                sampler.set_epoch(epoch)
            said.append([])
            for number, (x, y) in enumerate(recorder.epoch()):
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
                places = (examples.tensors[0] == x[:, None]).all(2).int().argmax(1).tolist()
                said[-1] += [(number, rank, *visit) for visit in zip(places, logits.detach(), strict=True)]
    torch.save(said, f"{folder}.{rank}.pt")
    del model, recorder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "accelerate"])
def test_epochs_as_they_are_drawn_by_all_processes_are_one_run(tmp_path, kind):
    folder = str(tmp_path / "run")
    together(drawn_by_all, folder, kind)
    run, said = Run(folder), [torch.load(f"{folder}.{rank}.pt") for rank in range(2)]
    assert run.epochs == EPOCHS and run.check() and run.processes == 2
    margins, times = torch.zeros(20, dtype=torch.float64), torch.zeros(20)
    for epoch in range(EPOCHS):
        visits = sorted(said[0][epoch] + said[1][epoch], key=lambda visit: visit[:2])
        places = [place for _, _, place, _ in visits]
        last = {place: logits for _, _, place, logits in visits}
        assert run.visits_in(epoch).tolist() == [places.count(place) for place in range(20)]
        assert 0 < len(last) < 20 and max(map(places.count, places)) > 1
        assert [place for batch in run.order(epoch) for place in batch.tolist()] == places
        kept = run.shard(epoch).read("logits")
        for place in range(20):
            assert torch.equal(kept[place], last[place]) if place in last else bool(kept[place].isnan().all())
        for place, logits in last.items():
            margins[place] += float(observe(logits[None], data(20).tensors[1][place : place + 1])["margins"])
            times[place] += 1
    aum = assay.score(run, "aum", save=False)["aum"]
    assert list(aum.ids) == (times > 0).nonzero().flatten().tolist() and len(aum.unscored) > 0
    torch.testing.assert_close(aum.values, (margins / times)[times > 0], rtol=1e-6, atol=1e-7)
    # The training of both is taken again in one process, from the order that was drawn.
    model = net(norm=False)
    loop = assay.Loop(model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data(20), 4))
    held = {"validation": (torch.randn(3, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2]))}
    table = assay.score(run, ["sgd_influence", "loo"], loop=loop, targets=held, save=False)
    both = torch.stack([torch.as_tensor(table[name].values) for name in ("sgd_influence", "loo")])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9


def expects_alone(rank, folder, words):
    expects_of(drawn_by_all, rank, folder, "own", UsageError, words)


@pytest.mark.slow
def test_processes_that_draw_each_for_itself_are_refused_with_what_to_do(tmp_path):
    words = "2 processes train one model, and WeightedRandomSampler draws for this one alone.* DistributedSampler .*view='eval'"
    together(expects_alone, str(tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


def one_after_another(rank, folder):
    model = net(norm=False)
    given = folder, model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data(), 4, shuffle=True)
    if rank == 0:
        made = record(*given)
    torch.distributed.barrier()
    if rank == 1:
        with pytest.raises(
            RunLocked, match=r"Process 1: .* is being written .*its loader shares no examples out.* accelerator\.prepare"
        ):
            record(*given)
    torch.distributed.barrier()
    if rank == 0:
        with pytest.warns(UserWarning, match="Nothing was recorded"):
            made.close()


@pytest.mark.slow
def test_a_folder_that_the_first_process_took_is_named_with_the_loader_that_is_not_shared_out(tmp_path):
    together(one_after_another, str(tmp_path / "run"))


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    folder = str(tmp_path / "run")
    together(all_record, folder, {"epochs": 1, "seed": 4})
    before = Run(folder).model(0)
    together(all_record, folder, {"epochs": 2, "resume": True, "seed": 4}, world=3)
    run = Run(folder)
    assert run.epochs == 2 and run.check() and [commit.processes for commit in run.commits] == [2, 3]
    assert (
        not run.gap() and run.micro_batches(1) == [3, 3] and all(torch.equal(run.model(0)[name], before[name]) for name in before)
    )


@pytest.mark.slow
def test_one_process_takes_the_training_of_two_again(tmp_path):
    folder = str(tmp_path / "run")
    together(all_record, folder, {"examples": 21, "seed": 4})
    model = net(norm=False)
    loop = assay.Loop(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), DataLoader(data(21), 4))
    targets = {"validation": (torch.randn(3, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2]))}
    table = assay.score(folder, ["sgd_influence", "loo"], loop=loop, targets=targets, save=False)
    # Of small steps the derivative is close to training without the example.
    both = torch.stack([torch.as_tensor(table[name].values) for name in ("sgd_influence", "loo")])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9
    normed = net()
    with pytest.raises(UsageError, match=r"2 processes, and 1 \(BatchNorm1d\) keeps statistics"):
        LoopTraining(
            Run(folder), assay.Loop(normed, torch.optim.SGD(normed.parameters(), 0.1), DataLoader(data(21), 4))
        ).check_steps()


def sharded_record(rank, folder, settings):
    """A training whose model `fully_shard` keeps in parts."""
    says = {"epochs": EPOCHS, "resume": False, "optimizer": "adamw", "shards": "whole", "seed": 4, **settings}
    model = net(norm=False)
    mesh = init_device_mesh("cpu", (2,))
    if says["shards"] == "FSDP1":
        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    else:
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = OF_SHARDS[says["optimizer"]](model)
    sampler = sampler_of(21, rank, 2)
    loader = DataLoader(data(21), 4, sampler=sampler if says["shards"] != "alone" else None)
    recording = Recording(keep_logits=True, checkpoints="every", live=["aum"])
    with record(folder, model, optimizer, loader, recording, seed=says["seed"], resume=says["resume"]) as recorder:
        for epoch in range(recorder.epochs, says["epochs"]):
            sampler.set_epoch(epoch)
            for number, (x, y) in enumerate(recorder.epoch()):
                if says.get("killed") == (rank, epoch, number):
                    os.kill(os.getpid(), signal.SIGKILL)
                logits = model(x)
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                optimizer.zero_grad()
                recorder.batch(logits, y)
            # A pass after the last step leaves whole parameters in the outermost layer.
            with torch.no_grad():
                recorder.validation(model(x), y)
    del model, optimizer, recorder
    gc.collect()


OF_SHARDS = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.05),
    # One without a state, one of two groups.
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "groups": lambda model: torch.optim.SGD(
        [{"params": model[2].parameters()}, {"params": model[0].parameters(), "lr": 0.02}], lr=0.1, momentum=0.5
    ),
}


def without_shards(optimizer):
    """The slow, obvious same training in one process."""
    model = net(norm=False)
    made = OF_SHARDS[optimizer](model)
    samplers = [sampler_of(21, rank, 2) for rank in range(2)]
    inputs, labels = data(21).tensors
    facts = []
    for epoch in range(EPOCHS):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        seen = {}
        for step in zip(*(torch.tensor(list(sampler)).split(4) for sampler in samplers), strict=True):
            made.zero_grad()
            for index in step:
                logits = model(inputs[index])
                (F.cross_entropy(logits, labels[index]) / 2).backward()
                for place, row in zip(index.tolist(), logits.detach(), strict=True):
                    seen.setdefault(place, row)
            made.step()
        facts.append(torch.stack([seen[place] for place in range(21)]))
    return model, made, facts


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OF_SHARDS)
def test_a_model_that_is_kept_in_parts_is_recorded_whole(tmp_path, optimizer):
    folder = str(tmp_path / "run")
    together(sharded_record, folder, {"epochs": 1, "optimizer": optimizer})
    together(sharded_record, folder, {"resume": True, "optimizer": optimizer})
    run = Run(folder)
    model, made, facts = without_shards(optimizer)
    assert run.epochs == EPOCHS and run.check() and run.processes == 2 and run.sharded == "fully_shard"
    for epoch in range(EPOCHS):
        torch.testing.assert_close(run.shard(epoch).read("logits"), facts[epoch], rtol=1e-5, atol=1e-6)
        assert int(run.visits_in(epoch).sum()) == 22
    for name, value in model.state_dict().items():
        torch.testing.assert_close(run.model(EPOCHS - 1)[name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(run.model(-1)[name], net(norm=False).state_dict()[name])
    state = saved_state(run.folder)["optimizer"]
    expected = made.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [group["params"] for group in expected["param_groups"]]
    for number, slots in expected["state"].items():
        for name, value in slots.items():
            torch.testing.assert_close(state["state"][number][name], value, rtol=1e-5, atol=1e-6)
    # Kept models serve a model of one process; steps are not repeated.
    loop = assay.Loop(model, made, DataLoader(data(21), 4))
    targets = {"validation": (torch.randn(3, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2]))}
    scores = assay.score(run, ["aum", "grand", "tracin"], loop=loop, targets=targets, save=False)
    assert all(bool(scores[name].values.isfinite().all()) for name in ("aum", "grand", "tracin"))
    with pytest.raises(
        UsageError, match=r"2 processes, each of which kept a part of the model \(fully_shard\), .* such as grand and tracin"
    ):
        assay.score(run, "sgd_influence", loop=loop, targets=targets, save=False)
    # One process goes on with the whole model.
    alone = net(norm=False)
    goes_on = OF_SHARDS[optimizer](alone)
    recording = Recording(keep_logits=True, checkpoints="every", live=["aum"])
    with record(folder, alone, goes_on, DataLoader(data(21), 4), recording, seed=4, resume=True) as recorder:
        assert recorder.epochs == EPOCHS and all(
            torch.equal(alone.state_dict()[name], value) for name, value in run.model(1).items()
        )
        assert goes_on.state_dict()["state"].keys() == expected["state"].keys()


def sharded_ends(rank, folder, settings, error, words):
    expects_of(sharded_record, rank, folder, settings, error, words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ("alone", "one alone cannot record it; call assay.record in every process"),
        ("FSDP1", "train with torch.distributed.fsdp.fully_shard or"),
    ],
)
def test_parts_that_cannot_be_gathered_are_refused(tmp_path, shards, words):
    folder = str(tmp_path / "run")
    together(sharded_ends, folder, {"shards": shards}, UsageError, words)
    assert not pathlib.Path(folder).exists()


KILLED = {
    "the other": (all_record, (1, 1, 2)),
    "the first": (all_record, (0, 1, 2)),
    "at the end of the epoch": (all_record, (1, 1, 3)),
    "with parts of the model": (sharded_record, (1, 1, 1)),
}


def survives(rank, folder, training, killed):
    """What the process that is left says; the other is killed in its training."""
    try:
        training(rank, folder, {"killed": killed})
    except BaseException as error:
        pathlib.Path(f"{folder}-said").write_text(f"{type(error).__name__}: {error}")
        raise


SCRIPT = """
import sys

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import assay

torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
inputs = torch.randn(22, 4, generator=torch.Generator().manual_seed(1))
data = TensorDataset(inputs, torch.arange(22) % 3)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(data, 4, sampler=DistributedSampler(data))
with assay.record(sys.argv[1], model, optimizer, loader, assay.Recording(keep_logits=True), seed=3, resume=len(sys.argv) > 2) as recorder:
    for epoch in range(recorder.epochs, recorder.epochs + 1):
        loader.sampler.set_epoch(epoch)
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_a_script_under_torchrun_is_one_run_that_more_processes_go_on_with(tmp_path):
    script, folder = tmp_path / "train.py", tmp_path / "run"
    script.write_text(SCRIPT)
    for world, more in ((2, ()), (3, ("resume",))):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={world}",
            str(script),
            str(folder),
        ]
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-2000:]
    run = Run(folder)
    assert run.epochs == 2 and run.check() and len(run.ids) == 22 and int(run.visits_in(1).min()) == 1
    # Each step has a batch of each process, and a sampler that fills up draws some examples again, which count once.
    for epoch, world in ((0, 2), (1, 3)):
        assert {len(step) for step in run.steps(epoch)} == {world}
        assert int(run.visits_in(epoch).sum()) == world * math.ceil(22 / world)


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_killed_process_ends_the_other_with_a_named_error(tmp_path, name):
    training, killed = KILLED[name]
    folder = str(tmp_path / "run")
    port = free_port()
    context = torch.multiprocessing.get_context("spawn")
    # Not by torch's spawn, which ends the one that is left before it says anything.
    both = [context.Process(target=one_process, args=(rank, port, 2, survives, (folder, training, killed))) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [(-9 if rank == killed[0] else 1) for rank in range(2)]
    said = pathlib.Path(f"{folder}-said").read_text()
    assert re.match(
        rf"RunError: Process {1 - killed[0]} of 2, .*: another process ended or does not answer \(.*\), so the epoch is not recorded; start all",
        said,
    )
    # The epoch before is whole, nothing of this one is there, and the lock is free.
    run = Run(folder)
    assert run.epochs == 1 and run.check()
    together(training, folder, {"resume": True})
    assert Run(folder).epochs == EPOCHS and Run(folder).check()


def by_accelerate(rank, folder):
    # Only the first process needs the folder.
    folder = f"{folder}-{rank}" if rank else folder
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    made = net(norm=False)
    parts = made, torch.optim.SGD(made.parameters(), lr=0.1), DataLoader(data(21), 4, shuffle=True)
    model, optimizer, loader = accelerator.prepare(*parts)
    with assay.record(folder, model, optimizer, loader, Recording(keep_logits=True), seed=3) as recorder:
        for _ in range(EPOCHS):
            for x, y in recorder.epoch():
                logits = model(x)
                accelerator.backward(F.cross_entropy(logits, y))
                optimizer.step()
                optimizer.zero_grad()
                recorder.batch(logits, y)
    del model, parts, optimizer
    gc.collect()


@pytest.mark.slow
def test_accelerate_fills_up_batches(tmp_path):
    pytest.importorskip("accelerate")
    together(by_accelerate, str(tmp_path / "run"))
    run, (inputs, labels) = Run(tmp_path / "run"), data(21).tensors
    assert run.epochs == EPOCHS and run.check() and run.processes == 2
    assert not (tmp_path / "run-1").exists()
    # Six batches of at most four became three of four in each process.
    visits = run.visits_in(1)
    assert int(visits.min()) == 1 and int(visits.sum()) == 24 and [len(batch) for batch in run.order(1)] == [4] * 6
    model = net(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(EPOCHS):
        expected = {}
        for step in run.steps(epoch):
            optimizer.zero_grad()
            for index in step:
                logits = model(inputs[index])
                (F.cross_entropy(logits, labels[index]) / 2).backward()
                for place, row in zip(index.tolist(), logits.detach(), strict=True):
                    expected.setdefault(place, row)
            optimizer.step()
        assert torch.equal(run.shard(epoch).read("logits"), torch.stack([expected[place] for place in range(21)]))
