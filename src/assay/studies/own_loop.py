"""A training in one's own loop, recorded: given weights, order of the examples and rates, so that published protocols can be followed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..integrations.pytorch import record as recording
from ..replay.loop import Loop
from ..replay.losses import Losses, cross_entropies
from ..runs.recording import Recording

Epochs = Sequence[Sequence[np.ndarray]]
"""The batches of each epoch, as positions."""


class Rows(Dataset):
    """Inputs and labels."""

    def __init__(self, inputs: Tensor, labels: Tensor):
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.inputs[place], self.labels[place]

    def __getitems__(self, places: list[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.inputs[places].unbind(), self.labels[places].unbind(), strict=True))


class Given:
    """Batches as they were given, epoch by epoch."""

    def __init__(self, epochs: Epochs):
        self.epochs, self.epoch = epochs, 0

    def __len__(self) -> int:
        return len(self.epochs[self.epoch])

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.epochs[self.epoch])


def stacked(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch of these items; less work than torch's own collate."""
    inputs, labels = zip(*items, strict=True)
    return torch.stack(inputs), torch.stack(labels)


def as_classes(logits: Tensor) -> Tensor:
    """Logits of two classes from the one logit of a binary net."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def record(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    epochs: Epochs,
    *,
    losses: Losses = cross_entropies,
    rate: Callable[[int], float] | None = None,
) -> Loop:
    """Train as given, record it with all checkpoints, and say what the loop consisted of.

    Args:
        folder: Where the run is written.
        model: Trained in place.
        optimizer: Over its parameters.
        inputs: Of all examples.
        labels: The given classes.
        epochs: Batches of each epoch.
        losses: The loss of each example.
        rate: Learning rate by step, from 0; None leaves the optimizer's.
    """
    given = Given(epochs)
    loader = DataLoader(Rows(inputs, labels), batch_sampler=given, collate_fn=stacked)
    # What `losses` asks the model for is what is recorded, without a second pass.
    seen: list[Tensor] = []
    watch = model.register_forward_hook(lambda net, args, logits: seen.append(logits.detach()))
    step = 0
    # A seed, so that steps of nets with dropout can be taken again too.
    with recording(folder, model, optimizer, loader, Recording(checkpoints="every"), seed=0) as recorder:
        for epoch in range(len(epochs)):
            given.epoch = epoch
            for x, y in recorder.epoch():
                if rate is not None:
                    for group in optimizer.param_groups:
                        group["lr"] = rate(step)
                optimizer.zero_grad()
                losses(model, (x, y)).mean().backward()
                optimizer.step()
                recorder.batch(as_classes(seen.pop()), y)
                step += 1
    watch.remove()
    return Loop(
        model,
        optimizer,
        loader,
        losses,
        loss=lambda net, batch: losses(net, batch).mean(),
        begin_epoch=lambda epoch: setattr(given, "epoch", epoch),
    )
