"""The facts of recorded epochs, read from disk."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.needs import Need
from .disk import TensorFile
from .run import Run


class RecordedEpochs:
    """The epochs of a run on disk, read fact by fact; one shard is open at a time."""

    def __init__(self, run: Run):
        self.recorded, self.holds = run.epochs, run.holds
        self._run = run
        self._open: tuple[int, TensorFile] | None = None

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch, as stored.

        Raises:
            RunError: The shard is missing or damaged.
        """
        if self._open is None or self._open[0] != epoch:
            self._open = epoch, self._run.shard(epoch)
        return self._open[1].read(need.value)

    def missing(self, epoch: int) -> Tensor | None:
        """The examples that the epoch did not train on; None if it trained on all."""
        return self._run.missing(epoch)


MEANT = frozenset({Need.TARGET_PROBS, Need.TOP_PROBS, Need.SECOND_PROBS})
"""Facts of an epoch whose mean over models says something by itself."""


class MeanEpochs:
    """Epochs of a recording of several models, with the mean over the models of those facts of which a mean makes sense."""

    def __init__(self, runs: Sequence[Run]):
        self.recorded, self.holds = runs[0].epochs, runs[0].holds & MEANT
        self._models = [RecordedEpochs(run) for run in runs]

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch, averaged in double precision.

        Raises:
            RunError: A shard is missing or damaged.
        """
        return torch.stack([model.read(epoch, need).to(torch.float64) for model in self._models]).mean(0)

    def missing(self, epoch: int) -> Tensor | None:
        """The examples that at least one model did not train on; None if every model trained on all."""
        masks = [mask for model in self._models if (mask := model.missing(epoch)) is not None]
        return torch.stack(masks).any(0) if masks else None
