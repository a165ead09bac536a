"""Steps made of several batches: what a recording says of them, and that they are repeated as they were taken."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.runs.run import Run

EXAMPLES, CLASSES = 13, 3


def data():
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES, 4, generator=draw, dtype=torch.float64)
    return TensorDataset(inputs, torch.arange(EXAMPLES) % CLASSES)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()


def trained(folder, every, at_end=False, clears=False, epochs=2, batch=2):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), batch, shuffle=True, generator=torch.Generator().manual_seed(1))
    waiting = 0
    with assay.record(folder, model, optimizer, loader) as recorder:
        for _ in range(epochs):
            if clears:
                optimizer.zero_grad()
            for number, (x, y) in enumerate(recorder.epoch(), 1):
                logits = model(x)
                (F.cross_entropy(logits, y) / every).backward()
                recorder.batch(logits, y)
                waiting += 1
                if waiting == every or (at_end and number == len(loader)):
                    optimizer.step()
                    optimizer.zero_grad()
                    waiting = 0
            if clears:
                waiting = 0
    return Run(folder)


@pytest.mark.parametrize(
    ("how", "sizes", "left", "carried"),
    [
        ({"at_end": True}, [3, 3, 1], 0, None),
        ({"clears": True}, [3, 3], 1, None),
        ({}, [3, 3], 1, 1),
    ],
    ids=["steps at the end", "drops the rest", "carries the rest"],
)
def test_a_recording_says_which_batches_made_a_step(tmp_path, how, sizes, left, carried):
    run = trained(tmp_path, 3, **how)
    steps = run.steps(0)
    assert [len(step) for step in steps] == sizes == run.micro_batches(0) and run.left_over(0) == left
    order = run.order(0)
    assert [batch.tolist() for step in steps for batch in step] == [batch.tolist() for batch in order[: sum(sizes)]]
    assert run.last_batches(0) == [sum(sizes[: n + 1]) - 1 for n in range(len(sizes))]
    assert run.carried() == carried and run.uneven_updates() is None


def test_a_step_per_batch_is_written_as_ever(tmp_path):
    run = trained(tmp_path, 1)
    assert {"updates", "carried"}.isdisjoint(run.commits[0].shard.sums)
    assert [len(step) for step in run.steps(0)] == [1] * 7 and run.left_over(0) == 0 and run.carried() is None


def test_an_epoch_without_a_step_is_named(tmp_path):
    assert trained(tmp_path, 100, at_end=False, clears=True).uneven_updates() == (0, 6, 0)
