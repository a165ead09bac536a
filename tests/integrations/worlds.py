"""Examples whose content tells their number, and a frozen model whose logits are a known function of it."""

import os
import random
import signal
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

import assay

CLASSES = 3


def labels_of(numbers):
    return torch.as_tensor(numbers) * 5 % 7 % CLASSES


def logits_of(numbers):
    x = torch.as_tensor(numbers, dtype=torch.float32)
    return torch.stack([2 * torch.sin(x), x / 20, 1.5 * torch.cos(3 * x)], 1)


class Numbers(Dataset):
    """Example i is (i, its label); some take their time."""

    def __init__(self, size=30, first=0, slow=()):
        self.size, self.first, self.slow = size, first, slow
        self.offset = 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        number = self.first + range(self.size)[index]
        if number in self.slow:
            time.sleep(0.25)
        return torch.tensor([float(number + self.offset)]), labels_of(number)


class Named(Numbers):
    @property
    def ids(self):
        return [f"number {self.first + index}" for index in range(self.size)]


class Fetched(Numbers):
    """Gives whole batches, and only those."""

    def __getitem__(self, index):
        raise AssertionError("this dataset is asked for whole batches")

    def __getitems__(self, indices):
        return [Numbers.__getitem__(self, index) for index in indices]


class Opened(Numbers):
    """Must be opened in its worker first, as files are."""

    handle = None

    def __getitem__(self, index):
        assert self.handle == f"worker of {self.size}"
        return super().__getitem__(index)


def open_dataset(worker):
    dataset = get_worker_info().dataset
    dataset.handle = f"worker of {dataset.size}"


class Backwards(Sampler):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(range(self.size - 1, -1, -1))


class TensorKeys(Backwards):
    """Gives its positions as tensors and NumPy integers, as many samplers do."""

    def __iter__(self):
        return (key if key % 2 else np.int64(key) for key in torch.randperm(self.size))


class Unsized(Sampler):
    def __iter__(self):
        return iter([7, *range(7), *range(8, 30)])


class Ragged:
    """Batches of other sizes each, as a batch sampler by length makes."""

    def __iter__(self):
        return iter(torch.tensor([4, 0, 9, 1, *range(10, 30), 2, 3, *range(5, 9)]).split([1, 5, 2, 10, 12]))

    def __len__(self):
        return 5


class Announced(DataLoader):
    """A subclass with settings of its own, whose batches pass through its own `__iter__`."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.begun = 0

    def __iter__(self):
        self.begun += 1
        yield from super().__iter__()


class Moving(DataLoader):
    """Makes other batches on the way, as loaders do that move them to a device."""

    def __iter__(self):
        for batch in super().__iter__():
            yield tuple(part for part in batch)


class ByName(Numbers):
    """Its keys are no positions."""

    def __init__(self):
        super().__init__(3)

    def __getitem__(self, key):
        return super().__getitem__("abc".index(key))


def by_name(items):
    inputs, labels = zip(*items, strict=True)
    return {"inputs": torch.stack(inputs), "labels": torch.stack(labels), "length": len(items)}


class Known(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return logits_of(x[:, 0]) + 0 * self.weight


def frozen():
    model = Known()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


# What follows really trains.


class Drawn(Dataset):
    """Every access draws from all three global generators, as augmentation does."""

    def __init__(self, size=26):
        self.inputs = torch.randn(size, 5, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = torch.randn(5) + np.random.randn() + random.gauss(0, 1)
        return self.inputs[index] + 0.1 * noise, index % CLASSES


def net():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, CLASSES))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def fit(loader, epochs=3, recorder=None, seed=0):
    """A training that draws for its order, its data and its dropout."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train(batches, note=lambda logits, labels: None):
        for x, y in batches:
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            note(logits, y)

    if recorder is None:
        for _ in range(epochs):
            train(loader)
    else:
        with recorder(model, optimizer) as attached:
            for _ in range(epochs):
                train(attached.epoch(), attached.batch)
    return weights(model), torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()


def same(one, other):
    return all(torch.equal(one[0][name], other[0][name]) for name in one[0]) and (
        torch.equal(one[1], other[1]) and one[2:] == other[2:]
    )


def train_with_and_without(folder, view, workers):
    """Recorded or not, a training ends in the same weights, and all generators in the same state."""

    def loader():
        return DataLoader(Drawn(), 7, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def same(one, other):
        return all(torch.equal(one[0][name], other[0][name]) for name in one[0]) and (
            torch.equal(one[1], other[1]) and one[2:] == other[2:]
        )

    def recorder(model, optimizer):
        return assay.record(
            folder, model, optimizer, loader(), assay.Recording(view=view, live=["dual"], keep_logits=True, checkpoints="every")
        )

    plain = fit(loader())
    assert same(fit(loader(), recorder=recorder), plain)
    assert not same(fit(loader(), seed=1), plain)


EPOCHS, STEPS = 4, 4
"""Of the runs that are killed; 26 examples in batches of 7."""

OPTIMIZERS = {
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01, amsgrad=True),
    "adamw": lambda params: torch.optim.AdamW([{"params": list(params), "lr": 0.02}], weight_decay=0.1),
}
SCHEDULERS = {
    "step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    "milestones": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3], gamma=0.1),
    "one_cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=EPOCHS * STEPS),
    "chain": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.LinearLR(optimizer, 0.1), torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)],
        milestones=[2],
    ),
}


def train(folder, result, optimizer, scheduler, die=None, resume=False, view="train", workers=0, own=False):
    """A user's script. `die` says after how many batches, or in which place between two epochs, it is killed."""
    model = net()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    scheduler = SCHEDULERS[scheduler](optimizer)
    by_batch = isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR)
    data, more = Drawn(), {"num_workers": workers, "persistent_workers": workers > 0}
    if own:
        shuffled = torch.utils.data.RandomSampler(data, generator=torch.Generator())
        loader = DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(shuffled, 7, drop_last=False), **more)
    else:
        loader = DataLoader(data, batch_size=7, shuffle=True, **more)
    batches = 0

    def reached(place):
        if place == die:
            os.kill(os.getpid(), signal.SIGKILL)

    with assay.record(
        folder,
        model,
        optimizer,
        loader,
        assay.Recording(view=view, live=["tdds:window=3"]),
        seed=3,
        resume=resume,
        stateful={"scheduler": scheduler},
    ) as recorder:
        batches = recorder.epochs * STEPS
        for epoch in range(recorder.epochs, EPOCHS):
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
                if by_batch:
                    scheduler.step()
                batches += 1
                reached(batches)
            reached(f"after {epoch}")
            if not by_batch:
                scheduler.step()
            reached(f"after the schedule of {epoch}")
    torch.save({"weights": weights(model), "optimizer": optimizer.state_dict()}, result)
