"""Methods that go through the epochs, or the optimizer steps, in order and keep only a small state."""

import abc
import dataclasses
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .epochs import RECORD_ALL, Epoch, Space
from .errors import MissingEvidence, UsageError, listed
from .evidence import Evidence
from .method import AbstractMethod
from .needs import EPOCH_NEEDS, Need
from .passes import Passes, called
from .results import Result, Stream
from .spans import span, steps_of
from .steps import Step

State = dict[str, Tensor]
"""What an accumulator keeps between epochs. Tensors only, so that it can be saved and loaded."""


class AbstractAccumulator(AbstractMethod):
    """A method that goes through the epochs in order and keeps a small state per example; it can run during training or on a recording.

    Call `start`, then `update` for each epoch of `epochs_read` in order, then `compute`.
    """

    copes_with_partial: ClassVar[bool] = False
    """Whether the method can read epochs that trained on only a part of the examples; such a method must look at `Epoch.missing`."""
    compares: ClassVar[Literal["nothing", "passes", "order"]] = "order"
    """What makes the score, where several epochs are read: `nothing` beside the value of each, the differences of `passes` whatever their order, or
    what comes after what (`order`). Held-out predictions that were saved are one pass, or repeats without an order."""

    @property
    @abc.abstractmethod
    def fewest_epochs(self) -> int:
        """The smallest number of recorded epochs from which the method can compute a value."""

    @abc.abstractmethod
    def epochs_read(self, recorded: int) -> range:
        """The epochs that can change the score of a run of `recorded` epochs."""

    @abc.abstractmethod
    def start(self, examples: int, classes: int) -> State:
        """The state before the first epoch."""

    @abc.abstractmethod
    def update(self, state: State, epoch: Epoch) -> None:
        """Update the state with one epoch, in place. The epoch's tensors are valid only until the next epoch: copy those that you keep."""

    @abc.abstractmethod
    def compute(self, state: State) -> Float[Tensor, " examples"]:
        """The values after the epochs absorbed so far; leaves the state as it is."""

    def scored(self, state: State) -> Bool[Tensor, " examples"] | None:
        """Which examples have a value after the epochs absorbed so far; None for all."""
        return None

    def run(self, evidence: Evidence) -> Result:
        """Compute the result in one pass over the epochs of `epochs_read`."""
        return accumulate([self], evidence)[0]


@dataclasses.dataclass(frozen=True)
class AbstractSpanMethod(AbstractAccumulator):
    """A method that reads the first epochs of a run.

    Args:
        epochs: How many epochs from the first on are read; all recorded ones by default.
    """

    epochs: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.epochs is not None and self.epochs < self.shortest_span:
            raise UsageError(f"{self.title}: epochs={self.epochs} is too few; at least {self.shortest_span} are needed.")

    @property
    def shortest_span(self) -> int:
        """The smallest value that `epochs` may have, by the other options such as a window; equals `fewest_epochs` if `epochs` is None."""
        return 1

    @property
    def fewest_epochs(self) -> int:
        return self.shortest_span if self.epochs is None else self.epochs

    def epochs_read(self, recorded: int) -> range:
        return range(recorded if self.epochs is None else min(self.epochs, recorded))


@dataclasses.dataclass(frozen=True)
class AbstractMeanMethod(AbstractSpanMethod):
    """The score is the mean over the first epochs of one number per epoch; with `copes_with_partial`, over those that trained on the example."""

    compares: ClassVar[Literal["nothing", "passes", "order"]] = "nothing"

    def start(self, examples: int, classes: int) -> State:
        return {"total": torch.zeros(examples, dtype=torch.float64), "seen": torch.zeros((), dtype=torch.int64)}

    def update(self, state: State, epoch: Epoch) -> None:
        value, missing = self.value(epoch), epoch.missing
        if missing is not None:
            value = value.masked_fill(missing, 0)
            state["missed"] = state.get("missed", torch.zeros(len(missing), dtype=torch.int64)) + missing
        state["total"] += value
        state["seen"] += 1

    def compute(self, state: State) -> Float[Tensor, " examples"]:
        if "missed" not in state:
            return state["total"] / state["seen"]
        # Not a number of those that no epoch trained on, which are not scored.
        return state["total"] / (state["seen"] - state["missed"])

    def scored(self, state: State) -> Bool[Tensor, " examples"] | None:
        return state["seen"] > state["missed"] if "missed" in state else None

    def speaks_of(self, evidence: Evidence) -> Bool[Tensor, " examples"]:
        seen = super().speaks_of(evidence)
        if not self.copes_with_partial:
            return seen
        never = seen
        for index in self.epochs_read(evidence.recorded):
            missing = evidence.epoch(index).missing
            if missing is None:
                return seen
            never = never & missing
        return seen & ~never

    @abc.abstractmethod
    def value(self, epoch: Epoch) -> Tensor:
        """One number or one bool per example, from the facts of this epoch."""


@dataclasses.dataclass(frozen=True)
class AbstractEpochMethod(AbstractAccumulator):
    """A method whose score is computed from one epoch alone.

    Args:
        at: Which epoch, counted from 0; -1 is the last recorded one.
    """

    at: int = -1
    compares: ClassVar[Literal["nothing", "passes", "order"]] = "nothing"

    def __post_init__(self):
        super().__post_init__()
        if self.at < -1:
            raise UsageError(f"{self.title}: at={self.at} is outside -1..; give an epoch counted from 0, or -1 for the last.")

    @property
    def fewest_epochs(self) -> int:
        return 1 if self.at == -1 else self.at + 1

    def epochs_read(self, recorded: int) -> range:
        return range(recorded - 1, recorded) if self.at == -1 else range(self.at, min(self.at + 1, recorded))

    def start(self, examples: int, classes: int) -> State:
        return {"value": torch.zeros(examples, dtype=torch.float64)}

    def update(self, state: State, epoch: Epoch) -> None:
        state["value"].copy_(self.value(epoch))

    def compute(self, state: State) -> Float[Tensor, " examples"]:
        return state["value"].clone()

    @abc.abstractmethod
    def value(self, epoch: Epoch) -> Float[Tensor, " examples"]:
        """One number per example from the facts of this epoch."""


class AbstractStepMethod(AbstractMethod):
    """A method that reads the optimizer steps in the order in which they were taken; it can run during training or on a replay.

    Call `start`, then `update` for each step in order, then `compute`. It declares the need `STEPS`.
    """

    reads: ClassVar[frozenset[Need]] = frozenset({Need.STEPS})

    window: str
    """The epochs that the score is computed from, as text (see `span`)."""

    def steps_read(self, epochs: Sequence[range]) -> range:
        """The steps that the method reads, chosen from the steps of each epoch."""
        counted = span(self.window, len(epochs), self.title)
        return range(epochs[counted.start].start, epochs[counted.stop - 1].stop)

    @abc.abstractmethod
    def start(self, examples: int, evidence: Evidence | None = None) -> Any:
        """The state before the first step; `evidence` is passed on a replay only.

        Raises:
            MissingEvidence: The method needs to know later steps in advance, so it cannot run during training.
        """

    @abc.abstractmethod
    def update(self, state: Any, step: Step) -> None:
        """Update the state with one step, in place. The step's tensors are valid only until the next step."""

    @abc.abstractmethod
    def compute(self, state: Any) -> Result:
        """The values after the steps absorbed so far, as if training ended here; leaves the state as it is.

        The tensors of the last step are still valid.
        """

    def streamed(self, state: Any) -> tuple[Stream | None, Any]:
        """The visits whose values are final, and the state without them; `state` is unchanged. None if there are no values over time."""
        return None, state

    def speaks_of(self, evidence: Evidence) -> Bool[Tensor, " examples"]:
        """The examples that occur in the batches of the window."""
        source = evidence.steps
        return source.visits(steps_of(source, span(self.window, len(source.epochs), self.title))) > 0

    def run(self, evidence: Evidence) -> Result:
        """Compute the result in one run over the steps of the window."""
        return run_steps([self], evidence)[0]


class Spent:
    """Seconds that each method took, by title: its own, and an equal part of those that it shared with others."""

    def __init__(self) -> None:
        self.seconds: MutableMapping[str, float] = {}
        self._since = time.perf_counter()

    def since_last(self, methods: Sequence[AbstractMethod]) -> None:
        """Add the seconds since the last call to the times of these methods, in equal parts; without methods they are not counted."""
        now = time.perf_counter()
        for method in methods:
            self.seconds[method.title] = self.seconds.get(method.title, 0.0) + (now - self._since) / len(methods)
        self._since = now


def run_steps(methods: Sequence[AbstractStepMethod], evidence: Evidence, spent: Spent | None = None) -> list[Result]:
    """Show the steps of one replay to several methods."""
    spent, source = spent or Spent(), evidence.steps
    wanted = [method.steps_read(source.epochs) for method in methods]
    states = []
    for method in methods:
        states.append(method.start(len(evidence.ids), evidence.narrow(method.title, method.reads)))
        spent.since_last([method])
    for step in source.forwards(range(min(one.start for one in wanted), max(one.stop for one in wanted))):
        # The step is taken for all that read it, and on the way to the first step that a later window reads for all.
        spent.since_last([method for method, steps in zip(methods, wanted, strict=True) if step.index in steps] or methods)
        for method, state, steps in zip(methods, states, wanted, strict=True):
            if step.index in steps:
                method.update(state, step)
                spent.since_last([method])
    found = []
    for method, state in zip(methods, states, strict=True):
        found.append(method.compute(state))
        spent.since_last([method])
    return found


def too_few(
    method: AbstractAccumulator,
    recorded: int,
    served: Callable[[AbstractAccumulator], bool] = lambda _: True,
    passes: Passes | None = None,
) -> MissingEvidence:
    """The error for a method that reads more epochs than were recorded; it suggests an option that fits and that `served` accepts, if any."""
    near = fitting(method, recorded, served)
    has, more = str(recorded), "Record more epochs"
    if "pass" in (words := called(passes, recorded)):
        has, more = f"{recorded} {words[recorded != 1]}", "Record, or give, the passes of more epochs"
    return MissingEvidence(
        f"{method.title} reads at least {method.fewest_epochs} epochs, but this run has {has}. {more}"
        + (f", or score {near.title}, which fits." if near is not None else ".")
    )


def unserved(method: AbstractAccumulator, evidence: Evidence) -> MissingEvidence | None:
    """Why a method cannot run on the recorded epochs: these did not train on all examples, or are too few; None if it can."""
    missing = {} if method.copes_with_partial else evidence.missing(method.epochs_read(evidence.recorded))
    # More epochs of the same kind would be missing facts too.
    if missing:
        low, high = min(missing.values()), max(missing.values())
        return MissingEvidence(
            f"{method.title} reads epochs that did not train on every example: in epoch{'s' * (len(missing) > 1)} "
            f"{listed(list(missing), len(missing))} the facts of {low if low == high else f'{low} to {high}'} of {len(evidence.ids)} are missing. "
            f"{RECORD_ALL}"
        )
    if evidence.recorded >= method.fewest_epochs:
        return _not_comparable(method, evidence)
    return too_few(method, evidence.recorded, lambda other: unserved(other, evidence) is None, evidence.passes)


def _not_comparable(method: AbstractAccumulator, evidence: Evidence) -> MissingEvidence | None:
    """Why a method cannot compare the passes that somebody else saved; None if it can, or compares none, or the epochs are those of a recording."""
    passes = evidence.passes
    if passes is None or method.compares == "nothing":
        return None
    if len(method.epochs_read(evidence.recorded)) < 2:
        return MissingEvidence(
            f"{method.title} compares passes with each other, and reads one here; give the passes of several epochs, or score what one pass can "
            "tell, such as confidence, aum or loss."
        )
    if method.compares == "order" and passes.repeats:
        return MissingEvidence(
            f"{method.title} follows examples from epoch to epoch, and the {evidence.recorded} passes here are repeats without an order; give the passes "
            "of one training in their order, or score what repeats can tell, such as confidence, aum or variability."
        )
    return None


def fitting(
    method: AbstractAccumulator, recorded: int, served: Callable[[AbstractAccumulator], bool]
) -> AbstractAccumulator | None:
    """The same method with one of its options lowered until it reads no more epochs than there are; None if no single option does that.

    The option is lowered to the largest value that fits and that `served` accepts; if several options would do, the first is lowered.

    Returns:
        A method that fits, or None.
    """
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        value = getattr(method, field.name)
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        for lower in range(min(value - 1, recorded), -1, -1):
            try:
                made = dataclasses.replace(method, **{field.name: lower})  # type: ignore[type-var]
            except UsageError:
                continue
            if made.fewest_epochs <= recorded and served(made):
                return made
    return None


def accumulate(methods: Sequence[AbstractAccumulator], evidence: Evidence, spent: Spent | None = None) -> list[Result]:
    """Show the recorded epochs to several methods in one pass: each fact is read once, whoever asks for it.

    Returns:
        One result per method, in their order.

    Raises:
        MissingEvidence: A method needs more epochs than were recorded, or examples that an epoch did not train on.
    """
    for method in methods:
        if (why := unserved(method, evidence)) is not None:
            raise why
    spent = spent or Spent()
    states = [method.start(len(evidence.ids), evidence.classes) for method in methods]
    read = [method.epochs_read(evidence.recorded) for method in methods]
    spent.since_last(methods)
    # Fresh memory of this size costs more than the sums that fill it.
    space: Space = {}
    for index in range(evidence.recorded):
        epoch = None
        for method, state, wanted in zip(methods, states, read, strict=True):
            if index in wanted:
                epoch = epoch or evidence.epoch(index, space)
                method.update(state, epoch.narrow(method.reads & EPOCH_NEEDS, partial=method.copes_with_partial))
                spent.since_last([method])
    found = []
    for method, state in zip(methods, states, strict=True):
        found.append(Result(method.compute(state), scored=method.scored(state)))
        spent.since_last([method])
    return found
