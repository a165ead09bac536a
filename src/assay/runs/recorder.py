"""The recorder: one epoch's facts about each example, buffered in memory and committed whole or not at all."""

import contextlib
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.arguments import checked_arguments, checked_fields, described, moved_keywords
from ..core.errors import Mismatch, NotWritten, NumericalError, OutputExists, UsageError, listed
from ..core.ids import Ids, dataset_fingerprint
from ..core.passes import Passes
from ..maths.observations import faults, observe, two_classes
from .disk import (
    MOST_COMMITS,
    WriterLock,
    append_line,
    checksum_notes,
    read_bytes,
    remove,
    remove_leftovers,
    replace,
    save_tensors,
)
from .paths import RunPaths
from .recording import Recording
from .run import Run, read_run
from .schema import CONDITIONS, Commit, File, Header, ReduceLabels, Task, here, now, read_commits, write_header
from .tables import write_examples

FLUSH_BYTES = 2 * 2**20
"""Logits held back before their facts are computed: one vectorised pass, and on a GPU one transfer, for many batches."""

CLEAN_OR_PARTIAL = (
    "record with Recording(view='eval'), or give an assay.Recorder of your own partial=assay.runs.recorder.Partial()"
)
"""The cures where an epoch does not visit every example exactly once."""

BY_LOSSES = (
    "record the loss of each example with recorder.losses(values) in the place of recorder.batch(logits, labels), or in a clean pass with "
    "data=assay.DataSpec(task='losses', losses=...)"
)
"""The cure where examples have no class."""

SMALL = 2**22
"""Examples times classes up to which the probabilities are summed up unless it is asked otherwise: 32 MB on disk."""


def check_place(paths: RunPaths, resume: bool = False, *, resumable: bool = True) -> bool:
    """Whether there is a run that the recording resumes; `resumable` is whether such a recording can be resumed at all, for the cure.

    Raises:
        OutputExists: There is a run and `resume` is false, or there is something else.
    """
    folder = paths.folder
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"{folder} is a file; name a folder for the run.")
    exists = paths.header.exists()
    if exists and not resume:
        how = "resume it with resume=True (`--resume`) or " if resumable else ""
        raise OutputExists(f"{folder} already holds a run; {how}name another folder.")

    def nothing(at: Path) -> bool:
        # What writers leave that ended before anything was worth keeping.
        return at == paths.lock or at.suffix == ".tmp" or (at in (paths.models, paths.folds) and not any(at.glob("*/run.json")))

    if not exists and folder.exists() and not all(map(nothing, folder.iterdir())):
        raise OutputExists(f"{folder} is not empty and holds no run; name a new or empty folder.")
    return exists


@dataclasses.dataclass(frozen=True)
class Saved:
    """The data that are saved with an epoch for the methods that run during training.

    Attributes:
        states: Tensors that go into the newest file of states.
        notes: Texts that go with them.
        visits: Tensors that go into a file of this epoch alone.
    """

    states: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    visits: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Alongside(Protocol):
    """The methods that run during a recording: they are shown every epoch, and their state is saved with each."""

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles of the methods that run during the recording."""
        ...

    @property
    def reads_logits(self) -> bool:
        """Whether one of them reads whole logits."""
        ...

    def attach(self, ids: Ids, run: Run | None) -> None:
        """Called at the start with the ids of the examples, and with the run that is resumed, if there is one."""
        ...

    def begin(self, epoch: int, opened: Callable[[], Run]) -> None:
        """Called before an epoch; `opened` opens the run as it is on disk."""
        ...

    def left(self, batches: int) -> None:
        """Called when the epoch was left after `batches` batches and is not recorded."""
        ...

    def saved(self, epoch: int, facts: Mapping[str, Tensor], classes: int) -> Saved:
        """The data to save with a complete epoch."""
        ...

    def committed(self, epochs: int) -> None:
        """Called when the epoch last saved is committed; the run then has `epochs` committed epochs."""
        ...


class Nothing:
    """No methods run during the recording."""

    titles: tuple[str, ...] = ()
    reads_logits = False

    def attach(self, ids: Ids, run: Run | None) -> None:
        """Nothing to do."""

    def begin(self, epoch: int, opened: Callable[[], Run]) -> None:
        """Nothing to do."""

    def left(self, batches: int) -> None:
        """Nothing to do."""

    def saved(self, epoch: int, facts: Mapping[str, Tensor], classes: int) -> Saved:
        """Nothing."""
        return Saved()

    def committed(self, epochs: int) -> None:
        """Nothing to do."""


@dataclasses.dataclass(frozen=True)
@checked_fields
class Origin:
    """Where a recorded training comes from, as the run says it.

    Attributes:
        seed: From which its epochs can be repeated; None where they cannot.
        device: On which it trains.
        passes: What the passes are, where they are not the epochs of a training that is recorded here; else None.
        about: What is being trained, in words, for the report.
        code: Version of what records.

    Raises:
        UsageError: A setting is of a wrong kind.
    """

    seed: int | None = None
    device: str = "cpu"
    about: Mapping[str, object] | None = None
    code: str = ""
    passes: Passes | None = None

    def __post_init__(self):
        if self.seed is not None:
            object.__setattr__(self, "seed", int(self.seed))


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Partial:
    """Epochs that may train on a part of the examples, or on some several times.

    The run then says how often it trained on each and with which weight of its loss, facts of the others are missing, and those of one that came
    several times are its last ones.

    Attributes:
        select: Title of what chooses them.
        labels: Those of all examples, without which the first epoch must visit each: the class of each, or (examples, labels) where each has several.

    Raises:
        UsageError: A setting is of a wrong kind.
    """

    select: str = ""
    labels: Int[Tensor, "examples *labels"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What one of several processes that train together observed of an epoch.

    Attributes:
        task: What was observed; empty if nothing was.
        classes: Of the model.
        rows: Positions of the examples that it trained on.
        numbers: The number of the batch, in this process, whose facts are kept of each.
        facts: Facts by name, a row for each of `rows`.
        labels: The class of each; -1 without classes.
        label_matrix: The labels of each, where there are several.
        batches: Positions by batch.
        rates: As `Recorder.step` was given them, by batch.
        momenta: The same.
        updates: The same.
    """

    task: Task | Literal[""]
    classes: int
    rows: Int[Tensor, " rows"]
    numbers: Int[Tensor, " rows"]
    facts: Mapping[str, Tensor]
    labels: Int[Tensor, " rows"]
    label_matrix: Tensor | None
    batches: list[Tensor]
    rates: list[list[float]]
    momenta: list[list[tuple[float, float]]]
    updates: list[int]


class Recorder:
    """Writes one run, epoch by epoch.

    Call `begin`, then `step` for every optimizer step and `observe` for every forward pass that is recorded, then `commit`. An epoch
    that was not committed leaves no trace.

    Attributes:
        autocast: The type, by device, in which the model computes under torch.autocast in this epoch, such as `{"cuda": "bfloat16"}`; set after
            `begin`.
        altered: Whether the weights that are kept are others than those after the last step; set before `commit`.
        carried: Whether the first update of this epoch adds to gradients of batches of the epoch before; set after `begin`.
        reduce_labels: How the values of an example's labels become its own, where it has several (see `observe_labels`); set before the first
            epoch is committed.
        validation_sums: Sum of the losses and number of the validation examples of each class in this epoch; None where there were none.
        processes: How many processes train together, each on a part of an epoch that `merge` takes in. An example that comes again, because their
            samplers fill up the last batches, is then counted, and the facts of its first visit are kept.
    """

    processes = 1

    @moved_keywords(
        {
            **dict.fromkeys(("view", "keep_logits", "mean_probs", "checkpoints"), "recording=assay.Recording({name}=...)"),
            **dict.fromkeys(("select", "labels"), "partial=assay.runs.recorder.Partial({name}=...)"),
            **dict.fromkeys(("seed", "device", "about", "code"), "origin=assay.runs.recorder.Origin({name}=...)"),
        }
    )
    @checked_arguments
    def __init__(
        self,
        folder: str | Path,
        ids: Ids,
        recording: Recording | None = None,
        *,
        live: Alongside | None = None,
        partial: Partial | None = None,
        class_names: Sequence[str] | None = None,
        origin: Origin | None = None,
        resume: bool = False,
    ):
        """Start a run in `folder`, or, with `resume`, continue the run that is there, if any.

        `live` are methods to compute during training, made by `LiveMethods`; a recorder that is used by itself refuses those that `recording` names.
        With `partial` an epoch need not visit every example exactly once.

        Raises:
            OutputExists: A run is there and `resume` is false.
            Mismatch: The run to resume has other ids or was recorded otherwise.
            RunLocked: Another process writes this run.
            UsageError: A setting is outside its range.
            NotWritten: The operating system refuses.
        """
        recording, origin = recording or Recording(), origin or Origin()
        if recording.live:
            raise UsageError(
                f"Recording: live={list(map(str, recording.live))} names methods, which a recorder of your own does not make; give them to it as "
                "live=assay.LiveMethods([...])."
            )
        if not len(ids):
            raise UsageError("There are no examples to record.")
        if live is not None and not isinstance(live, Alongside):
            raise UsageError(f"live= is a {type(live).__name__}; give the methods to run live as assay.LiveMethods([...]).")
        self.paths = RunPaths(Path(folder))
        self.ids, self.alongside = ids, live if live is not None else Nothing()
        if odd := [name for name in (() if class_names is None else class_names) if not isinstance(name, str)]:
            raise UsageError(
                f"class_names= holds {described(odd[0])}, which is no text; give [str(name) for name in class_names]."
            )
        try:
            check_place(self.paths, resume)
        except OutputExists:
            if self.paths.lock.exists():
                # A run that is being written is told from one that is there.
                with contextlib.suppress(NotWritten):
                    WriterLock(self.paths.lock).release()
            raise
        self._lock = WriterLock(self.paths.lock)
        try:
            # Once more, because another process may have recorded here before the lock was taken.
            exists = check_place(self.paths, resume)
            wanted = Header(
                **here(),
                code=origin.code,
                view=recording.view,
                keep_logits=recording.keep_logits,
                mean_probs=recording.mean_probs is not False,
                checkpoints=kept if isinstance(kept := recording.checkpoints, str) else tuple(sorted(set(kept))),  # type: ignore[arg-type]
                examples=len(ids),
                live=self.alongside.titles,
                partial=partial is not None,
                select="" if partial is None else partial.select,
                passes=None if origin.passes is None else origin.passes.kind,
                repeats=origin.passes is not None and origin.passes.repeats,
                seed=origin.seed,
                device=origin.device,
                about=dict(origin.about or {}),
            )
            self._prepare(class_names)
            if partial is not None and (labels := partial.labels) is not None:
                if labels.ndim not in (1, 2) or len(labels) != len(ids):
                    raise UsageError(
                        f"labels= has shape {tuple(labels.shape)}, where {len(ids)} examples have one each, or a row each."
                    )
                if labels.ndim == 2:
                    self._known_matrix: Tensor | None = labels.to("cpu", torch.int64).clone()
                else:
                    self.labels = labels.to("cpu", torch.int64).clone()
                self._given = "; labels known beforehand must be those that the loop gives, as data=assay.DataSpec(labels=...) to assay.record"
            self._undecided = recording.mean_probs is None
            self._asked_probs = recording.mean_probs is True
            for path in (self.paths.header, self.paths.examples, self.paths.commits):
                remove_leftovers(path)
            self._code, self._device = origin.code, origin.device
            if exists:
                self._reopen(wanted)
            else:
                self.header = wanted
                replace(self.paths.header, write_header(wanted))
            self.alongside.attach(ids, Run(self.paths.folder) if self.commits else None)
            self._clear()
        except BaseException:
            self._lock.release()
            raise

    def _prepare(self, class_names: Sequence[str] | None) -> None:
        """What is known before anything is observed."""
        self._names = tuple(class_names) if class_names is not None else None
        self.labels = torch.full((len(self.ids),), -1, dtype=torch.int64)
        self.classes = 0
        self._task: Task | Literal[""] = ""
        self.reduce_labels: ReduceLabels = "mean"
        self._label_matrix: Tensor | None = None
        self._known_matrix = None
        self.commits: list[Commit] = []
        self._probs_sum: Tensor | None = None
        self._given = ""
        self._start: tuple[dict[str, Tensor], dict[str, str]] | None = None
        self._warned = self._open = False
        self._skipped = 0

    def _reopen(self, wanted: Header) -> None:
        self.header, self.commits = read_run(self.paths)
        for field in ("view", "keep_logits", "mean_probs", "checkpoints", "examples", "partial", "select", "seed", "passes"):
            if field == "mean_probs" and self._undecided:
                continue
            old, new = getattr(self.header, field), getattr(wanted, field)
            if old != new:
                raise Mismatch(f"{self.paths.folder} was recorded with {field}={old!r}, not {new!r}; resume it as it was begun.")
        for path in (self.paths.start, *self.paths.of_epoch(self.epochs)):
            remove_leftovers(path)
        if self.paths.commits.exists():
            # A torn line must go before another is added to it, also when it is the first.
            body = read_bytes(self.paths.commits, MOST_COMMITS)
            whole = read_commits(body, str(self.paths.commits))[1]
            if whole < len(body):
                replace(self.paths.commits, body[:whole])
        if not self.commits:
            return
        for commit in self.commits:
            self._remove_superseded(commit.epoch - 1)
        self._warn_of_another_place(wanted)
        run = Run(self.paths.folder)
        if run.ids != self.ids:
            raise Mismatch(
                f"{self.paths.folder} recorded {len(run.ids)} ids {run.ids!r}, the loader has {len(self.ids)}: {self.ids!r}. "
                "Resume with the same dataset."
            )
        if self._names is not None and self._names != run.class_names:
            raise Mismatch(
                f"{self.paths.folder} was recorded with class_names {listed(run.class_names, run.classes)}, not "
                f"{listed(self._names, len(self._names))}; resume it as it was begun."
            )
        self.labels, self.classes = run.labels, run.classes
        self._names, self._task, self.reduce_labels = run.class_names or None, run.task, run.header.reduce_labels
        self._label_matrix = run.label_matrix() if run.task == "labels" else None
        self._undecided = False
        if run.header.mean_probs:
            self._probs_sum = run.probs_sum()

    def _warn_of_another_place(self, wanted: Header) -> None:
        """The order in which numbers are added up hangs on these, and with it the last bits of every step."""
        before = {name: getattr(self.header, name) for name in ("torch", "machine", "threads", "device")}
        changed = [f"{name} {old}, now {new}" for name, old in before.items() if (new := getattr(wanted, name)) != old]
        if changed:
            warnings.warn(
                f"{self.paths.folder} was recorded with {'; '.join(changed)}. Methods that read epochs or kept models are not affected, but the last "
                "bits of the steps may differ, and methods that replay the training may then refuse this run.",
                stacklevel=4,
            )

    def check_joins(self, title: str) -> None:
        """Refuse a method that would run during training from now on, but has not run from the start.

        Raises:
            UsageError: The first epoch has begun.
        """
        if self._open or (self.epochs and title not in self.header.live):
            raise UsageError(f"{title} cannot join a training that has begun; add it before the first epoch.")

    def joined(self) -> None:
        """Called when methods were added after the recorder was made."""
        if not self.epochs:
            self.header = self.header.model_copy(update={"live": self.alongside.titles})
            replace(self.paths.header, write_header(self.header))

    @property
    def task(self) -> Task | Literal[""]:
        """What is recorded of each example; empty before the first batch."""
        return self._task

    @property
    def epochs(self) -> int:
        """How many epochs are committed, which is also the number of the epoch to come."""
        return len(self.commits)

    def _clear(self) -> None:
        self._facts: dict[str, Tensor] = {}
        self._visits = torch.zeros(len(self.ids), dtype=torch.int64)
        self._held: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._held_bytes = 0
        self._epoch_labels = torch.full((len(self.ids),), -1, dtype=torch.int64)
        self._batches: list[Tensor] = []
        self._rates: list[list[float]] = []
        self._momenta: list[list[tuple[float, float]]] = []
        self._updates: list[int] = []
        self._weights: Tensor | None = None
        self.validation_sums: tuple[Tensor, Tensor] | None = None
        self.autocast: Mapping[str, str] = {}
        self.carried = self.altered = False
        self._begun = time.perf_counter()
        if not self.commits:
            self.classes, self._task = 0, ""
            self._label_matrix = None if self._known_matrix is None else self._known_matrix.clone()

    def start(self, state: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        """Keep the state before training, from which the whole training can be replayed; does nothing if no checkpoints are kept.

        It is written with the first epoch, so that a recording without one leaves nothing behind.

        Args:
            state: Model and optimizer, which stay as they are.
            notes: Texts saved with them.
        """
        if self.keeps_checkpoints and not self.epochs:
            self._start = dict(state), dict(notes or {})

    def leave(self) -> None:
        """Discard an epoch that was left before its end. The run notes how many batches were trained on between two recorded epochs."""
        # Before the first epoch nothing is lost: the state before training is then that of its beginning.
        if self.epochs:
            self._skipped += len(self._batches)
            self.alongside.left(len(self._batches))
        self._clear()

    def begin(self) -> int:
        """Start an epoch, discarding one that was not committed; returns the epoch's number.

        Raises:
            Mismatch: The resumed run had other live methods.
        """
        titles = self.alongside.titles
        if titles != self.header.live:
            raise Mismatch(
                f"{self.paths.folder} was recorded with live={self.header.live!r}, not {titles!r}; resume it as it was begun."
            )
        self.alongside.begin(self.epochs, functools.partial(Run, self.paths.folder))
        self._open = True
        self._clear()
        return self.epochs

    def step(
        self,
        positions: Int[Tensor, " batch"],
        rates: Sequence[float],
        updates: int = 1,
        momenta: Sequence[tuple[float, float]] | None = None,
        weights: Float[Tensor, " batch"] | None = None,
    ) -> None:
        """Record one batch, and the optimizer step that it ends, if it ends one.

        Where gradients are accumulated, call it once per batch in the order in which the batches were trained on: with `updates=0` for each but the
        last batch of a step. A step is then all batches since the one before; rates and momenta that count are those of its last batch.

        Args:
            positions: Positions of the examples in the batch.
            rates: Learning rate of each parameter group.
            updates: How often the optimizer updated the parameters in it: 0 where its gradient waits for the next batch.
            momenta: For each parameter group (momentum, NaN) or (beta1, beta2), both NaN where there is neither; given where a schedule may
                change them. None where they are those of the checkpoint throughout.
            weights: Factor of the loss of each of these examples; None for 1.

        Raises:
            UsageError: A weight is negative, not finite, or another one than the example had before in this epoch.
        """
        if weights is not None or self._weights is not None:
            self._weigh(positions.to("cpu", torch.int64), weights)
        self._updates.append(updates)
        self._batches.append(positions.to("cpu", torch.int64))
        self._rates.append([float(rate) for rate in rates])
        if momenta is not None:
            self._momenta.append([(float(first), float(second)) for first, second in momenta])

    def _weigh(self, positions: Int[Tensor, " batch"], weights: Tensor | None) -> None:
        if self._weights is None:
            self._weights = torch.full((len(self.ids),), math.nan, dtype=torch.float64)
            for batch in self._batches:
                self._weights[batch] = 1.0
        own = torch.ones(len(positions), dtype=torch.float64) if weights is None else weights.detach().to("cpu", torch.float64)
        before = self._weights[positions]
        self._weights[positions] = own
        bad = ~before.isnan() & (before != own) | (self._weights[positions] != own) | ~own.isfinite() | (own < 0)
        if bool(bad.any()):
            names = self.ids.take(positions[bad])
            raise UsageError(
                f"Epoch {self.epochs}: the losses of {len(names)} examples had a weight that is negative, not finite, or another one than before in "
                f"this epoch; ids {listed(names, len(names))}. Give each example one weight of 0 or more per epoch."
            )

    def observe(self, positions: Int[Tensor, " batch"], logits: Tensor, labels: Tensor) -> None:
        """Record the outputs of a forward pass for some examples. The facts are computed once enough outputs are buffered.

        One logit z for each example, (batch,) or (batch, 1), is that of a binary model: with labels 0 and 1, of any type, what is recorded is
        that of the logits (0, z).

        Raises:
            UsageError: Logits or labels are of the wrong shape or type, or losses were recorded before.
        """
        self._check_task("classes")
        if not isinstance(logits, Tensor):
            raise UsageError(
                f"Epoch {self.epochs}: logits are {type(logits).__name__}; give the torch tensor that the model returns."
            )
        if logits.ndim not in (1, 2) or len(logits) != len(positions):
            raise UsageError(
                f"Epoch {self.epochs}: logits of shape {tuple(logits.shape)} do not fit a batch of {len(positions)} examples; "
                f"give one row of class logits per example, or, where an example holds more that is predicted, {BY_LOSSES}."
            )
        if not logits.is_floating_point():
            raise UsageError(f"Epoch {self.epochs}: logits are {logits.dtype}; give real numbers, such as torch.float32.")
        if logits.ndim == 1 or logits.shape[1] == 1:
            logits, labels = two_classes(logits.detach()), self._binary(labels, len(positions), "labels")
        self._check_classes(logits.shape[1])
        self._decide_mean_probs()
        if (
            not isinstance(labels, Tensor)
            or labels.shape != (len(positions),)
            or labels.is_floating_point()
            or labels.dtype == torch.bool
        ):
            kind = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise UsageError(
                f"Epoch {self.epochs}: labels are {kind}; give one integer class per example. "
                "Soft and mixed labels cannot be recorded: of several labels 0 or 1 per example say so by data=assay.DataSpec(task='labels'), of any other "
                f"{BY_LOSSES}."
            )
        logits = logits.detach()
        if not self._warned:
            self._warned = True
            _warn_of_probabilities(logits)
        self._hold("classes", positions, logits, labels)

    def _binary(self, labels: Any, examples: int, what: str) -> Int[Tensor, " batch"]:
        """Labels 0 and 1 of a model with one logit as whole numbers, whatever their type and axes."""
        if isinstance(labels, Tensor) and labels.shape in ((examples,), (examples, 1)) and not labels.is_complex():
            labels = labels.detach().reshape(-1)
            strange = labels[(labels != 0) & (labels != 1)].unique().tolist()
            if not strange:
                return labels.to(torch.int64)
            kind = f"{labels.dtype} with values such as {listed(strange, len(strange), 2)}"
        else:
            kind = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise UsageError(
            f"Epoch {self.epochs}: the model has 1 output, which is recorded as the logit of class 1 against 0, and {what} are {kind}; give 0 or 1 "
            f"for each example, or, if a number is predicted, {BY_LOSSES}."
        )

    def observe_losses(self, positions: Int[Tensor, " batch"], losses: Float[Tensor, " batch"]) -> None:
        """Record the loss of some examples, where there are no classes; a run records either logits or losses.

        Args:
            positions: Positions of the examples.
            losses: The loss of each, in the loss's own unit; kept in double precision.

        Raises:
            UsageError: There is not one real number for each example, logits were recorded before, or the run is to keep what is made of logits.
        """
        self._check_task("losses")
        if not isinstance(losses, Tensor) or losses.shape != (len(positions),) or not losses.is_floating_point():
            kind = f"{losses.dtype} of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise UsageError(
                f"Epoch {self.epochs}: losses are {kind}; give a tensor with one real number for each of the batch's {len(positions)} examples, such as "
                "a loss with reduction='none', averaged over what else an example holds."
            )
        if self.header.keep_logits:
            raise UsageError("Recording: keep_logits=True keeps logits, and losses are recorded here; leave it out.")
        self._check_no_classes()
        self._hold("losses", positions, losses, None)

    def observe_labels(self, positions: Int[Tensor, " batch"], logits: Float[Tensor, "batch labels"], labels: Tensor) -> None:
        """Record the outputs of a forward pass for some examples that have several labels, each 0 or 1.

        Each label is a binary problem of its own, with the facts of the logits (0, z). Methods that read facts give each label a value;
        the value of an example is their mean, or with `reduce_labels="worst"` that of its most suspect or hardest label.

        Args:
            positions: Positions of the examples.
            logits: The logit of each label.
            labels: (batch, labels), 0 or 1, of any type.

        Raises:
            UsageError: Shapes do not fit, a label is neither 0 nor 1, or something else was recorded before.
        """
        self._check_task("labels")
        if (
            not all(isinstance(part, Tensor) and part.ndim == 2 for part in (logits, labels))
            or logits.shape != labels.shape
            or len(logits) != len(positions)
            or not logits.is_floating_point()
            or logits.shape[1] < 1
        ):
            shapes = [
                f"{part.dtype} of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
                for part in (logits, labels)
            ]
            raise UsageError(
                f"Epoch {self.epochs}: logits are {shapes[0]} and labels {shapes[1]}; give one real number and one label 0 or 1 for each of the "
                f"batch's {len(positions)} examples and each label, (batch, labels)."
            )
        known = self._label_matrix
        if known is not None and known.shape[1] != logits.shape[1]:
            raise UsageError(
                f"Epoch {self.epochs}: the model has {logits.shape[1]} outputs, it had {known.shape[1]} before; record one head per run."
            )
        strange = labels[(labels != 0) & (labels != 1)].unique().tolist()
        if strange:
            raise UsageError(
                f"Epoch {self.epochs}: labels hold {listed(strange, len(strange), 2)}; give 0 or 1 for each label, or, where they are neither, {BY_LOSSES}."
            )
        self._check_no_classes()
        self._label_matrix = known if known is not None else torch.full((len(self.ids), logits.shape[1]), -1)
        self._hold("labels", positions, logits, labels.detach().to(torch.int64))

    def _check_no_classes(self) -> None:
        if self._asked_probs:
            raise UsageError(
                "Recording: mean_probs=True sums up the probabilities of classes, and examples have none here; leave it out."
            )
        if self._names is not None:
            raise UsageError("class_names= names classes, and examples have none here; leave it out.")

    def _check_task(self, task: str) -> None:
        if self._task and self._task != task:
            names = {"classes": "logits of classes", "labels": "several labels for each example", "losses": "losses"}
            raise UsageError(
                f"Epoch {self.epochs}: {self.paths.folder} recorded {names[self._task]} before, and {names[task]} are given now; record one of them "
                "throughout a run."
            )

    def _hold(self, task: Task, positions: Tensor, numbers: Tensor, labels: Tensor | None) -> None:
        """Buffer what was observed until its facts are computed."""
        self._task = task
        # A copy, because loops may reuse the memory of a batch before the facts are computed.
        self._held.append((positions, numbers.detach().clone(), None if labels is None else labels.detach().clone()))
        self._held_bytes += numbers.numel() * numbers.element_size()
        if self._held_bytes >= FLUSH_BYTES:
            self._flush()

    def validation(self, logits: Tensor, labels: Tensor) -> None:
        """Record this epoch's outputs for validation examples, in one call or several; only the mean loss per class is kept.

        Args:
            logits: (batch, classes), in eval mode.
            labels: (batch,), the classes.

        Raises:
            UsageError: Logits and labels do not fit each other or the classes of the run, or the run records losses.
            NumericalError: A logit is NaN or infinite.
        """
        if self._task not in ("", "classes"):
            raise UsageError(
                f"Epoch {self.epochs}: {self.paths.folder} records no classes, and validation keeps a mean by class; leave recorder.validation out, and "
                "give held-out examples as targets= when you score."
            )
        if isinstance(logits, Tensor) and (logits.ndim == 1 or logits.shape[1:] == (1,)) and logits.is_floating_point():
            logits, labels = two_classes(logits.detach()), self._binary(labels, len(logits), "validation labels")
        if (
            not isinstance(logits, Tensor)
            or logits.ndim != 2
            or not isinstance(labels, Tensor)
            or labels.shape != logits.shape[:1]
        ):
            raise UsageError(
                f"Epoch {self.epochs}: validation needs a row of class logits and one class for each example; give both as tensors."
            )
        if not logits.is_floating_point() or labels.is_floating_point() or labels.dtype == torch.bool:
            raise UsageError(
                f"Epoch {self.epochs}: validation got {logits.dtype} logits and {labels.dtype} labels; give real numbers and integers."
            )
        self._check_classes(logits.shape[1])
        logits, labels = logits.detach().to("cpu", torch.float64), labels.detach().to("cpu", torch.int64)
        outside = (labels < 0) | (labels >= self.classes)
        if bool(outside.any()):
            values = labels[outside].unique().tolist()
            raise UsageError(
                f"Epoch {self.epochs}: validation labels are outside 0..{self.classes - 1} ({listed(values, len(values))}); give classes of the run."
            )
        if bad := int((~logits.isfinite().all(1)).sum()):
            raise NumericalError(
                f"Epoch {self.epochs}: logits of {bad} validation examples are NaN or infinite. Lower the learning rate; the epochs before are saved."
            )
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        totals, counts = self.validation_sums or (
            torch.zeros(self.classes, dtype=torch.float64),
            torch.zeros(self.classes, dtype=torch.int64),
        )
        self.validation_sums = totals.index_add(0, labels, losses), counts + torch.bincount(labels, minlength=self.classes)

    def _flush(self) -> None:
        if not self._held:
            return
        positions = torch.cat([held[0].to("cpu", torch.int64) for held in self._held])
        numbers = torch.cat([held[1] for held in self._held])
        classes = [held[2] for held in self._held if held[2] is not None]
        labels = torch.cat(classes).to(numbers.device, torch.int64) if classes else None
        self._held, self._held_bytes = [], 0
        if bool(((positions < 0) | (positions >= len(self.ids))).any()):
            raise UsageError(
                f"Epoch {self.epochs}: positions {int(positions.min())}..{int(positions.max())} are outside "
                f"0..{len(self.ids) - 1}; a position is the place of an id in the order given at the start."
            )
        visits = self._visits + torch.bincount(positions, minlength=len(self.ids))
        twice = visits > 1
        if bool(twice.any()) and not self._may_be_partial and self.processes == 1:
            names = self.ids.take(twice)
            raise UsageError(
                f"Epoch {self.epochs}: {len(names)} ids came more than once: {listed(names, len(names))}. "
                f"A recorded training pass visits every example once; with a repeating sampler, {CLEAN_OR_PARTIAL}."
            )
        many = self._task == "labels"
        if labels is None:
            facts = self._of_losses(positions, numbers)
        else:
            facts = (self._of_labels if many else self._of_logits)(positions, numbers, labels)
        if bool(twice.any()):
            kept = self._kept_visits(positions, None if many else labels)
            positions, facts = positions[kept], {name: fact[kept.to(fact.device)] for name, fact in facts.items()}
        # Counted only now: an epoch some of whose logits were refused must not pass for whole.
        self._visits = visits
        if "labels" in facts:
            self._epoch_labels[positions] = facts.pop("labels").cpu()
        for name, fact in facts.items():
            self._place(name, positions, fact.cpu())

    def _place(self, name: str, positions: Tensor, fact: Tensor) -> None:
        """Keep a fact of some examples."""
        if name not in self._facts:
            # What was not seen is nowhere taken for a number.
            absent = math.nan if fact.is_floating_point() and name != "probs" else 0
            self._facts[name] = torch.full((len(self.ids), *fact.shape[1:]), absent, dtype=fact.dtype)
        self._facts[name][positions] = fact

    def _of_losses(self, positions: Tensor, losses: Tensor) -> dict[str, Tensor]:
        self._refuse_numbers(
            positions[~losses.isfinite().cpu()], "are NaN or infinite", "Lower the learning rate or mend these inputs", "losses"
        )
        return {"losses": losses.to(torch.float64)}

    def _of_labels(self, positions: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        assert self._label_matrix is not None
        known, given = self._label_matrix[positions], labels.cpu()
        self._label_matrix[positions] = given
        # An example that comes twice may differ from itself.
        changed = ((known >= 0) & (known != given) | (self._label_matrix[positions] != given)).any(1)
        if bool(changed.any()):
            names = self.ids.take(positions[changed].unique())
            raise UsageError(
                f"Epoch {self.epochs}: the labels of {len(names)} examples are not those of before; ids {listed(names, len(names))}. Within a run an "
                "example has the same labels: record without mixing labels and without a collate_fn that reorders its rows."
            )
        self._refuse_numbers(
            positions[~logits.isfinite().all(1).cpu()], "are NaN or infinite", "Lower the learning rate or mend these inputs"
        )
        logits = logits.to(torch.float32)
        flat = observe(two_classes(logits.flatten()), labels.flatten())
        facts = {name: fact.reshape(logits.shape) for name, fact in flat.items()}
        if self.header.keep_logits:
            facts["logits"] = logits
        return facts

    def _of_logits(self, positions: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self._check_labels(positions, labels)
        for bad, what, cure in faults(logits, labels):
            self._refuse_numbers(positions[bad.cpu()], what, cure)
        logits = logits.to(torch.float32)
        facts: dict[str, Tensor] = observe(logits, labels)
        self._check_facts(positions, facts)
        facts["labels"] = labels
        if self.header.keep_logits or self.alongside.reads_logits:
            facts["logits"] = logits
        if self.header.mean_probs:
            facts["probs"] = logits.softmax(-1)
        return facts

    @property
    def _may_be_partial(self) -> bool:
        """Whether facts are those of a training pass that may leave examples out. A clean pass never does."""
        return self.header.partial and self.header.view == "train"

    def _kept_visits(self, positions: Tensor, labels: Tensor | None) -> Bool[Tensor, " rows"]:
        """Those rows whose facts are kept of an example that comes several times: its last one, or of several processes its first."""
        places, first = torch.arange(len(positions)), not self._may_be_partial
        one = torch.zeros(len(self.ids), dtype=torch.int64)
        one = one.scatter_reduce_(0, positions, places, "amin" if first else "amax", include_self=False)
        if labels is not None:
            self._check_one_label(positions, labels.cpu(), labels.cpu()[one[positions]])
            self._check_one_label(positions, labels.cpu(), self._epoch_labels[positions])
        kept = one[positions] == places
        return kept & (self._visits[positions] == 0) if first else kept

    def _check_facts(self, positions: Tensor, facts: Mapping[str, Tensor]) -> None:
        whole = torch.stack([fact.isfinite() for fact in facts.values() if fact.is_floating_point()]).all(0)
        self._refuse_numbers(
            positions[~whole.cpu()], "are so large that margins or losses overflow in float32", "Scale the model's outputs down"
        )

    def _refuse_numbers(self, positions: Tensor, what: str, cure: str, of: str = "logits") -> None:
        if len(positions):
            names = self.ids.take(positions)
            raise NumericalError(
                f"Epoch {self.epochs}: {of} of {len(names)} examples {what}; ids {listed(names, len(names))}. "
                f"{cure}; the epochs before are saved."
            )

    @property
    def sums_by_default(self) -> bool:
        """Whether the probabilities are few enough to be summed up unless it is asked otherwise."""
        return len(self.ids) * self.classes <= SMALL

    def _decide_mean_probs(self) -> None:
        """By default the probabilities are summed up where that is small, which is known with the first logits."""
        if not self._undecided:
            return
        self._undecided = False
        if not self.sums_by_default:
            self.header = self.header.model_copy(update={"mean_probs": False})
            replace(self.paths.header, write_header(self.header))
            warnings.warn(
                f"{self.paths.folder}: mean probabilities are not kept, because {len(self.ids):,} examples of {self.classes:,} classes take "
                f"{8 * len(self.ids) * self.classes / 2**20:,.0f} MB; record with Recording(mean_probs=True) to choose new labels with `relabel`, or with "
                "Recording(mean_probs=False) to leave them out without this warning.",
                stacklevel=4,
            )

    def _check_classes(self, classes: int) -> None:
        if classes < 2:
            raise UsageError(
                f"The model has {classes} outputs; valuing needs logits of at least 2 classes, or losses: {BY_LOSSES}."
            )
        if self.classes and classes != self.classes:
            raise UsageError(
                f"Epoch {self.epochs}: the model has {classes} outputs, it had {self.classes} before; record one head per run."
            )
        if self._names is not None and len(self._names) != classes:
            raise UsageError(f"{len(self._names)} class names do not fit a model with {classes} outputs; give one for each.")
        self.classes = classes

    def _check_labels(self, positions: Tensor, labels: Tensor) -> None:
        labels, classes = labels.cpu(), self.classes
        bad = (labels < 0) | (labels >= classes)
        if bool(bad.any()):
            names, values = self.ids.take(positions[bad]), labels[bad].unique().tolist()
            raise UsageError(
                f"Epoch {self.epochs}: {len(names)} labels are outside 0..{classes - 1} ({listed(values, len(values))}); "
                f"ids {listed(names, len(names))}. Give every example one of the classes."
            )
        self._check_one_label(positions, labels, self.labels[positions])

    def _check_one_label(self, positions: Tensor, labels: Tensor, known: Tensor) -> None:
        changed = (known >= 0) & (known != labels)
        if bool(changed.any()):
            at = int(changed.nonzero()[0])
            raise UsageError(
                f"Epoch {self.epochs}: the label of id {self.ids.values[int(positions[at])]} was {int(known[at])} "
                f"and is now {int(labels[at])}. Within a run an example has one label: record without mixing labels, without a collate_fn that "
                f"reorders its rows, and without a dataset that gives another item in the place of a broken one{self._given}."
            )

    @property
    def opening(self) -> tuple[Header, int, bool]:
        """What another process must know to observe a part of an epoch (see `parts`): the header, how many epochs there are, and whether it hangs
        on the number of classes that probabilities are summed up.
        """
        return self.header, self.epochs, self._undecided

    def part(self) -> Part:
        """What this process observed of the epoch, for `merge` in the process that writes the run.

        Raises:
            UsageError: As `complete`, of what was observed here.
            NumericalError: A logit is NaN or infinite.
        """
        self._flush()
        rows = self._visits.nonzero().flatten()
        order = torch.cat([torch.zeros(0, dtype=torch.int64), *self._batches])
        sizes = torch.tensor([len(batch) for batch in self._batches], dtype=torch.int64)
        numbers = torch.zeros(len(self.ids), dtype=torch.int64).scatter_reduce_(
            0,
            order,
            torch.repeat_interleave(torch.arange(len(sizes)), sizes),
            "amax" if self._may_be_partial else "amin",
            include_self=False,
        )
        facts = {name: fact[rows] for name, fact in self._facts.items()}
        matrix = None if self._label_matrix is None else self._label_matrix[rows]
        steps = (self._batches, self._rates, self._momenta, self._updates)
        return Part(self._task, self.classes, rows, numbers[rows], facts, self._epoch_labels[rows], matrix, *steps)

    def merge(self, parts: Sequence[Part]) -> None:
        """Make one epoch of the parts of all processes, this one's first: of the first batch of each, then of the second batches, and so on.

        An optimizer step is then one on the batches of all processes. Facts are those of the visit with the smallest batch number, then process; with
        `partial` the largest.

        Raises:
            UsageError: The parts are not of one epoch, or an example has two labels.
        """
        self._check_parts(parts)
        said = self.autocast, self.carried, self._begun
        self._clear()
        self.autocast, self.carried, self._begun = said
        first = parts[0]
        self._task = first.task
        if first.task == "classes":
            self._check_classes(first.classes)
            self._decide_mean_probs()
        newest = torch.full((len(self.ids),), -1, dtype=torch.int64)
        for process, part in enumerate(parts):
            rows, keys = part.rows, part.numbers * len(parts) + process
            if part.label_matrix is not None:
                self._merge_label_matrix(rows, part.label_matrix)
            elif part.task == "classes":
                for known in (self.labels, self._epoch_labels):
                    self._check_one_label(rows, part.labels, known[rows])
            before = newest[rows]
            takes = (before < 0) | ((keys > before) if self._may_be_partial else (keys < before))
            newest[rows[takes]] = keys[takes]
            self._epoch_labels[rows[takes]] = part.labels[takes]
            for name, fact in part.facts.items():
                self._place(name, rows[takes], fact[takes])
            self._visits += torch.bincount(torch.cat([rows[:0], *part.batches]), minlength=len(self.ids))
        extra = int(self._visits.sum()) - len(self.ids)
        # What fills up the last batches of all processes is less than a batch of each.
        if not self._may_be_partial and extra >= sum(max(map(len, part.batches), default=1) for part in parts):
            raise UsageError(
                f"Epoch {self.epochs}: the {len(parts)} processes made {extra} visits more than there are examples, which is more than fills up their last batches; "
                "give each a sampler of its own part, as torch.utils.data.DistributedSampler does, or record with data=assay.DataSpec(visits='any')."
            )
        for number, updates in enumerate(first.updates):
            for part in parts:
                self._batches.append(part.batches[number])
                self._rates.append(part.rates[number])
                self._momenta += part.momenta[number : number + 1]
                self._updates.append(updates if part is parts[-1] else 0)

    def _check_parts(self, parts: Sequence[Part]) -> None:
        first = parts[0]
        for process, part in enumerate(parts):
            for what, held, other in (
                ("batches", len(first.batches), len(part.batches)),
                ("outputs of the model", first.classes, part.classes),
                ("optimizer updates by batch", first.updates, part.updates),
                ("kind of values recorded", first.task, part.task),
                ("facts", sorted(first.facts), sorted(part.facts)),
            ):
                if held != other:
                    shown = [str(value) if len(str(value)) < 40 else f"{str(value)[:40]}..." for value in (held, other)]
                    raise UsageError(
                        f"Epoch {self.epochs}: process {process} differs from process 0 in its {what} ({shown[1]}, not {shown[0]}); let every process run "
                        "the same loop on its own part of the examples."
                    )

    def _merge_label_matrix(self, rows: Tensor, labels: Tensor) -> None:
        if self._label_matrix is None:
            self._label_matrix = torch.full((len(self.ids), labels.shape[1]), -1)
        known = self._label_matrix[rows]
        changed = ((known >= 0) & (known != labels)).any(1)
        if bool(changed.any()):
            names = self.ids.take(rows[changed])
            raise UsageError(
                f"Epoch {self.epochs}: the labels of {len(names)} examples are not those of before; ids {listed(names, len(names))}. Within a run an "
                "example has the same labels: record without mixing labels and without a collate_fn that reorders its rows."
            )
        self._label_matrix[rows] = labels

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the state at the end of an epoch is to be saved."""
        # Of a list of epochs the newest stand beside those asked for, so that the run can be resumed.
        return self.header.checkpoints != "none"

    def complete(self) -> None:
        """Check that the epoch can be committed, without writing anything yet.

        Raises:
            UsageError: An example was not visited or came twice (with `partial`: no example was visited, or the label of an
                unvisited one is unknown), a label is no class, or all labels are equal.
            NumericalError: A logit is NaN or infinite.
        """
        self._flush()
        epoch = self.epochs
        absent = self._visits == 0
        if self._may_be_partial and bool(absent.any()):
            self._check_partial(absent)
        elif bool(absent.any()):
            names = self.ids.take(absent)
            raise UsageError(
                f"Epoch {epoch}: {len(names)} of {len(self.ids)} ids were not visited: {listed(names, len(names))}. "
                f"A recorded training pass visits every example; with drop_last or a partial sampler, {CLEAN_OR_PARTIAL}."
            )
        if self._task in ("losses", "labels"):
            return
        labels = self.epoch_labels
        if bool((labels == labels[0]).all()):
            raise UsageError(f"All {len(self.ids)} labels are class {int(labels[0])}; valuing needs at least 2 classes.")

    def _check_partial(self, absent: Tensor) -> None:
        known = self._label_matrix[:, 0] if self._label_matrix is not None else self.labels
        unknown = absent & (known < 0) & (self._task != "losses")
        if bool(absent.all()):
            raise UsageError(f"Epoch {self.epochs} trained on no example; let every epoch train on one at least.")
        if bool(unknown.any()):
            names = self.ids.take(unknown)
            raise UsageError(
                f"Epoch {self.epochs} did not visit {len(names)} of {len(self.ids)} ids, whose labels are not known yet: {listed(names, len(names))}. "
                "Give partial=assay.runs.recorder.Partial(labels=...) (assay.record: data=assay.DataSpec(labels=...)), one class for each example, "
                "(examples, labels) of task='labels', or let the first epoch train on all."
            )

    @property
    def epoch_labels(self) -> Int[Tensor, " examples"]:
        """The labels seen in the complete, uncommitted epoch; for examples that it did not visit, the labels known so far; -1 without classes."""
        if self._task in ("labels", "losses"):
            # Those known beforehand say nothing of a run without classes.
            return torch.full_like(self.labels, -1)
        return torch.where(self._epoch_labels < 0, self.labels, self._epoch_labels)

    def commit(
        self,
        state: Mapping[str, Tensor] | None = None,
        notes: Mapping[str, str] | None = None,
        content: tuple[Mapping[str, Tensor], Mapping[str, str]] | None = None,
    ) -> Commit:
        """Put the epoch on disk: one shard, its other files, and last the line of `commits.jsonl` that commits it.

        Args:
            state: Model and optimizer at the epoch's end, for the checkpoint.
            notes: Texts saved in the checkpoint.
            content: What the examples consist of (see `runs.content`), as tensors and notes that go into the shard.

        Raises:
            UsageError: As `complete`.
            NumericalError: A logit is NaN or infinite.
            NotWritten: The operating system refuses; the epochs before are intact.
            RunError: The folder was moved, or its lock deleted, since the recording began.
        """
        self.complete()
        self._lock.check()
        epoch = self.epochs
        labels = self.epoch_labels
        if epoch == 0:
            if self._task in ("losses", "labels"):
                said = {"task": self._task, "mean_probs": False, "reduce_labels": self.reduce_labels}
                self.header = self.header.model_copy(update=said)
                replace(self.paths.header, write_header(self.header))
            names = self._names or tuple(str(number) for number in range(self.classes))
            write_examples(self.paths.examples, self.ids, labels, names)
        self._check_state(state)
        if self._may_be_partial and bool((self._visits != 1).any()):
            self._facts["visits"] = self._visits.to(torch.uint8 if int(self._visits.max()) < 256 else torch.int32)
        # Of several labels there is no number of each example that a method could be shown.
        shown = {name: fact for name, fact in self._facts.items() if self._task != "labels" or name == "visits"}
        saved = self.alongside.saved(epoch, shown, self.classes)
        live = self._save(self.paths.live(epoch), saved.states, saved.notes) if self.alongside.titles else None
        stream = self._save(self.paths.stream(epoch), saved.visits) if saved.visits else None
        sums = None
        if self.header.mean_probs:
            total = self._facts["probs"].to(torch.float64) + (self._probs_sum if self._probs_sum is not None else 0)
            sums = self._save(self.paths.sums(epoch), {"probs": total})
        stored = {name: fact for name, fact in self._facts.items() if name != "probs"}
        if not self.header.keep_logits:
            stored.pop("logits", None)
        if epoch == 0 and self._label_matrix is not None:
            stored["labels"] = self._label_matrix.to(torch.uint8)
        stored["order"] = torch.cat(self._batches or [torch.zeros(0, dtype=torch.int64)]).to(torch.int32)
        stored["batch_sizes"] = torch.tensor([len(batch) for batch in self._batches], dtype=torch.int32)
        # A group that joins in the middle of an epoch has neither rate nor momenta before.
        groups = max(map(len, self._rates), default=0)
        none = (math.nan, math.nan)
        rates = [[*by_group, *[math.nan] * (groups - len(by_group))] for by_group in self._rates]
        stored["rates"] = torch.tensor(rates, dtype=torch.float64)
        if self._momenta:
            momenta = [[*by_group, *[none] * (groups - len(by_group))] for by_group in self._momenta]
            stored["momenta"] = torch.tensor(momenta, dtype=torch.float64)
        told_of_content, noted = content or ({}, {})
        stored |= told_of_content
        if any(count != 1 for count in self._updates):
            stored["updates"] = torch.tensor(self._updates, dtype=torch.int32)
        for name, holds in (("carried", self.carried), ("altered", self.altered)):
            if holds:
                stored[name] = torch.ones(1, dtype=torch.int32)
        if self._weights is not None and bool((self._weights.nan_to_num(1.0) != 1).any()):
            # What did not stand in a batch has no weight.
            stored["weights"] = self._weights.nan_to_num(0.0)
        if self.validation_sums is not None:
            totals, counts = self.validation_sums
            # Of a class without examples the mean is NaN.
            stored |= {"validation_losses": totals / counts, "validation_counts": counts}
        wanted = state is not None and self.keeps_checkpoints
        checkpoint = self._save(self.paths.checkpoint(epoch), state, notes) if wanted and state is not None else None
        commit = Commit(
            epoch=epoch,
            shard=self._save(self.paths.shard(epoch), stored, noted),
            checkpoint=checkpoint,
            start=self._save(self.paths.start, *self._start) if self._start is not None else None,
            sums=sums,
            live=live,
            stream=stream,
            dataset=dataset_fingerprint(self.ids, labels),
            steps=len(self._batches),
            skipped=self._skipped,
            seconds=time.perf_counter() - self._begun,
            at=now(),
            elsewhere=self._elsewhere(),
            processes=self.processes if self.processes > 1 else None,
            autocast=dict(self.autocast) or None,  # type: ignore[arg-type]  # held to its names when it is made
        )
        # Once more, because the files of a large epoch take a while.
        self._lock.check()
        append_line(self.paths.commits, commit.line())
        # Only now, so that an epoch that was refused by the disk can be recorded again.
        self.commits.append(commit)
        self.labels, self._start = labels, None
        self.alongside.committed(self.epochs)
        self._skipped = 0
        if sums is not None:
            self._probs_sum = total
        self._remove_superseded(epoch - 1)
        self._clear()
        return commit

    def _save(self, path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> File:
        name, sums = str(path.relative_to(self.paths.folder)), save_tensors(path, tensors, notes)
        return File(name=name, sums=sums, notes=checksum_notes(notes or {}))

    def _elsewhere(self) -> dict[Any, str | int] | None:
        """By what an epoch is recorded that is not what the header says; None where all is as it was when the run began."""
        now_here = {**here(), "code": self._code, "device": self._device}
        changed = {name: now_here[name] for name in CONDITIONS if now_here[name] != getattr(self.header, name)}
        return changed or None

    def _check_state(self, state: Mapping[str, Tensor] | None) -> None:
        """Refuse a state that no training can go on from.

        Raises:
            NumericalError: A tensor of it is NaN or infinite, and was not so before training.
        """
        if state is None or not self.keeps_checkpoints:
            return
        # A schedule or an average beside them may start from infinity.
        own = {name: tensor for name, tensor in state.items() if not name.startswith("also ")}
        bad = [name for name, tensor in own.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
        if not bad:
            return
        # A buffer may hold -inf on purpose, as masks do.
        before: Mapping[str, Tensor] = {}
        if self._start is not None:
            before = self._start[0]
        elif self.commits and self.commits[0].start is not None:
            before = Run(self.paths.folder).state(-1).read_all()
        bad = [name for name in bad if name not in before or bool(before[name].isfinite().all())]
        if bad:
            rest = (
                f"the run ends with epoch {self.epochs - 1}, from which it can be resumed" if self.epochs else "no epoch is saved"
            )
            raise NumericalError(
                f"Epoch {self.epochs}: after its last step {len(bad)} tensors of model and optimizer are NaN or infinite "
                f"({listed(bad, len(bad), 2)}), so the epoch is not saved. Lower the learning rate or clip the gradient; {rest}."
            )

    def _remove_superseded(self, epoch: int) -> None:
        # One epoch is kept behind the newest, so that a reader that has just read the commits still finds its files.
        old = epoch - 1
        if old < 0:
            return
        remove(self.paths.sums(old))
        remove(self.paths.live(old))
        keep = self.header.checkpoints
        if keep == "last" or (not isinstance(keep, str) and old not in keep):
            remove(self.paths.checkpoint(old))

    def close(self) -> None:
        """Release the lock, so that others can write. Epochs that are not committed are lost."""
        self._clear()
        self._lock.release()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _warn_of_probabilities(logits: Tensor) -> None:
    rows = logits.to(torch.float32)
    if len(rows) and bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() < 1e-3).all()):
        warnings.warn(
            "The logits of the first batch are probabilities (every row is 0 or more and adds up to 1), so that margins and confidences would "
            "be those of a second softmax; give recorder.batch what the model computes before its softmax, or torch.log(probabilities).",
            stacklevel=4,
        )
