"""What a method may look at. It never holds the answer: which labels were planted wrong is not evidence."""

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import MissingEvidence, UndeclaredNeed, UsageError, some
from .ids import Ids


class Need(enum.Enum):
    """One kind of fact. The value is its name; `how` tells a user how to get it recorded."""

    LABELS = "labels", "every run records the given labels"
    TARGET_PROBS = "target_probs", "every run records it"
    MARGINS = "margins", "every run records it"
    LOSSES = "losses", "every run records it"
    CORRECT = "correct", "every run records it"
    ENTROPIES = "entropies", "every run records it"
    ERROR_NORMS = "error_norms", "every run records it"
    TOP_PROBS = "top_probs", "every run records it"
    SECOND_PROBS = "second_probs", "every run records it"
    LOGITS = "logits", "record with keep_logits=True (`assay record --keep-logits`), or score live while training"
    MEAN_PROBS = "mean_probs", "record with mean_probs=True (`assay record --mean-probs`), which is the default"
    GRADIENTS = "gradients", "gather from a run with checkpoints (checkpoints='every') together with its model and data"
    STEPS = "steps", "gather from a run with checkpoints and order together with its model and data"
    UTILITY = "utility", "give a function that retrains on some ids and returns a number"

    how: str

    def __new__(cls, value: str, how: str) -> "Need":
        member = object.__new__(cls)
        member._value_ = value
        member.how = how
        return member


EPOCH_NEEDS = frozenset(
    {
        Need.TARGET_PROBS,
        Need.MARGINS,
        Need.LOSSES,
        Need.CORRECT,
        Need.ENTROPIES,
        Need.ERROR_NORMS,
        Need.TOP_PROBS,
        Need.SECOND_PROBS,
        Need.LOGITS,
    }
)
"""The needs that exist once per epoch and example."""


@runtime_checkable
class EpochSource(Protocol):
    """Where the facts of recorded epochs come from: a run on disk, tensors in memory, the epoch just trained."""

    recorded: int
    """How many epochs there are; they are numbered from 0."""
    holds: frozenset[Need]
    """The epoch needs that every epoch has."""

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch, in the order of the evidence's ids."""
        ...


Value = TypeVar("Value")
Space = dict[str, Tensor]
"""Memory that one epoch leaves to the next."""


class Epoch:
    """The facts of one epoch, each read when it is first asked for. Values are float64 whatever the store holds."""

    def __init__(self, source: EpochSource, index: int, needs: frozenset[Need], space: Space | None = None):
        self.index = index
        self._source, self._needs = source, needs
        self._space = {} if space is None else space
        self._read: dict[Any, Any] = {}

    def narrow(self, needs: frozenset[Need]) -> "Epoch":
        """The same epoch and the same cache, restricted to `needs`."""
        view = Epoch(self._source, self.index, self._needs & needs, self._space)
        view._read = self._read
        return view

    def _take(self, need: Need) -> Tensor:
        if need not in self._needs:
            raise UndeclaredNeed(f"`{need.value}` of epoch {self.index} was read but is not declared in `needs`.")
        if need not in self._read:
            fact = self._source.read(self.index, need)
            self._read[need] = fact if need is Need.CORRECT else fact.to(torch.float64)
        return self._read[need]

    def once(self, key: tuple, make: Callable[[], Value]) -> Value:
        """A value that several methods of a pass make alike, made by the first that asks.

        Args:
            key: Everything that the value depends on: what it is, its options, and the first epoch it looks at if not only this one.
            make: Makes it.
        """
        if key not in self._read:
            self._read[key] = make()
        return self._read[key]

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
        """Cross-entropy with the given label, in nats."""
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
        if Need.LOGITS not in self._needs:
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


@dataclasses.dataclass(frozen=True)
class GradientBlock:
    """Loss gradients of some examples at one checkpoint, one row per example."""

    positions: Int[Tensor, " block"]
    gradients: Float[Tensor, "block params"]


@runtime_checkable
class GradientSource(Protocol):
    """Per-example gradients in blocks, so that no (examples x params) matrix is ever held."""

    checkpoints: int
    """How many there are; they are numbered from 0."""

    def blocks(self, checkpoint: int) -> Iterator[GradientBlock]:
        """Every example once, in blocks of any size."""
        ...


Params = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Step:
    """One optimizer step as it was taken: which examples, at which rate, from which parameters.

    Attributes:
        index: Number of the step, counted from 0 over the whole run.
        positions: The batch, in the order of the evidence's ids. An example may stand in it twice.
        rates: Learning rate of each parameter, by name.
        params: Trainable parameters before the step, by name.
        buffers: What the optimizer carries from step to step, before the step; empty for plain SGD.
    """

    index: int
    positions: Int[Tensor, " batch"]
    rates: Mapping[str, float]
    params: Params
    buffers: Params = dataclasses.field(default_factory=dict)


@runtime_checkable
class StepSource(Protocol):
    """A recorded stretch of training that can be walked backwards and differentiated."""

    recorded: int
    """How many steps there are."""
    visited: Bool[Tensor, " examples"]
    """Which examples any of the steps trained on. Known without a replay."""
    final_params: Params
    """Trainable parameters after the last step."""

    def backwards(self) -> Iterator[Step]:
        """The steps from the last to the first."""
        ...

    def losses(self, params: Params, step: Step) -> Float[Tensor, " batch"]:
        """Loss of each example of the step's batch at `params`, differentiable."""
        ...

    def advance(self, params: Params, buffers: Params, weights: Float[Tensor, " batch"], step: Step) -> tuple[Params, Params]:
        """Parameters and buffers after the step, differentiable in all three.

        `weights` multiply the losses of the batch, whose mean is still taken over its whole size: ones repeat the step as it was
        recorded, a zero takes an example out. Only the source knows the optimizer, so a method that walks backwards through
        `advance` is right for each of them.
        """
        ...

    def target(self, params: Params) -> Float[Tensor, ""]:
        """The number whose change is asked for (say, mean validation loss) at `params`, differentiable."""
        ...


Utility = Callable[[Ids], float]
"""Retrains on exactly these ids and returns how good the result is; larger is better."""


class Evidence:
    """Facts about one recorded run, each under the need that names it.

    Attributes:
        ids: Stable id of each example; every fact is in this order.
        classes: How many classes the labels are drawn from.
        recorded: How many epochs were recorded (0 without a recording of epochs).
    """

    def __init__(
        self,
        ids: Ids,
        classes: int,
        *,
        labels: Int[Tensor, " examples"] | None = None,
        epochs: EpochSource | None = None,
        mean_probs: Float[Tensor, "examples classes"] | None = None,
        gradients: GradientSource | None = None,
        steps: StepSource | None = None,
        utility: Utility | None = None,
    ):
        """Put facts under their needs.

        Raises:
            UsageError: Labels or mean probabilities do not fit the ids and classes.
        """
        if labels is not None:
            _check_labels(labels, ids, classes)
        if mean_probs is not None and mean_probs.shape != (len(ids), classes):
            raise UsageError(
                f"Mean probabilities of shape {tuple(mean_probs.shape)} do not fit {len(ids)} examples of {classes} classes."
            )
        self.ids, self.classes = ids, classes
        self.recorded = epochs.recorded if epochs is not None else 0
        held = {
            Need.LABELS: labels,
            Need.MEAN_PROBS: mean_probs,
            Need.GRADIENTS: gradients,
            Need.STEPS: steps,
            Need.UTILITY: utility,
        }
        self._held = {need: fact for need, fact in held.items() if fact is not None}
        self._source = epochs
        self._needs = frozenset(self._held) | (epochs.holds if epochs is not None else frozenset())

    @property
    def holds(self) -> frozenset[Need]:
        """The needs that can be read here."""
        return self._needs

    def narrow(self, reader: str, needs: frozenset[Need]) -> "Evidence":
        """The same facts, only those in `needs`.

        Raises:
            MissingEvidence: A need was never recorded; says how to record it.
        """
        if missing := sorted(needs - self._needs, key=lambda need: need.value):
            ways = "; ".join(f"{need.value}: {need.how}" for need in missing)
            raise MissingEvidence(f"{reader} needs {', '.join(n.value for n in missing)}, which this run lacks ({ways}).")
        view = object.__new__(Evidence)
        view.ids, view.classes, view.recorded = self.ids, self.classes, self.recorded
        view._held = {need: fact for need, fact in self._held.items() if need in needs}
        view._source = self._source
        view._needs = needs
        return view

    def _take(self, need: Need):
        if need not in self._needs or need not in self._held:
            raise UndeclaredNeed(f"`{need.value}` was read but is not declared in `needs`.")
        return self._held[need]

    def epoch(self, index: int, space: Space | None = None) -> Epoch:
        """One recorded epoch, showing the declared epoch facts only.

        Args:
            index: Which one, counted from 0.
            space: Memory to use again; what an earlier epoch of the same space gave is written over.

        Raises:
            UsageError: There is no such epoch.
        """
        if self._source is None or not 0 <= index < self.recorded:
            raise UsageError(f"Epoch {index} is not recorded; {self.recorded} epochs are, numbered from 0.")
        return Epoch(self._source, index, self._needs & EPOCH_NEEDS, space)

    @property
    def labels(self) -> Int[Tensor, " examples"]:
        """Given (possibly wrong) class, in [0, classes)."""
        return self._take(Need.LABELS)

    @property
    def mean_probs(self) -> Float[Tensor, "examples classes"]:
        """Softmax probabilities averaged over all recorded epochs."""
        return self._take(Need.MEAN_PROBS)

    @property
    def gradients(self) -> GradientSource:
        """Per-example gradients in blocks."""
        return self._take(Need.GRADIENTS)

    @property
    def steps(self) -> StepSource:
        """Replayed training steps."""
        return self._take(Need.STEPS)

    @property
    def utility(self) -> Utility:
        """A function from ids to a number, by retraining."""
        return self._take(Need.UTILITY)


def _check_labels(labels: Tensor, ids: Ids, classes: int) -> None:
    if labels.shape != (len(ids),):
        raise UsageError(f"Labels of shape {tuple(labels.shape)} do not fit {len(ids)} examples; give one class each.")
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        names, values = ids.take(outside), labels[outside].unique().tolist()
        raise UsageError(
            f"{len(names)} labels are outside 0..{classes - 1} ({some(values, len(values))}); ids {some(names, len(names))}."
        )
