"""The facts of recorded epochs, read from disk."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..core.method import AbstractMethod
from ..core.needs import CLASS_NEEDS, Need
from ..maths.observations import two_classes
from .disk import TensorFile
from .run import Run


class RecordedEpochs:
    """The epochs of a run on disk, read fact by fact; one shard is open at a time."""

    def __init__(self, run: Run, methods: Callable[[], Mapping[str, type[AbstractMethod]]] = dict):
        """Open the epochs of a run.

        `methods` gives the methods that there are, by name; of them `without_classes` names those that work.
        """
        self.recorded, self.holds, self.passes = run.epochs, run.holds, run.passes
        self._run, self._methods = run, methods
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

    @property
    def validated(self) -> bool:
        """Whether every epoch has the mean losses of validation examples."""
        return self._run.validated

    def validation_losses(self, epoch: int) -> Tensor:
        """Mean cross-entropy of the validation examples of each class after the epoch.

        Raises:
            RunError: The shard is missing or damaged.
        """
        found = self._run.validation(epoch)
        assert found is not None
        return found[0]

    @property
    def absent(self) -> frozenset[Need]:
        """The facts that the run has not, because its examples have no class."""
        if self._run.task == "classes":
            return frozenset()
        return (CLASS_NEEDS if self._run.task == "losses" else frozenset({Need.LABELS, Need.MEAN_PROBS})) | {Need.GAME}

    def without_classes(self) -> str:
        """What the run recorded in the place of classes, and which methods work."""
        able = [name for name, method in self._methods().items() if not method().reads & self.absent]
        return f"this run recorded {self._run.classes_in_words} example. Methods that work: {', '.join(able)}."


class LabelEpochs:
    """The epochs of a run of several labels for each example, with every pair of an example and a label as an example of two classes."""

    def __init__(self, run: Run):
        self._whole = RecordedEpochs(run)
        self.labels = run.label_matrix().shape[1]
        self.recorded, self.holds = run.epochs, run.holds

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch, of the first example's labels first.

        Raises:
            RunError: The shard is missing or damaged.
        """
        fact = self._whole.read(epoch, need).reshape(-1)
        return two_classes(fact) if need is Need.LOGITS else fact

    def missing(self, epoch: int) -> Tensor | None:
        """The pairs whose example the epoch did not train on; None if it trained on all."""
        missing = self._whole.missing(epoch)
        return None if missing is None else missing.repeat_interleave(self.labels)


MEANT = frozenset({Need.TARGET_PROBS, Need.TOP_PROBS, Need.SECOND_PROBS, Need.MARGINS})
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
