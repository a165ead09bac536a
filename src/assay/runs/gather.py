"""From a run, or from tensors in memory, to the evidence that methods read."""

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.errors import NumericalError, some
from ..core.evidence import Evidence
from ..core.ids import Ids
from ..core.needs import EPOCH_NEEDS, Need
from ..maths.observations import faults, observe
from .disk import TensorFile
from .replay import Replay
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


MEANT = frozenset({Need.TARGET_PROBS, Need.TOP_PROBS, Need.SECOND_PROBS})
"""Facts of an epoch whose mean over models says something by itself."""


class EpochsInMemory:
    """Epochs given as logits; the facts of one epoch are computed together and held until another is read."""

    holds = EPOCH_NEEDS

    def __init__(self, logits: Float[Tensor, "epochs examples classes"], labels: Int[Tensor, " examples"]):
        self.recorded = len(logits)
        self._logits, self._labels = logits, labels
        self._facts: tuple[int, dict[str, Tensor]] | None = None

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch, in the precision of the logits."""
        if need is Need.LOGITS:
            return self._logits[epoch]
        if self._facts is None or self._facts[0] != epoch:
            self._facts = epoch, observe(self._logits[epoch], self._labels)
        return self._facts[1][need.value]


@checked_arguments
def gather(run: Run, replay: Replay | None = None, inputs: Mapping[str, Tensor] | None = None) -> Evidence:
    """Everything a run says of its examples, read when it is asked for.

    Args:
        run: The run.
        replay: Its steps and kept models, where model and data are at hand to take them again.
        inputs: The examples themselves and rows from outside, by name, where they are at hand.
    """
    return Evidence(
        run.ids,
        run.classes,
        labels=run.labels,
        epochs=RecordedEpochs(run) if run.epochs else None,
        mean_probs=_together([run]),
        inputs=inputs,
        checkpoints=replay,  # type: ignore[arg-type]
        steps=replay,  # type: ignore[arg-type]
    )


def _together(runs: Sequence[Run]) -> Callable[[], Tensor] | None:
    """What reads the mean probabilities of some models, once and when they are asked for; None if a model kept none."""
    if not all(run.keeps_probs for run in runs):
        return None

    @functools.cache
    def read() -> Tensor:
        total = _probs(runs[0])
        for run in runs[1:]:
            total += _probs(run)
        return total / len(runs) if len(runs) > 1 else total

    return read


def _probs(run: Run) -> Tensor:
    probs = run.mean_probs()
    assert probs is not None
    return probs


class MeanEpochs:
    """Epochs of several models of a recording: the mean of the facts that have one."""

    def __init__(self, runs: Sequence[Run]):
        self.recorded, self.holds = runs[0].epochs, runs[0].holds & MEANT
        self._models = [RecordedEpochs(run) for run in runs]

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch, averaged in double precision.

        Raises:
            RunError: A shard is missing or damaged.
        """
        return torch.stack([model.read(epoch, need).to(torch.float64) for model in self._models]).mean(0)


def gather_together(runs: Sequence[Run]) -> Evidence:
    """What the models of a recording say on average: probabilities, for policies and the page; of one run, what it says."""
    first = runs[0]
    if len(runs) == 1:
        return gather(first)
    return Evidence(
        first.ids,
        first.classes,
        labels=first.labels,
        epochs=MeanEpochs(runs),
        mean_probs=_together(runs),
    )


@checked_arguments
def gather_logits(ids: Ids, logits: Float[Tensor, "epochs examples classes"], labels: Int[Tensor, " examples"]) -> Evidence:
    """The evidence of logits in memory, such as those of a paper's released files.

    Raises:
        NumericalError: A logit is NaN or infinite; names the epoch and ids.
    """
    labels = labels.to(torch.int64)
    for epoch, rows in enumerate(logits):
        for bad, what, cure in faults(rows, labels):
            names = ids.take(bad)
            raise NumericalError(f"Epoch {epoch}: logits of {len(names)} examples {what}; ids {some(names, len(names))}. {cure}.")

    @functools.cache
    def mean() -> Tensor:
        total = torch.zeros(logits.shape[1:], dtype=torch.float64)
        for rows in logits:
            total += rows.to(torch.float64).softmax(-1)
        return total / len(logits)

    return Evidence(ids, logits.shape[-1], labels=labels, epochs=EpochsInMemory(logits, labels), mean_probs=mean)


@checked_arguments
def gather_inputs(ids: Ids, inputs: Float[Tensor, "examples ..."], labels: Int[Tensor, " examples"]) -> Evidence:
    """The evidence of inputs in memory, such as embeddings of any model, for methods that need no training.

    Raises:
        UsageError: Inputs and labels do not fit the ids, or an input is not finite; names the ids.
    """
    labels = labels.to(torch.int64)
    return Evidence(ids, max(2, int(labels.max()) + 1), labels=labels, inputs=inputs)
