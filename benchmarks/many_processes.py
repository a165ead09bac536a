"""A training in 1, 2 and 4 processes (DistributedDataParallel over gloo), recorded as one run: seconds beside the same without recording, and how far the
facts are from those of one process that takes the same batches.

A perceptron of 64-128-128-10 on drawn inputs; 64 examples in each step, shared by the processes; 3 epochs. Each repeat trains without and with the
recorder one after the other in the same processes; the median of the ratios is reported. Processes share the machine's cores.
"""

import argparse
import gc
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from machine import report
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import assay

EPOCHS, STEP = 3, 64


def examples(count: int) -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 64, generator=draw)
    return TensorDataset(inputs, (inputs @ torch.randn(64, 10, generator=draw)).argmax(1))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def sampler_of(count: int, processes: int, rank: int) -> DistributedSampler:
    return DistributedSampler(range(count), num_replicas=processes, rank=rank, seed=1)  # type: ignore[arg-type]  # its length is asked for


def trained(count: int, processes: int, rank: int, folder: str | None) -> float:
    """Seconds of a training; recorded if there is a folder."""
    made = net()
    model = nn.parallel.DistributedDataParallel(made)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    sampler = sampler_of(count, processes, rank)
    loader = DataLoader(examples(count), STEP // processes, sampler=sampler)
    torch.distributed.barrier()
    before = time.perf_counter()
    recorder = None if folder is None else assay.record(folder, model, optimizer, loader)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for x, y in loader if recorder is None else recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            if recorder is not None:
                recorder.batch(logits, y)
    if recorder is not None:
        recorder.close()
    torch.distributed.barrier()
    return time.perf_counter() - before


def one_process(rank: int, port: int, processes: int, count: int, repeats: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.distributed.init_process_group("gloo", rank=rank, world_size=processes)
    trained(count, processes, rank, None)
    pairs = [[trained(count, processes, rank, of) for of in (None, f"{folder}/{repeat}")] for repeat in range(repeats)]
    if not rank:
        torch.save(pairs, f"{folder}/seconds.pt")
    # The models hold the group, and torch's threads of a group that outlives the interpreter abort the process.
    gc.collect()
    torch.distributed.destroy_process_group()


def margins_in_one(count: int, processes: int) -> Tensor:
    """Margins of the last epoch by one process that takes the same batches, and the mean of their gradients."""
    torch.set_num_threads(1)
    model, (inputs, labels) = net(), examples(count).tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(EPOCHS):
        margins, parts = torch.full((count,), float("nan")), []
        for rank in range(processes):
            sampler = sampler_of(count, processes, rank)
            sampler.set_epoch(epoch)
            parts.append(torch.tensor(list(sampler)).split(STEP // processes))
        for step in zip(*parts, strict=True):
            optimizer.zero_grad()
            for index in step:
                logits = model(inputs[index])
                (F.cross_entropy(logits, labels[index]) / processes).backward()
                own = logits.detach().gather(1, labels[index, None])[:, 0]
                others = logits.detach().scatter(1, labels[index, None], -torch.inf).max(1).values
                margins[index] = torch.where(margins[index].isnan(), own - others, margins[index])
            optimizer.step()
    return margins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20001)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out")
    given = parser.parse_args()
    found = {}
    for processes in given.processes:
        with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            torch.multiprocessing.spawn(one_process, (port, processes, given.examples, given.repeats, folder), nprocs=processes)
            pairs = torch.load(Path(folder) / "seconds.pt")
            run = assay.Run(f"{folder}/0")
            apart = (run.shard(EPOCHS - 1).read("margins") - margins_in_one(given.examples, processes)).abs().max()
            found[str(processes)] = {
                "seconds": statistics.median(plain for plain, _ in pairs),
                "seconds recorded": statistics.median(recorded for _, recorded in pairs),
                "ratio": statistics.median(recorded / plain for plain, recorded in pairs),
                "largest distance of a margin from one process": float(apart),
                "visits that fill up the last batches": int(run.visits_in(0).sum()) - given.examples,
            }
    report("many_processes", {"processes": found}, given.out)


if __name__ == "__main__":
    main()
