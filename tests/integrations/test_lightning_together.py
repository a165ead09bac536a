"""Lightning's DDP in two processes: one run, as of a plain loop in two."""

import gc
import os
import pathlib
import re
import signal

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

import assay
from assay.core.errors import AssayError, UsageError
from assay.runs.recording import Recording
from assay.runs.run import Run
from integrations.test_processes import expects_of, free_port, one_process, together

lightning = pytest.importorskip("lightning.pytorch")
from integrations.test_lightning import EXAMPLES, Data, Module, dataset, trainer_of  # noqa: E402  # they need the library

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
RECORDING = Recording(live=["aum"], keep_logits=True, checkpoints="every")
EPOCHS, COUNT = 2, EXAMPLES - 1


class Plain(Module):
    """Without dropout, which each process draws by itself; it may end its process."""

    def __init__(self, killed=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.killed = killed

    def training_step(self, batch, batch_idx):
        if self.killed == (self.global_rank, self.current_epoch, batch_idx):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)


class Own(Sampler):
    """A sampler of somebody's own: Lightning shares out its order."""

    generator = None

    def __len__(self):
        return COUNT

    def __iter__(self):
        return iter(torch.randperm(COUNT, generator=self.generator).tolist())


def examples():
    return torch.utils.data.Subset(dataset(), range(COUNT))


def loader_of(kind):
    samplers = {
        "own": Own,
        "drawn": lambda: WeightedRandomSampler(torch.ones(COUNT), COUNT),
        "shuffled": lambda: RandomSampler(examples()),
    }
    return DataLoader(examples(), 4, sampler=samplers[kind]())


class Made(Data):
    """Makes its loader in the hook, where Lightning keeps the arguments that it was made of."""

    def train_dataloader(self):
        return DataLoader(examples(), 4, shuffle=True, num_workers=self.workers)


def trains(rank, folder, settings):
    # As torchrun says that it started the processes.
    os.environ["TORCHELASTIC_RUN_ID"] = "test"
    # By which Lightning shares out the examples, where another test seeded everything.
    os.environ.pop("PL_GLOBAL_SEED", None)
    says = {"kind": "shuffled", "epochs": EPOCHS, "resume": None, "killed": None, "seed": 3, "trainer": {}, **settings}
    saves = lightning.callbacks.ModelCheckpoint(f"{folder} of Lightning", save_last=True)
    recorder = assay.lightning.Recorder(folder, RECORDING, seed=says["seed"])
    more = {"strategy": "ddp", "devices": 2, "max_epochs": says["epochs"], "enable_checkpointing": True, **says["trainer"]}
    trainer = trainer_of(pathlib.Path(folder).parent, [saves, recorder], **more)
    data = Made() if says["kind"] == "made" else loader_of(says["kind"])
    trainer.fit(Plain(says["killed"]), data, ckpt_path=says["resume"])
    assert "process_dataloader" not in vars(trainer.strategy)
    del trainer, recorder
    gc.collect()


def in_one_process(accumulate=1):
    """The slow, obvious same training: of each step first the gradient of both processes, then their mean."""
    module = Plain()
    optimizer = module.configure_optimizers()
    samplers = [DistributedSampler(range(COUNT), num_replicas=2, rank=rank, shuffle=True, seed=0) for rank in range(2)]
    inputs, labels = dataset().tensors
    facts, orders = [], []
    for epoch in range(EPOCHS):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [torch.tensor(list(sampler)).split(4) for sampler in samplers]
        seen = {}
        orders.append([index for both in zip(*parts, strict=True) for index in both])
        for first in range(0, len(parts[0]), accumulate):
            mean = [torch.zeros_like(value) for value in module.parameters()]
            for part in parts:
                optimizer.zero_grad()
                for number, index in enumerate(part[first : first + accumulate], first):
                    logits = module(inputs[index])
                    (F.cross_entropy(logits, labels[index]) / accumulate).backward()
                    for place, row in zip(index.tolist(), logits.detach(), strict=True):
                        seen.setdefault(place, []).append((number, row))
                for total, value in zip(mean, module.parameters(), strict=True):
                    total += value.grad / 2
            for total, value in zip(mean, module.parameters(), strict=True):
                value.grad = total
            optimizer.step()
        facts.append(torch.stack([min(seen[place], key=lambda visit: visit[0])[1] for place in range(COUNT)]))
    return module, facts, orders


@pytest.mark.parametrize(("kind", "accumulate"), [("shuffled", 1), ("made", 2)])
def test_two_processes_record_one_run_that_one_takes_again(tmp_path, kind, accumulate):
    together(trains, str(tmp_path / "run"), {"kind": kind, "trainer": {"accumulate_grad_batches": accumulate}})
    run = Run(tmp_path / "run")
    module, facts, orders = in_one_process(accumulate)
    assert run.epochs == EPOCHS and run.check() and run.processes == 2
    for epoch in range(EPOCHS):
        assert [batch.tolist() for batch in run.order(epoch)] == [batch.tolist() for batch in orders[epoch]]
        assert torch.equal(run.shard(epoch).read("logits"), facts[epoch])
        visits = run.visits_in(epoch)
        assert int(visits.sum()) == COUNT + 1 and int(visits.min()) == 1
    assert all(torch.equal(run.model(EPOCHS - 1)[name], value) for name, value in module.state_dict().items())
    module = Plain()
    loop = assay.Loop(module, module.configure_optimizers(), DataLoader(examples(), 4))
    targets = {"validation": (dataset(3).tensors[0], dataset().tensors[1])}
    # Gradients of several batches are added up in another order.
    rounding = assay.ReplayConfig() if accumulate == 1 else assay.ReplayConfig(tolerance=1e-4)
    (scores,) = assay.score(run, "sgd_influence", loop=loop, targets=targets, save=False, replay_config=rounding).values()
    assert len(scores.ids) == COUNT and bool((scores.values != 0).all())


def test_a_sampler_of_ones_own_is_shared_out_and_a_run_goes_on_from_lightnings_checkpoint(tmp_path):
    folder = str(tmp_path / "run")
    together(trains, folder, {"kind": "own", "epochs": 1})
    together(trains, folder, {"kind": "own", "resume": f"{folder} of Lightning/last.ckpt"})
    together(trains, str(tmp_path / "whole"), {"kind": "own"})
    run, whole = Run(folder), Run(tmp_path / "whole")
    assert run.epochs == EPOCHS and run.check() and run.processes == 2
    for epoch in range(EPOCHS):
        assert int(run.visits_in(epoch).min()) == 1 and int(run.visits_in(epoch).sum()) == COUNT + 1
    assert [commit.shard.sums for commit in run.commits] == [commit.shard.sums for commit in whole.commits]


ENDS = {
    "killed": ({"killed": (1, 1, 1)}, (RuntimeError, AssayError), "onnection|peer|socket"),
    "drawn": ({"kind": "drawn"}, UsageError, "WeightedRandomSampler draws with replacement"),
    "not shared out": ({"trainer": {"use_distributed_sampler": False}}, UsageError, "Each of 2 processes trains on all examples"),
}


def ends(rank, folder, settings, error, words):
    expects_of(trains, rank, folder, settings, error, words)


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_one_process_ends_both_with_a_sentence(tmp_path, name):
    settings, error, words = ENDS[name]
    folder = str(tmp_path / "run")
    if name != "killed":
        together(ends, folder, settings, error, words)
        assert not pathlib.Path(folder).exists()
        return
    context = torch.multiprocessing.spawn(
        one_process, (free_port(), 2, ends, (folder, settings, error, words)), nprocs=2, join=False
    )
    # Not by `join`, which ends the other by SIGTERM: Lightning raises anew in the middle of whatever it does then.
    for process in context.processes:
        process.join()
    assert [process.exitcode for process in context.processes] == [0, -signal.SIGKILL]
    run = Run(folder)
    assert run.epochs == 1 and run.check()
    said = pathlib.Path(f"{folder}.0").read_text().splitlines()[-1]
    assert re.fullmatch(
        r"RunError: Process 0 of 2, epoch 1: another process ended or does not answer \(.+\), so the epoch is not recorded; "
        r"start all processes again, and go on with the run\.",
        said,
    )
