"""Methods that run along with a recording: they see every epoch or every step, and their states are saved with each epoch."""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ..core.accumulators import AbstractAccumulator, AbstractStepMethod, State
from ..core.epochs import Epoch, EpochInMemory
from ..core.errors import AssayError, MissingEvidence, UsageError
from ..core.evidence import Evidence
from ..core.ids import Ids
from ..core.method import AbstractMethod
from ..core.needs import EPOCH_NEEDS, Need
from ..core.results import Result
from ..core.scores import Scores
from ..core.scoring import checked
from ..core.spans import span
from ..runs.alongside import Saved
from ..runs.run import Run
from .functional import Functional
from .model_batches import LiveStep
from .step_state import decode, encode


class LiveMethods:
    """The methods to which a recorder shows every epoch, and a training every step (see `runs.alongside.Alongside`).

    A method that fails is stopped with one warning; the others, the recording and the training go on.

    Attributes:
        methods: All of them, stopped ones too.
        functional: The model that steps are seen with. Without it, states of methods that read steps cannot be resumed.
        stopped: Why a method stopped, by its title.
        silent: Why a method had no scores when `scores` was last called, by its title.
    """

    def __init__(self, methods: Sequence[AbstractMethod] = ()):
        """Take methods that can run along.

        Raises:
            UsageError: A method is named twice, reads neither epochs nor steps, or looks ahead.
        """
        check_live(methods)
        self.methods = tuple(methods)
        self.functional: Functional | None = None
        self.stopped: dict[str, str] = {}
        self.silent: dict[str, str] = {}
        self._ids = Ids([0])
        self._epochs = self._classes = 0
        self._states: dict[str, State] | None = None
        self._step_states: dict[str, Any] = {}
        self._pending: tuple[dict[str, State], dict[str, Any]] = {}, {}
        self._met = torch.zeros(0, dtype=torch.bool)
        self._fresh = False

    # ------------------------------------------------------------------ which

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles of the methods, in the order given."""
        return tuple(method.title for method in self.methods)

    @property
    def reads_logits(self) -> bool:
        """Whether a method reads the logits of all classes."""
        return any(Need.LOGITS in method.reads for method in self.methods)

    @property
    def accumulators(self) -> tuple[AbstractAccumulator, ...]:
        """The methods that read epochs."""
        return tuple(method for method in self.methods if isinstance(method, AbstractAccumulator))

    @property
    def step_methods(self) -> tuple[AbstractStepMethod, ...]:
        """The methods that read steps and have not stopped."""
        return tuple(
            method for method in self.methods if isinstance(method, AbstractStepMethod) and method.title not in self.stopped
        )

    def add(self, method: AbstractMethod) -> None:
        """Add a method.

        Raises:
            UsageError: The method cannot run during a training.
        """
        check_live([*self.methods, method])
        self.methods = (*self.methods, method)

    # ------------------------------------------------------------------ as the recorder shows them what goes on

    def attach(self, ids: Ids, run: Run | None) -> None:
        """Set the ids of the recorded examples, and the run that is resumed, if there is one."""
        self._ids = ids
        if run is not None:
            self.stopped = run.stopped()
            self._epochs, self._classes = run.epochs, run.classes

    def begin(self, epoch: int, opened: Callable[[], Run]) -> None:
        """Prepare for an epoch: set states to those after the last committed epoch.

        Args:
            epoch: Its number.
            opened: Function that opens the run as it is on disk.
        """
        self._epochs = epoch
        if epoch and self._states is None and self.accumulators:
            run = opened()
            found = {method.title: live_state(run, method) for method in self.accumulators if method.title not in self.stopped}
            self._states = {title: state for title, state in found.items() if state is not None}
        if not self._fresh:
            self._begin_steps(opened() if epoch and self._reads_steps else None)

    @property
    def _reads_steps(self) -> bool:
        return any(isinstance(method, AbstractStepMethod) for method in self.methods)

    def _begin_steps(self, run: Run | None) -> None:
        """The states of methods that read steps, as they were after the last committed epoch."""
        self._met = torch.zeros(len(self._ids), dtype=torch.bool) if run is None else run.visits() > 0
        for method in self.step_methods:
            stored = step_state(run, method) if run is not None else None
            with self._guarded(method):
                if stored is None or self.functional is None:
                    self._step_states[method.title] = method.start(len(self._ids))
                else:
                    self._step_states[method.title] = decode(*stored, self.functional)
        self._fresh = True

    def update(self, step: LiveStep) -> None:
        """Show a step just taken to the methods that read steps."""
        self._fresh = False
        self._met[step.positions] = True
        for method in self.step_methods:
            with self._guarded(method):
                method.update(self._step_states[method.title], step)  # type: ignore[arg-type]  # frozen where the protocol says readable

    def left(self, batches: int) -> None:
        """Note that the epoch was left after `batches` batches and is not recorded."""
        for method in self.step_methods:
            self.stop(method, f"the epoch was left after {batches} batches, so that steps are missing.")

    def stop(self, method: AbstractMethod, why: str) -> None:
        """Stop a method, and warn once."""
        if method.title in self.stopped:
            return
        self.stopped[method.title] = f"it stopped in epoch {self._epochs}: {why}"
        self._step_states.pop(method.title, None)
        warnings.warn(
            f"{method.title} stopped running along in epoch {self._epochs}: {why} Training and recording go on without it.",
            stacklevel=2,
        )

    def stop_steps(self, why: str) -> None:
        """Stop all methods that read steps."""
        for method in self.step_methods:
            self.stop(method, why)

    @contextlib.contextmanager
    def _guarded(self, method: AbstractMethod) -> Iterator[None]:
        """Whatever a live method raises ends that method, never the training that it runs along with."""
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split())[:400] or "no reason given"
            kind = "" if isinstance(error, AssayError) else f"{type(error).__name__}: "
            self.stop(method, f"{kind}{said.rstrip('.')}.")

    def saved(self, epoch: int, facts: Mapping[str, Tensor], classes: int) -> Saved:
        """The states to write with a complete epoch; `committed` confirms that they were written.

        Args:
            epoch: Its number.
            facts: The facts recorded in the epoch, by name.
            classes: How many there are.
        """
        states = self._after(epoch, facts, classes)
        told: dict[str, tuple[Any, Any]] = {}
        for method in self.step_methods:
            with self._guarded(method):
                told[method.title] = method.streamed(self._step_states[method.title])
        tensors, notes = self._flat(states, told)
        told = {title: one for title, one in told.items() if title not in self.stopped}
        visits = {
            f"{title}|{name}": value
            for title, (stream, _) in told.items()
            if stream is not None
            for name, value in vars(stream).items()
        }
        self._pending = states, {title: rest for title, (_, rest) in told.items()}
        self._classes = classes
        return Saved(tensors, notes, visits)

    def committed(self, epochs: int) -> None:
        """Confirm the epoch last saved; `epochs` is the number of epochs now committed."""
        self._states, self._step_states = self._pending
        self._epochs, self._fresh = epochs, True

    def _after(self, epoch: int, facts: Mapping[str, Tensor], classes: int) -> dict[str, State]:
        """The states after this epoch, by title; those after the one before stay as they are."""
        states: dict[str, State] = {}
        source = EpochInMemory(epoch, facts)
        seen = Epoch(source, epoch, source.holds)
        for method in self.accumulators:
            if method.title in self.stopped:
                continue
            with self._guarded(method):
                if self._states is None:
                    state = method.start(len(self._ids), classes)
                else:
                    state = {name: tensor.clone() for name, tensor in self._states[method.title].items()}
                if lacking := sorted(need.value for need in method.reads & EPOCH_NEEDS - source.holds):
                    raise MissingEvidence(
                        f"it reads {', '.join(lacking)}, of which this recording has not one number for each example; score the finished run, which "
                        "says which methods work"
                    )
                if epoch in method.epochs_read(epoch + 1):
                    method.update(state, seen.narrow(method.reads & EPOCH_NEEDS, partial=method.copes_with_partial))
                states[method.title] = state
        return states

    def _flat(self, states: Mapping[str, State], told: Mapping[str, tuple[Any, Any]]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """States of all live methods as tensors and notes; for those that read steps also what they would say now."""
        tensors = {f"{title}|{name}": tensor for title, state in states.items() for name, tensor in state.items()}
        notes: dict[str, str] = {}
        for method in self.step_methods:
            if method.title in told:
                with self._guarded(method):
                    own, said = _written(method, told[method.title][1])
                    tensors |= own
                    notes |= said
        return tensors, notes | {f"{title}|stopped": why for title, why in self.stopped.items()}

    # ------------------------------------------------------------------ what they say

    def scores(self) -> list[Scores]:
        """Scores so far: of methods that read steps up to the present step, of the others up to the last epoch.

        A method that has no scores yet, or fails, is left out; the reason is in `silent`.
        """
        found: list[Scores] = []
        self.silent = {title: f"it has stopped: {why}" for title, why in self.stopped.items()}
        for method in self.methods:
            if method.title in self.stopped:
                continue
            try:
                scores = self._said(method)
            except Exception as error:
                self.silent[method.title] = " ".join(str(error).split())[:400]
            else:
                found += [] if scores is None else [scores]
        return found

    def _said(self, method: AbstractMethod) -> Scores | None:
        if isinstance(method, AbstractStepMethod):
            state = self._step_states.get(method.title)
            return None if state is None else self._scores(method, method.compute(state), self._met)
        if not isinstance(method, AbstractAccumulator) or self._epochs < method.fewest_epochs:
            return None
        state = (self._states or {}).get(method.title)
        if state is None:
            return None
        met = method.scored(state)
        everyone = torch.ones(len(self._ids), dtype=torch.bool) if met is None else met
        return self._scores(method, Result(method.compute(state)), everyone)

    def _scores(self, method: AbstractMethod, result: Result, met: Bool[Tensor, " examples"]) -> Scores:
        return checked(method, Evidence(self._ids, self._classes), result, met)


NOT_LIVE = "cannot run live; it reads neither epochs nor steps one by one. Score the finished run instead."


def check_live(methods: Sequence[AbstractMethod]) -> None:
    """Refuse methods that cannot run along.

    Raises:
        UsageError: A method is named twice, reads neither epochs nor steps, or looks ahead.
    """
    if not isinstance(methods, (list, tuple)) or not all(isinstance(method, AbstractMethod) for method in methods):
        raise UsageError(
            f"live methods are {type(methods).__name__}; give a list of methods, such as assay.methods.parse(NAME) makes them."
        )
    if len({method.title for method in methods}) < len(methods):
        raise UsageError(f"live= names a method twice: {', '.join(method.title for method in methods)}; name each once.")
    for method in methods:
        if isinstance(method, AbstractStepMethod):
            try:
                method.start(1)
            except MissingEvidence as error:
                raise UsageError(f"{method.title} cannot run live: {error}") from error
        elif not isinstance(method, AbstractAccumulator):
            raise UsageError(f"{method.title} {NOT_LIVE}")
        elif not any(epoch in method.epochs_read(epoch + 1) for epoch in range(method.fewest_epochs + 1)):
            raise UsageError(
                f"{method.title} cannot run live: it must know the last epoch beforehand. Score the finished run instead."
            )


def _written(method: AbstractStepMethod, state: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state of a method that reads steps, and what it would say now, as tensors and notes."""
    title = method.title
    packed, body = encode(state)
    result = method.compute(state)
    tensors = {f"{title}|{name}": tensor for name, tensor in packed.items()}
    tensors[f"{title}|found values"] = result.values
    if result.by_epoch is not None:
        tensors[f"{title}|found by epoch"] = result.by_epoch
    if result.stream is not None:
        tensors |= {f"{title}|found stream {name}": value for name, value in vars(result.stream).items()}
    found = json.dumps([dict(result.diagnostics), list(result.warnings)])
    return tensors, {f"{title}|state": body, f"{title}|found": found}


# ---------------------------------------------------------------------- what a run holds of them


def live_state(run: Run, method: AbstractAccumulator) -> State | None:
    """The state that `method` accumulated while the run was recorded; None if it did not run along, or can be computed from what is stored.

    Raises:
        MissingEvidence: The method ran along, was stopped, and the run stores less than the method reads.
    """
    file = run.live_states(method.title)
    if file is None:
        return None
    prefix = f"{method.title}|"
    if f"{prefix}stopped" in file.notes:
        if not method.reads <= run.holds:
            run.check_not_stopped(method.title)
        return None
    return {name.removeprefix(prefix): file.read(name) for name in file.sums if name.startswith(prefix)}


def step_state(run: Run, method: AbstractStepMethod) -> tuple[dict[str, Tensor], str] | None:
    """The state of a method that ran along with the steps, as `step_state.encode` packs it; None if it did not run along."""
    file = run.live_states(method.title)
    prefix = f"{method.title}|"
    if file is None or f"{prefix}state" not in file.notes:
        return None
    names = [name for name in file.sums if name.startswith(prefix) and not name.startswith(f"{prefix}found ")]
    return {name.removeprefix(prefix): file.read(name) for name in names}, file.notes[f"{prefix}state"]


def step_result(run: Run, method: AbstractStepMethod) -> Result | None:
    """Result, at the end of the last epoch, of a method that ran along with the steps; None if it did not run along.

    Raises:
        MissingEvidence: The method ran along and was stopped.
    """
    file = run.live_states(method.title)
    if file is None:
        return None
    run.check_not_stopped(method.title)
    # While it ran along nobody knew how many epochs there would be.
    span(method.window, run.epochs, method.title)
    prefix = f"{method.title}|found"
    diagnostics, warnings = json.loads(file.notes[prefix])
    by_epoch = file.read(f"{prefix} by epoch") if f"{prefix} by epoch" in file.sums else None
    return Result(file.read(f"{prefix} values"), by_epoch, diagnostics, tuple(warnings))
