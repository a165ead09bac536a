"""The facts of recorded epochs, one epoch after the other, each fact read when it is first asked for."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..maths.observations import observe
from .errors import MissingEvidence, UndeclaredNeed
from .needs import EPOCH_NEEDS, Need


@runtime_checkable
class EpochSource(Protocol):
    """Where the facts of recorded epochs come from: a run on disk, tensors in memory, the epoch just trained."""

    recorded: int
    """How many epochs there are; they are numbered from 0."""
    holds: frozenset[Need]
    """The kinds of epoch facts (`Need`) that are available for every epoch."""

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch, in the order of the evidence's ids."""
        ...


@runtime_checkable
class PartialSource(EpochSource, Protocol):
    """A source some of whose epochs may have trained on a part of the examples."""

    def missing(self, epoch: int) -> Bool[Tensor, " examples"] | None:
        """The examples that an epoch has no facts of; None if it has facts of all."""
        ...


@runtime_checkable
class ClasslessSource(EpochSource, Protocol):
    """A source whose examples may have no class, but one loss each, or several labels."""

    absent: frozenset[Need]
    """The facts that there are not because an example has no class; empty where it has."""

    def without_classes(self) -> str:
        """What was recorded in the place of classes, and what can be scored, as the end of a sentence."""
        ...


@runtime_checkable
class ValidatedSource(EpochSource, Protocol):
    """A source that may know how well each epoch's model did on validation examples."""

    validated: bool
    """Whether every epoch has the mean losses of validation examples."""

    def validation_losses(self, epoch: int) -> Float[Tensor, " classes"]:
        """Mean cross-entropy of the validation examples of each class after the epoch, in nats; NaN for a class without any."""
        ...


Value = TypeVar("Value")
RECORD_ALL = "Record a clean pass after every epoch (Recording(view='eval'), `--view eval`), or every epoch of all examples (without select and partial)."
"""The cure where facts are missing."""
Space = dict[str, Tensor]
"""Memory that one epoch leaves to the next."""


class Epoch:
    """The facts of one epoch, each read when it is first asked for. Values are float64 whatever the store holds."""

    def __init__(
        self, source: EpochSource, index: int, needs: frozenset[Need], space: Space | None = None, *, partial: bool = False
    ):
        self.index = index
        self._partial = partial
        self._source, self._needs = source, needs
        self._space = {} if space is None else space
        self._read: dict[Any, Any] = {}

    def narrow(self, needs: frozenset[Need], *, partial: bool = False) -> "Epoch":
        """The same epoch with the same cache, restricted to the facts in `needs`; with `partial` the facts of some examples may be missing."""
        view = Epoch(self._source, self.index, self._needs & needs, self._space, partial=partial)
        view._read = self._read
        return view

    def _take(self, need: Need) -> Tensor:
        if need not in self._needs:
            raise UndeclaredNeed(f"`{need.value}` of epoch {self.index} was read but is not declared in `reads`.")
        if not self._partial and (missing := self.missing) is not None:
            raise MissingEvidence(
                f"Epoch {self.index} has no `{need.value}` of {int(missing.sum())} of {len(missing)} examples, on which it did not train. {RECORD_ALL}"
            )
        if need not in self._read:
            fact = self._source.read(self.index, need)
            self._read[need] = fact if need is Need.CORRECT else fact.to(torch.float64)
        return self._read[need]

    def once(self, key: tuple, make: Callable[[], Value]) -> Value:
        """A value that several methods of a pass share: computed for the first method that asks, then cached.

        Args:
            key: Everything that the value depends on: its name, its options, and, if it covers more than this epoch, its first epoch.
            make: Function that computes the value.

        Returns:
            What `make` gave, the same object for all that ask; it must not be written into.
        """
        if key not in self._read:
            self._read[key] = make()
        return self._read[key]

    @property
    def missing(self) -> Bool[Tensor, " examples"] | None:
        """The examples that this epoch did not train on, whose facts are NaN (`correct`: False); None if it trained on all."""
        source = self._source
        return self.once(("missing",), lambda: source.missing(self.index) if isinstance(source, PartialSource) else None)

    @property
    def target_probs(self) -> Float[Tensor, " examples"]:
        """Softmax probability of the given label, in [0, 1]."""
        return self._take(Need.TARGET_PROBS)

    @property
    def margins(self) -> Float[Tensor, " examples"]:
        """Logit of the given label minus the best other logit."""
        return self._take(Need.MARGINS)

    @property
    def losses(self) -> Float[Tensor, " examples"]:
        """Cross-entropy with the given label, in nats; in a run of losses the loss of each example, in its own unit."""
        return self._take(Need.LOSSES)

    @property
    def correct(self) -> Tensor:
        """Whether the first of the largest logits is the given label; bool, (examples,)."""
        return self._take(Need.CORRECT)

    @property
    def entropies(self) -> Float[Tensor, " examples"]:
        """Entropy of the softmax, in nats."""
        return self._take(Need.ENTROPIES)

    @property
    def error_norms(self) -> Float[Tensor, " examples"]:
        """Euclidean distance from softmax to the one-hot given label, in [0, sqrt 2]."""
        return self._take(Need.ERROR_NORMS)

    @property
    def top_probs(self) -> Float[Tensor, " examples"]:
        """Largest softmax probability."""
        return self._take(Need.TOP_PROBS)

    @property
    def second_probs(self) -> Float[Tensor, " examples"]:
        """Second largest softmax probability (equal to the largest at a tie)."""
        return self._take(Need.SECOND_PROBS)

    @property
    def logits(self) -> Float[Tensor, "examples classes"]:
        """Model outputs before the softmax."""
        return self._take(Need.LOGITS)

    @property
    def probs(self) -> Float[Tensor, "examples classes"]:
        """Softmax of the logits. Computed once and shared by all methods of a pass."""
        if Need.LOGITS not in self._needs or (not self._partial and self.missing is not None):
            return self._take(Need.LOGITS)
        return self.once(("probs",), self._softmax)

    def _softmax(self) -> Tensor:
        logits = self._read[Need.LOGITS] if Need.LOGITS in self._read else self._source.read(self.index, Need.LOGITS)
        # Classes first in memory: along a short last axis torch is several times slower. Not torch.softmax, whose last bits
        # depend on the number of threads.
        shape = logits.shape[::-1]
        if "probs" not in self._space or self._space["probs"].shape != shape:
            self._space["probs"] = torch.empty(shape, dtype=torch.float64)
        probs = self._space["probs"].copy_(logits.t())
        probs -= probs.amax(0)
        probs.exp_()
        probs /= probs.sum(0)
        return probs.t()


class EpochInMemory:
    """One epoch that was just trained."""

    def __init__(self, index: int, facts: Mapping[str, Tensor]):
        self.recorded = index + 1
        self.holds = frozenset(need for need in EPOCH_NEEDS if need.value in facts)
        self._facts = facts

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of this epoch."""
        return self._facts[need.value]

    def missing(self, epoch: int) -> Bool[Tensor, " examples"] | None:
        """The examples that it did not train on."""
        return self._facts["visits"] == 0 if "visits" in self._facts else None


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
