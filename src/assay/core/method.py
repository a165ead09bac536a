"""The one interface that a scoring method implements, and the one function that runs it."""

import abc
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from . import options
from .errors import BadScores, MissingEvidence, UsageError, some
from .evidence import EPOCH_NEEDS, Epoch, Evidence, Need, Space, Step, StepSource
from .scores import Direction, Scores

State = dict[str, Tensor]
"""What a fold keeps between epochs. Tensors only, so that it can be saved and loaded."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a formula comes from, and how ours departs from it."""

    cite: str
    url: str
    departures: str = "none"


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A value over time: what each visit of an example to a step was worth.

    Attributes:
        steps: Number of the step, counted over the whole run.
        positions: Which example.
        values: What the visit adds to its value.
    """

    steps: Int[Tensor, " visits"]
    positions: Int[Tensor, " visits"]
    values: Float64[Tensor, " visits"]

    @classmethod
    def joined(cls, parts: Iterable[tuple[int, Tensor, Tensor]]) -> "Stream":
        """From (step, positions, values) of single steps, in the order of the steps."""
        rows = sorted(parts, key=lambda part: part[0])
        if not rows:
            return cls(*(torch.zeros(0, dtype=kind) for kind in (torch.int64, torch.int64, torch.float64)))
        steps = [torch.full((len(positions),), step, dtype=torch.int64) for step, positions, _ in rows]
        return cls(torch.cat(steps), torch.cat([row[1] for row in rows]), torch.cat([row[2] for row in rows]))


def derivatives_taken(ways: Iterable[str]) -> dict[str, object]:
    """The diagnostic that tells how derivatives were taken, which differ in speed only."""
    return {"derivatives taken by": ", ".join(sorted(ways)) or "none"}


@dataclasses.dataclass(frozen=True)
class Findings:
    """Values, and what a method has to say beside them.

    Attributes:
        values: One number per example, in the order of the evidence's ids.
        by_epoch: What each epoch adds to the value; None for methods whose value is no sum over epochs.
        diagnostics: Numbers, texts and lists of them, by name: how far the values can be trusted.
        warnings: What a reader must know before trusting the values, a sentence each.
        stream: For folds over steps that ran along, the visits that `streamed` has not handed over yet.
        repeats: The values by each repetition of what they are means of, such as random draws or models; None where there is one.
    """

    # Not typed by shape: what a method returns is held against its evidence in `checked`, which says so in words.
    values: Tensor
    by_epoch: Tensor | None = None
    diagnostics: Mapping[str, object] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    stream: Stream | None = None
    repeats: Tensor | None = None


class AbstractMethod(abc.ABC):
    """Gives every training example one number. Subclasses are final frozen dataclasses whose fields are the options."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    direction: ClassVar[Direction]
    unit: ClassVar[str]
    source: ClassVar[Source]
    retrains: ClassVar[bool] = False
    """Whether whole trainings are asked for, which can run in other processes."""

    def __post_init__(self):
        """Refuse options of the wrong type. Subclasses check ranges after this.

        Raises:
            UsageError: An option is not what its type says.
        """
        options.settle(self, "method")

    @abc.abstractmethod
    def values(self, evidence: Evidence) -> Float[Tensor, " examples"]:
        """One number per example, in the order of `evidence.ids`."""

    @classmethod
    def together(cls, methods: Sequence["AbstractMethod"], evidence: Evidence) -> list["Tensor | Findings"]:
        """The values of several methods of this class, for classes that can share work between them."""
        return [method.findings(evidence.narrow(method.title, method.needs)) for method in methods]

    def findings(self, evidence: Evidence) -> "Tensor | Findings":
        """The values, for methods that have more to say with what that is."""
        return self.values(evidence)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the numbers whose change the method asks for."""
        return ()

    @property
    def asks_inputs(self) -> str | None:
        """Name of the rows from outside that the method looks at in place of the data; None where it looks at the data, or at none."""
        return None

    @property
    def asks_reference(self) -> str | None:
        """Name of what the method steps towards, which may be parameters from outside; None where there is no such thing."""
        return None

    def scored(self, evidence: Evidence) -> Bool[Tensor, " examples"]:
        """Which examples the method can speak of at all; the others are reported as unscored, never as 0."""
        return torch.ones(len(evidence.ids), dtype=torch.bool)

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `dual:window=5`."""
        return options.join(self.name, options.changed(self))


class AbstractDynamicsMethod(AbstractMethod):
    """A method that is a fold over epochs: small state per example, one epoch at a time, so live and on disk alike.

    `start`, then `absorb` for each epoch of `epochs_read` in order, then `finish`.
    """

    @property
    @abc.abstractmethod
    def fewest_epochs(self) -> int:
        """How many recorded epochs it takes before there is a value."""

    @abc.abstractmethod
    def epochs_read(self, recorded: int) -> range:
        """The epochs that can change the score of a run of `recorded` epochs."""

    @abc.abstractmethod
    def start(self, examples: int, classes: int) -> State:
        """The state before the first epoch."""

    @abc.abstractmethod
    def absorb(self, state: State, epoch: Epoch) -> None:
        """Take one epoch into the state, in place. What the epoch gives is only lent: copy what is kept."""

    @abc.abstractmethod
    def finish(self, state: State) -> Float[Tensor, " examples"]:
        """The values after the epochs absorbed so far; leaves the state as it is."""

    def values(self, evidence: Evidence) -> Float[Tensor, " examples"]:
        """Fold over the epochs that are read."""
        return fold([self], evidence)[0]


@dataclasses.dataclass(frozen=True)
class AbstractSpanMethod(AbstractDynamicsMethod):
    """A fold over the first epochs of a run.

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
        """The fewest epochs that give a value."""
        return 1

    @property
    def fewest_epochs(self) -> int:
        return self.shortest_span if self.epochs is None else self.epochs

    def epochs_read(self, recorded: int) -> range:
        return range(recorded if self.epochs is None else min(self.epochs, recorded))


@dataclasses.dataclass(frozen=True)
class AbstractMeanMethod(AbstractSpanMethod):
    """The mean over the first epochs of one number per epoch."""

    def start(self, examples: int, classes: int) -> State:
        return {"total": torch.zeros(examples, dtype=torch.float64), "seen": torch.zeros((), dtype=torch.int64)}

    def absorb(self, state: State, epoch: Epoch) -> None:
        state["total"] += self.value(epoch)
        state["seen"] += 1

    def finish(self, state: State) -> Float[Tensor, " examples"]:
        return state["total"] / state["seen"]

    @abc.abstractmethod
    def value(self, epoch: Epoch) -> Tensor:
        """One number, or whether, per example from the facts of this epoch."""


@dataclasses.dataclass(frozen=True)
class AbstractEpochMethod(AbstractDynamicsMethod):
    """A value of one single epoch.

    Args:
        at: Which epoch, counted from 0; -1 is the last recorded one.
    """

    at: int = -1

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

    def absorb(self, state: State, epoch: Epoch) -> None:
        state["value"].copy_(self.value(epoch))

    def finish(self, state: State) -> Float[Tensor, " examples"]:
        return state["value"].clone()

    @abc.abstractmethod
    def value(self, epoch: Epoch) -> Float[Tensor, " examples"]:
        """One number per example from the facts of this epoch."""


class AbstractStepMethod(AbstractMethod):
    """A method that is a fold over the optimizer steps in the order in which they were taken, so live and on a replay alike.

    `start`, then `absorb` for each step in order, then `finish`. Its needs are `STEPS`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.STEPS})

    window: str
    """Which epochs count (see `span`)."""

    def reads(self, epochs: Sequence[range]) -> range:
        """The steps that are to be seen, given those of each epoch."""
        counted = span(self.window, len(epochs), self.title)
        return range(epochs[counted.start].start, epochs[counted.stop - 1].stop)

    @abc.abstractmethod
    def start(self, examples: int, evidence: Evidence | None = None) -> Any:
        """What is kept between steps, before the first; `evidence` is there on a replay only.

        Raises:
            MissingEvidence: The method looks ahead, so that it cannot run while training goes on.
        """

    @abc.abstractmethod
    def absorb(self, state: Any, step: Step) -> None:
        """Take one step into the state, in place. What the step gives is only lent."""

    @abc.abstractmethod
    def finish(self, state: Any) -> Findings:
        """The values after the steps absorbed so far, as if training ended here; leaves the state as it is.

        What the last step lent is still there.
        """

    def streamed(self, state: Any) -> tuple[Stream | None, Any]:
        """The visits that are valued for good, and the state without them; `state` stays as it is. None without a value over time."""
        return None, state

    def scored(self, evidence: Evidence) -> Bool[Tensor, " examples"]:
        """Those that stand in the batches of the window."""
        source = evidence.steps
        return source.visits(steps_of(source, span(self.window, len(source.epochs), self.title))) > 0

    def values(self, evidence: Evidence) -> Float[Tensor, " examples"]:
        """Fold over the steps of the window."""
        return walk([self], evidence)[0].values


def span(window: str, epochs: int, title: str) -> range:
    """The epochs of a window: `all`, `last`, or `FIRST-LAST` counted from 0, such as `3-5`.

    Raises:
        UsageError: None of these, or outside the recorded epochs.
    """
    if window == "all":
        return range(epochs)
    if window == "last":
        return range(epochs - 1, epochs)
    first, _, last = window.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise UsageError(f"{title}: window={window!r} is not all, last, or epochs such as 3-5.")
    if not int(first) <= int(last) < epochs:
        raise UsageError(f"{title}: window={window} is outside the {epochs} recorded epochs, 0-{epochs - 1}.")
    return range(int(first), int(last) + 1)


def checked_span(window: str, title: str) -> None:
    """Refuse a window that no run has.

    Raises:
        UsageError: It is not `all`, `last` or `FIRST-LAST`.
    """
    last = window.partition("-")[2]
    span(window, int(last) + 1 if last.isdecimal() else 1, title)


def steps_of(source: StepSource, epochs: range) -> range:
    """The steps of some epochs in a row."""
    return range(source.epochs[epochs.start].start, source.epochs[epochs.stop - 1].stop)


class Spent:
    """Seconds that each method took, by title: its own, and an equal part of those that it shared with others."""

    def __init__(self) -> None:
        self.seconds: MutableMapping[str, float] = {}
        self._since = time.perf_counter()

    def since_last(self, methods: Sequence[AbstractMethod]) -> None:
        """What went by since the last call was spent on these methods; on nobody's account if there is none."""
        now = time.perf_counter()
        for method in methods:
            self.seconds[method.title] = self.seconds.get(method.title, 0.0) + (now - self._since) / len(methods)
        self._since = now


def walk(methods: Sequence[AbstractStepMethod], evidence: Evidence, spent: Spent | None = None) -> list[Findings]:
    """Run several folds over steps in one replay."""
    spent, source = spent or Spent(), evidence.steps
    wanted = [method.reads(source.epochs) for method in methods]
    states = []
    for method in methods:
        states.append(method.start(len(evidence.ids), evidence.narrow(method.title, method.needs)))
        spent.since_last([method])
    for step in source.forwards(range(min(one.start for one in wanted), max(one.stop for one in wanted))):
        # The step is taken for all that read it, and on the way to the first step that a later window reads for all.
        spent.since_last([method for method, steps in zip(methods, wanted, strict=True) if step.index in steps] or methods)
        for method, state, steps in zip(methods, states, wanted, strict=True):
            if step.index in steps:
                method.absorb(state, step)
                spent.since_last([method])
    found = []
    for method, state in zip(methods, states, strict=True):
        found.append(method.finish(state))
        spent.since_last([method])
    return found


def too_few(method: AbstractDynamicsMethod, recorded: int) -> MissingEvidence:
    """The refusal of a method that reads more epochs than there are, with options that fit, where there are some."""
    near = fitting(method, recorded)
    return MissingEvidence(
        f"{method.title} reads at least {method.fewest_epochs} epochs, but this run has {recorded}. "
        + (f"Record more epochs, or score {near.title}, which fits." if near is not None else "Record more epochs.")
    )


def fitting(method: AbstractDynamicsMethod, recorded: int) -> AbstractDynamicsMethod | None:
    """The same method with one of its options lowered until it reads no more epochs than there are; None if no single option does that.

    Of an option the largest value that fits is taken, of several options the first.
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
            if made.fewest_epochs <= recorded:
                return made
    return None


def fold(
    methods: Sequence[AbstractDynamicsMethod], evidence: Evidence, spent: Spent | None = None
) -> list[Float[Tensor, " examples"]]:
    """Run several folds in one pass over the recorded epochs: each fact is read once, whoever asks for it.

    Raises:
        MissingEvidence: A method needs more epochs than were recorded.
    """
    for method in methods:
        if evidence.recorded < method.fewest_epochs:
            raise too_few(method, evidence.recorded)
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
                method.absorb(state, epoch.narrow(method.needs & EPOCH_NEEDS))
                spent.since_last([method])
    found = []
    for method, state in zip(methods, states, strict=True):
        found.append(method.finish(state))
        spent.since_last([method])
    return found


def groups(methods: Sequence[AbstractMethod]) -> Iterator[list[AbstractMethod]]:
    """Methods that share work, together: all folds over epochs, all folds over steps, and of the others those of one class."""
    found: dict[object, list[AbstractMethod]] = {}
    for method in methods:
        kinds = (AbstractDynamicsMethod, AbstractStepMethod)
        found.setdefault(next((kind for kind in kinds if isinstance(method, kind)), type(method)), []).append(method)
    yield from found.values()


def score(methods: Sequence[AbstractMethod], evidence: Evidence, spent: Spent | None = None) -> list[Scores]:
    """Run methods on one run's evidence; all folds share one pass.

    Args:
        methods: Which.
        evidence: What they look at.
        spent: Where the seconds of each are written.

    Raises:
        MissingEvidence: The run did not record what a method needs.
        BadScores: A result is not one finite number per scored example.
    """
    spent = spent or Spent()
    views = [evidence.narrow(method.title, method.needs) for method in methods]
    found: dict[int, Tensor | Findings] = {}
    for group in groups(methods):
        needs = frozenset().union(*(method.needs for method in group))
        spent.since_last([])
        made: Sequence[Tensor | Findings]
        if isinstance(group[0], AbstractDynamicsMethod):
            made = fold(group, evidence.narrow("these methods", needs), spent)  # type: ignore[arg-type]
        elif isinstance(group[0], AbstractStepMethod):
            made = walk(group, evidence.narrow("these methods", needs), spent)  # type: ignore[arg-type]
        else:
            kind = type(group[0])
            made = kind.together(group, evidence.narrow(kind.name, needs))
            spent.since_last(group)
        found.update(zip(map(id, group), made, strict=True))
    return [checked(method, view, found[id(method)]) for method, view in zip(methods, views, strict=True)]


def checked(
    method: AbstractMethod, evidence: Evidence, found: Tensor | Findings, scored: Bool[Tensor, " examples"] | None = None
) -> Scores:
    """What was found as the scores of `method`, or a refusal.

    Args:
        method: Who found it.
        evidence: In what.
        found: One number per example.
        scored: Which examples it speaks of, where `evidence` does not hold what that is told from.

    Raises:
        BadScores: Not one finite number per scored example.
    """
    findings = found if isinstance(found, Findings) else Findings(found)
    values = findings.values
    if values.shape != (len(evidence.ids),):
        raise BadScores(
            f"{method.title} returned shape {tuple(values.shape)}; expected one number for each of {len(evidence.ids)} examples."
        )
    mask = method.scored(evidence) if scored is None else scored
    values = values.detach().to("cpu", torch.float64)[mask]
    ids = evidence.ids if bool(mask.all()) else evidence.ids.take(mask)
    bad = ~values.isfinite()
    if bool(bad.any()):
        names = ids.take(bad)
        raise BadScores(f"{method.title}: {len(names)} values are not finite; ids {some(names, len(names))}.")
    return Scores(
        ids=ids,
        values=values,
        method=method.name,
        options={field.name: getattr(method, field.name) for field in dataclasses.fields(method)},  # type: ignore[arg-type]
        title=method.title,
        direction=method.direction,
        unit=method.unit,
        unscored=evidence.ids.take(~mask),
        by_epoch=None if findings.by_epoch is None else findings.by_epoch.detach().to("cpu", torch.float64)[:, mask],
        repeats=None if findings.repeats is None else findings.repeats.detach().to("cpu", torch.float64)[:, mask],
        diagnostics=dict(findings.diagnostics),
        warnings=findings.warnings,
    )


LONGEST_WINDOW = 100_000
"""More epochs than any window spans: a method that runs along holds one number for each epoch of the window and each example."""


def checked_window(window: int, epochs: int | None = None, smallest: int = 2) -> int:
    """`window`, if there are enough epochs for it.

    Raises:
        UsageError: Shorter than `smallest`, or longer than the trajectory.
    """
    if window < smallest:
        raise UsageError(f"window={window} is too short; a window needs at least {smallest} epochs.")
    if window > LONGEST_WINDOW:
        raise UsageError(f"window={window} is more than {LONGEST_WINDOW:,} epochs; give fewer.")
    if epochs is not None and epochs < window:
        raise UsageError(f"{epochs} epochs are fewer than window={window}; give more epochs or a window of at most {epochs}.")
    return window


def checked_labels(labels: Int[Tensor, " examples"], classes: int) -> Int[Tensor, " examples"]:
    """`labels`, if each is one of the classes.

    Raises:
        UsageError: One is outside 0..classes - 1; names values and positions.
    """
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        values, where = labels[outside].unique().tolist(), outside.nonzero().flatten().tolist()
        raise UsageError(
            f"{len(where)} labels are outside 0..{classes - 1} ({some(values, len(values))}), at positions "
            f"{some(where, len(where))}; give every example one of the classes."
        )
    return labels
