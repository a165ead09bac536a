"""A training in two processes, of which the first one records."""

import gc
import socket

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from assay.integrations.pytorch import record
from assay.runs.recording import Recording
from assay.runs.run import Run

EXAMPLES, EPOCHS = 22, 2


def data():
    inputs = torch.randn(EXAMPLES, 4, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, torch.arange(EXAMPLES) % 3)


def one_process(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        one_part(rank, folder)
    finally:
        # The model holds the group, and torch's threads of a group that outlives the interpreter abort the process.
        gc.collect()
        torch.distributed.destroy_process_group()


def one_part(rank, folder):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model = nn.parallel.DistributedDataParallel(net)
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
                net.eval()
                with torch.no_grad():
                    clean.append(net(data().tensors[0]))
                net.train()
        torch.save(clean, f"{folder}.pt")


@pytest.mark.slow
def test_the_first_process_of_a_parallel_training_records_a_clean_pass(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_process, (port, str(tmp_path / "run")), nprocs=2)
    run, clean = Run(tmp_path / "run"), torch.load(tmp_path / "run.pt")
    assert run.epochs == EPOCHS and run.check() and not [key for key in run.model(1) if key.startswith("module")]
    labels = data().tensors[1]
    for epoch in range(EPOCHS):
        expected = F.cross_entropy(clean[epoch], labels, reduction="none")
        torch.testing.assert_close(run.shard(epoch).read("losses"), expected)
