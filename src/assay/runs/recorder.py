"""The recorder: what one epoch said of each example, buffered in memory and committed whole or not at all."""

import contextlib
import json
import math
import numbers
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.accumulators import AbstractDynamicsMethod, AbstractStepMethod, State
from ..core.arguments import checked_arguments
from ..core.epochs import Epoch
from ..core.errors import AssayError, Mismatch, MissingEvidence, NotWritten, NumericalError, OutputExists, UsageError, some
from ..core.evidence import Evidence
from ..core.ids import Ids, dataset_fingerprint
from ..core.method import AbstractMethod
from ..core.needs import EPOCH_NEEDS, Need
from ..core.results import Result
from ..core.scores import Scores
from ..core.scoring import checked
from ..maths.observations import faults, observe
from ..replay.functional import Functional
from ..replay.model_batches import LiveStep
from ..replay.step_state import decode, encode
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
from .run import Run, read_run
from .schema import CONDITIONS, Commit, File, Header, View, here, now, read_commits, write_header
from .tables import write_examples

FLUSH_BYTES = 2 * 2**20
"""Logits held back before their facts are computed: one vectorised pass, and on a GPU one transfer, for many batches."""

SMALL = 2**22
"""Examples times classes up to which the probabilities are summed up unless it is asked otherwise: 32 MB on disk."""

Checkpoints = Literal["every", "last", "none"] | Sequence[int]


def check_place(paths: RunPaths, resume: bool = False) -> bool:
    """Whether there is a run to go on with.

    Raises:
        OutputExists: There is one and `resume` is false, or there is something else.
    """
    folder = paths.folder
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"{folder} is a file; name a folder for the run.")
    exists = paths.header.exists()
    if exists and not resume:
        raise OutputExists(f"{folder} already holds a run; resume it with resume=True (`--resume`) or name another folder.")

    def nothing(at: Path) -> bool:
        # What writers leave that ended before anything was worth keeping.
        return at == paths.lock or at.suffix == ".tmp" or (at == paths.models and not any(at.glob("*/run.json")))

    if not exists and folder.exists() and not all(map(nothing, folder.iterdir())):
        raise OutputExists(f"{folder} is not empty and holds no run; name a new or empty folder.")
    return exists


class EpochInMemory:
    """The epoch just trained, as methods that run along see it."""

    def __init__(self, index: int, facts: Mapping[str, Tensor]):
        self.recorded = index + 1
        self.holds = frozenset(need for need in EPOCH_NEEDS if need.value in facts)
        self._facts = facts

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of this epoch."""
        return self._facts[need.value]


class Recorder:
    """Writes one run, epoch by epoch.

    `begin`, then `step` for every optimizer step and `observe` for every forward pass that is recorded, then `commit`. An epoch
    that was not committed leaves no trace.
    """

    @checked_arguments
    def __init__(
        self,
        folder: str | Path,
        ids: Ids,
        *,
        view: View = "train",
        keep_logits: bool = False,
        mean_probs: bool | None = None,
        checkpoints: Checkpoints = "last",
        live: Sequence[AbstractMethod] = (),
        class_names: Sequence[str] | None = None,
        seed: int | None = None,
        device: str = "cpu",
        about: Mapping[str, object] | None = None,
        resume: bool = False,
        code: str = "",
    ):
        """Start a run in `folder`, or, with `resume`, go on with the one there if there is one.

        `mean_probs` is whether the probabilities are summed up over the epochs, which costs 8 bytes per example and class on disk; by
        default only where examples times classes are at most 4,194,304, or as the run that is resumed was begun.

        Raises:
            OutputExists: A run is there and `resume` is false.
            Mismatch: The run to resume has other ids or was recorded otherwise.
            RunLocked: Another process writes this run.
            UsageError: A setting is outside its range.
            NotWritten: The operating system refuses.
        """
        if view not in ("train", "eval"):
            raise UsageError(f"view={view!r} is neither 'train' (the training pass) nor 'eval' (a clean pass per epoch).")
        if not (checkpoints in ("every", "last", "none") if isinstance(checkpoints, str) else _are_epochs(checkpoints)):
            raise UsageError(f"checkpoints={checkpoints!r} is not 'every', 'last', 'none' or a list of epochs counted from 0.")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, numbers.Integral)):
            raise UsageError(f"seed={seed!r} is no integer; give an integer, or None.")
        if not len(ids):
            raise UsageError("There are no examples to record.")
        check_live(live, len(ids))
        self.paths = RunPaths(Path(folder))
        self.ids, self.live = ids, tuple(live)
        self._names = tuple(class_names) if class_names is not None else None
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
                code=code,
                view=view,
                keep_logits=keep_logits,
                mean_probs=mean_probs is not False,
                checkpoints=checkpoints if isinstance(checkpoints, str) else tuple(sorted(set(map(int, checkpoints)))),  # type: ignore[arg-type]
                examples=len(ids),
                live=tuple(method.title for method in self.live),
                seed=None if seed is None else int(seed),
                device=device,
                about=dict(about or {}),
            )
            self.labels: Int[Tensor, " examples"] = torch.full((len(ids),), -1, dtype=torch.int64)
            self.classes = 0
            self.commits: list[Commit] = []
            self._probs_sum: Tensor | None = None
            self._start: tuple[dict[str, Tensor], dict[str, str]] | None = None
            self._states: dict[str, State] | None = None
            self._stopped: dict[str, str] = {}
            self.silent: dict[str, str] = {}
            self._undecided = mean_probs is None
            self._warned = False
            self._skipped = 0
            self.functional: Functional | None = None
            self._walks: dict[str, Any] = {}
            self._met = torch.zeros(len(ids), dtype=torch.bool)
            self._fresh = False
            self._open = False
            for path in (self.paths.header, self.paths.examples, self.paths.commits):
                remove_leftovers(path)
            self._code, self._device = code, device
            if exists:
                self._reopen(wanted)
            else:
                self.header = wanted
                replace(self.paths.header, write_header(wanted))
            self._clear()
        except BaseException:
            self._lock.release()
            raise

    def _reopen(self, wanted: Header) -> None:
        self.header, self.commits = read_run(self.paths)
        for field in ("view", "keep_logits", "mean_probs", "checkpoints", "examples", "seed"):
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
                f"{self.paths.folder} was recorded with class_names {some(run.class_names, run.classes)}, not "
                f"{some(self._names, len(self._names))}; resume it as it was begun."
            )
        self.labels, self.classes, self._names = run.labels, run.classes, run.class_names
        self._stopped, self._undecided = run.stopped(), False
        if run.header.mean_probs:
            self._probs_sum = run.probs_sum()

    def _warn_of_another_place(self, wanted: Header) -> None:
        """The order in which numbers are added up hangs on these, and with it the last bits of every step."""
        before = {name: getattr(self.header, name) for name in ("torch", "machine", "threads", "device")}
        changed = [f"{name} {old}, now {new}" for name, old in before.items() if (new := getattr(wanted, name)) != old]
        if changed:
            warnings.warn(
                f"{self.paths.folder} was recorded with {'; '.join(changed)}. What reads epochs or kept models is not touched by this, but the last "
                "bits of the steps may differ, and methods that take the training again may then refuse this run.",
                stacklevel=4,
            )

    def add_live(self, method: AbstractMethod) -> None:
        """One more method to run along.

        Raises:
            UsageError: It cannot, it does already, or the first epoch has begun.
            Mismatch: The run to go on with did not have it.
        """
        if self._open or (self.epochs and method.title not in self.header.live):
            raise UsageError(f"{method.title} cannot join a training that has begun; add it before the first epoch.")
        check_live([*self.live, method], len(self.ids))
        self.live = (*self.live, method)
        if not self.epochs:
            self.header = self.header.model_copy(update={"live": tuple(one.title for one in self.live)})
            replace(self.paths.header, write_header(self.header))

    @property
    def folds(self) -> tuple[AbstractDynamicsMethod, ...]:
        """The live methods that read epochs."""
        return tuple(method for method in self.live if isinstance(method, AbstractDynamicsMethod))

    @property
    def walks(self) -> tuple[AbstractStepMethod, ...]:
        """The live methods that read steps."""
        return tuple(method for method in self.live if isinstance(method, AbstractStepMethod))

    @property
    def walking(self) -> tuple[AbstractStepMethod, ...]:
        """The live methods that read steps and have not stopped."""
        return tuple(method for method in self.walks if method.title not in self._stopped)

    def absorb(self, step: LiveStep) -> None:
        """Show a step just taken to the methods that read steps. One that fails stops; the others, and the training, go on."""
        self._fresh = False
        self._met[step.positions] = True
        for method in self.walking:
            with self._guarded(method):
                method.absorb(self._walks[method.title], step)  # type: ignore[arg-type]  # frozen where the protocol says readable

    def stop(self, method: AbstractMethod, why: str) -> None:
        """Have a live method run along no longer, and say so once."""
        if method.title in self._stopped:
            return
        self._stopped[method.title] = f"it stopped in epoch {self.epochs}: {why}"
        self._walks.pop(method.title, None)
        warnings.warn(
            f"{method.title} stopped running along in epoch {self.epochs}: {why} Training and recording go on without it.",
            stacklevel=2,
        )

    @contextlib.contextmanager
    def _guarded(self, method: AbstractMethod) -> Iterator[None]:
        """Whatever a live method raises ends that method, never the training that it runs along with."""
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split())[:400] or "no reason given"
            kind = "" if isinstance(error, AssayError) else f"{type(error).__name__}: "
            self.stop(method, f"{kind}{said.rstrip('.')}.")

    def live_scores(self) -> list[Scores]:
        """What the methods that run along say so far: those that read steps up to this one, the others up to the last epoch.

        One that has nothing to say yet, or cannot say it, is left out; why not stands in `silent`.
        """
        found: list[Scores] = []
        self.silent = {title: f"it has stopped: {why}" for title, why in self._stopped.items()}
        for method in self.live:
            if method.title in self._stopped:
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
            state = self._walks.get(method.title)
            return None if state is None else self._scores(method, method.finish(state), self._met)
        if not isinstance(method, AbstractDynamicsMethod) or self.epochs < method.fewest_epochs:
            return None
        folded = (self._states or {}).get(method.title)
        everyone = torch.ones(len(self.ids), dtype=torch.bool)
        return None if folded is None else self._scores(method, Result(method.finish(folded)), everyone)

    def _scores(self, method: AbstractMethod, findings: Result, met: Bool[Tensor, " examples"]) -> Scores:
        return checked(method, Evidence(self.ids, max(self.classes, 2)), findings, met)

    @property
    def epochs(self) -> int:
        """How many epochs are committed, which is also the number of the epoch to come."""
        return len(self.commits)

    def _clear(self) -> None:
        self._facts: dict[str, Tensor] = {}
        self._visits = torch.zeros(len(self.ids), dtype=torch.int64)
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []
        self._held_bytes = 0
        self._epoch_labels = torch.full((len(self.ids),), -1, dtype=torch.int64)
        self._batches: list[Tensor] = []
        self._rates: list[list[float]] = []
        self._momenta: list[list[tuple[float, float]]] = []
        self._updates: list[int] = []
        self._begun = time.perf_counter()
        if not self.commits:
            self.classes = 0

    def start(self, state: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        """Keep the state before training, from which the whole of it can be taken again; nothing if no checkpoints are kept.

        It is written with the first epoch, so that a recording without one leaves nothing behind.

        Args:
            state: Model and optimizer, which stay as they are.
            notes: Texts saved with them.
        """
        if self.keeps_checkpoints and not self.epochs:
            self._start = dict(state), dict(notes or {})

    def leave(self) -> None:
        """Forget an epoch that was left before its end. What was trained on in it lies between two epochs of the run, which says so."""
        # Before the first epoch nothing is lost: the state before training is then that of its beginning.
        if self.epochs:
            self._skipped += len(self._batches)
            for method in self.walking:
                self.stop(method, f"the epoch was left after {len(self._batches)} batches, so that steps are missing.")
        self._clear()

    def begin(self) -> int:
        """Start an epoch, forgetting one that was not committed; its number.

        Raises:
            Mismatch: The run to go on with had other methods running along.
        """
        titles = tuple(method.title for method in self.live)
        if titles != self.header.live:
            raise Mismatch(
                f"{self.paths.folder} was recorded with live={self.header.live!r}, not {titles!r}; resume it as it was begun."
            )
        if self.epochs and self._states is None and self.folds:
            run = Run(self.paths.folder)
            found = {method.title: run.live_state(method) for method in self.folds if method.title not in self._stopped}
            self._states = {title: state for title, state in found.items() if state is not None}
        if not self._fresh:
            self._begin_walks()
        self._open = True
        self._clear()
        return self.epochs

    def _begin_walks(self) -> None:
        """The states of methods that read steps, as they were after the last committed epoch."""
        run = Run(self.paths.folder) if self.epochs and self.walks else None
        self._met = torch.zeros(len(self.ids), dtype=torch.bool) if run is None else run.visits() > 0
        for method in self.walking:
            stored = run.walk_state(method) if run is not None else None
            with self._guarded(method):
                if stored is None or self.functional is None:
                    self._walks[method.title] = method.start(len(self.ids))
                else:
                    self._walks[method.title] = decode(*stored, self.functional)
        self._fresh = True

    def step(
        self,
        positions: Int[Tensor, " batch"],
        rates: Sequence[float],
        updates: int = 1,
        momenta: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        """One step.

        Args:
            positions: On which examples.
            rates: Learning rate of each parameter group.
            updates: How often the optimizer moved in it.
            momenta: Of each parameter group (momentum, NaN) or (beta1, beta2), both NaN where there is neither; where a schedule may change
                them. None where they are those of the checkpoint throughout.
        """
        self._updates.append(updates)
        self._batches.append(positions.to("cpu", torch.int64))
        self._rates.append([float(rate) for rate in rates])
        if momenta is not None:
            self._momenta.append([(float(first), float(second)) for first, second in momenta])

    def observe(self, positions: Int[Tensor, " batch"], logits: Tensor, labels: Tensor) -> None:
        """What a forward pass said of some examples. Nothing is computed until enough is held back.

        Raises:
            UsageError: Logits or labels are of the wrong shape or type.
        """
        if not isinstance(logits, Tensor):
            raise UsageError(
                f"Epoch {self.epochs}: logits are {type(logits).__name__}; give the torch tensor that the model returns."
            )
        if logits.ndim != 2 or len(logits) != len(positions):
            raise UsageError(
                f"Epoch {self.epochs}: logits of shape {tuple(logits.shape)} do not fit a batch of {len(positions)} examples; "
                "give one row of class logits per example."
            )
        if not logits.is_floating_point():
            raise UsageError(f"Epoch {self.epochs}: logits are {logits.dtype}; give real numbers, such as torch.float32.")
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
                "Soft and mixed labels cannot be recorded."
            )
        logits = logits.detach()
        if not self._warned:
            self._warned = True
            _warn_of_probabilities(logits)
        # A copy, because loops may reuse the memory of a batch before the facts are computed.
        self._held.append((positions, logits.clone(), labels.detach().clone()))
        self._held_bytes += logits.numel() * logits.element_size()
        if self._held_bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        positions = torch.cat([held[0].to("cpu", torch.int64) for held in self._held])
        logits = torch.cat([held[1] for held in self._held])
        labels = torch.cat([held[2] for held in self._held]).to(logits.device, torch.int64)
        self._held, self._held_bytes = [], 0
        if bool(((positions < 0) | (positions >= len(self.ids))).any()):
            raise UsageError(
                f"Epoch {self.epochs}: positions {int(positions.min())}..{int(positions.max())} are outside "
                f"0..{len(self.ids) - 1}; a position is the place of an id in the order given at the start."
            )
        visits = self._visits + torch.bincount(positions, minlength=len(self.ids))
        twice = visits > 1
        if bool(twice.any()):
            names = self.ids.take(twice)
            raise UsageError(
                f"Epoch {self.epochs}: {len(names)} ids came more than once: {some(names, len(names))}. "
                "A recorded training pass visits every example once; with a repeating sampler, record with view='eval'."
            )
        self._check_labels(positions, labels)
        for bad, what, cure in faults(logits, labels):
            self._refuse_numbers(positions[bad.cpu()], what, cure)
        logits = logits.to(torch.float32)
        facts: dict[str, Tensor] = observe(logits, labels)
        self._check_facts(positions, facts)
        # Counted only now: an epoch some of whose logits were refused must not pass for whole.
        self._visits = visits
        self._epoch_labels[positions] = labels.cpu()
        if self.header.keep_logits or any(Need.LOGITS in method.needs for method in self.live):
            facts["logits"] = logits
        if self.header.mean_probs:
            facts["probs"] = logits.softmax(-1)
        for name, fact in facts.items():
            fact = fact.cpu()
            if name not in self._facts:
                self._facts[name] = torch.zeros((len(self.ids), *fact.shape[1:]), dtype=fact.dtype)
            self._facts[name][positions] = fact

    def _check_facts(self, positions: Tensor, facts: Mapping[str, Tensor]) -> None:
        whole = torch.stack([fact.isfinite() for fact in facts.values() if fact.is_floating_point()]).all(0)
        self._refuse_numbers(
            positions[~whole.cpu()], "are so large that margins or losses overflow in float32", "Scale the model's outputs down"
        )

    def _refuse_numbers(self, positions: Tensor, what: str, cure: str) -> None:
        if len(positions):
            names = self.ids.take(positions)
            raise NumericalError(
                f"Epoch {self.epochs}: logits of {len(names)} examples {what}; ids {some(names, len(names))}. "
                f"{cure}; the epochs before are saved."
            )

    def _decide_mean_probs(self) -> None:
        """By default the probabilities are summed up where that is small, which is known with the first logits."""
        if not self._undecided:
            return
        self._undecided = False
        if len(self.ids) * self.classes > SMALL:
            self.header = self.header.model_copy(update={"mean_probs": False})
            replace(self.paths.header, write_header(self.header))
            warnings.warn(
                f"{self.paths.folder}: mean probabilities are not kept, because {len(self.ids):,} examples of {self.classes:,} classes take "
                f"{8 * len(self.ids) * self.classes / 2**20:,.0f} MB; record with mean_probs=True to choose new labels with `relabel`, or with "
                "mean_probs=False to leave them out without this warning.",
                stacklevel=4,
            )

    def _check_classes(self, classes: int) -> None:
        if classes < 2:
            raise UsageError(
                f"The model has {classes} output; valuing needs logits of at least 2 classes. Of a binary model with one logit z, give "
                "torch.cat([torch.zeros_like(z), z], 1)."
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
                f"Epoch {self.epochs}: {len(names)} labels are outside 0..{classes - 1} ({some(values, len(values))}); "
                f"ids {some(names, len(names))}. Give every example one of the classes."
            )
        known = self.labels[positions]
        changed = (known >= 0) & (known != labels)
        if bool(changed.any()):
            at = int(changed.nonzero()[0])
            raise UsageError(
                f"Epoch {self.epochs}: the label of id {self.ids.values[int(positions[at])]} was {int(known[at])} "
                f"and is now {int(labels[at])}. Within a run an example has one label: record without mixing labels, without a collate_fn that "
                "reorders its rows, and without a dataset that gives another item in the place of a broken one."
            )

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the state at the end of an epoch is to be saved."""
        # Of a list of epochs the newest stand beside those asked for, so that the run can be resumed.
        return self.header.checkpoints != "none"

    def complete(self) -> None:
        """Hold the epoch against what an epoch must be, without writing anything yet.

        Raises:
            UsageError: An example was not visited or came twice, a label is no class, or all labels are equal.
            NumericalError: A logit is NaN or infinite.
        """
        self._flush()
        epoch = self.epochs
        absent = self._visits == 0
        if bool(absent.any()):
            names = self.ids.take(absent)
            raise UsageError(
                f"Epoch {epoch}: {len(names)} of {len(self.ids)} ids were not visited: {some(names, len(names))}. "
                "A recorded training pass visits every example; with drop_last or a partial sampler, record with view='eval'."
            )
        if bool((self._epoch_labels == self._epoch_labels[0]).all()):
            raise UsageError(
                f"All {len(self.ids)} labels are class {int(self._epoch_labels[0])}; valuing needs at least 2 classes."
            )

    @property
    def epoch_labels(self) -> Int[Tensor, " examples"]:
        """The labels of the epoch that is complete but not committed yet."""
        return self._epoch_labels

    def commit(
        self,
        state: Mapping[str, Tensor] | None = None,
        notes: Mapping[str, str] | None = None,
        content: tuple[Mapping[str, Tensor], Mapping[str, str]] | None = None,
    ) -> Commit:
        """Put the epoch on disk: one shard, what goes with it, and last the line that makes it count.

        Args:
            state: Model and optimizer at the epoch's end, for the checkpoint.
            notes: Texts saved in the checkpoint.
            content: What the examples consist of (see `runs.content`), as tensors and notes that go into the shard.

        Raises:
            UsageError: An example was not visited or came twice, a label is no class, or all labels are equal.
            NumericalError: A logit is NaN or infinite.
            NotWritten: The operating system refuses; the epochs before are intact.
            RunError: The folder was moved, or its lock deleted, since the recording began.
        """
        self.complete()
        self._lock.check()
        epoch = self.epochs
        labels = self._epoch_labels
        if epoch == 0:
            names = self._names or tuple(str(number) for number in range(self.classes))
            write_examples(self.paths.examples, self.ids, labels, names)
        self._check_state(state)
        states = self._absorb(epoch)
        told: dict[str, tuple[Any, Any]] = {}
        for method in self.walking:
            with self._guarded(method):
                told[method.title] = method.streamed(self._walks[method.title])
        live = self._save(self.paths.live(epoch), *self._flat(states, told)) if self.live else None
        told = {title: one for title, one in told.items() if title not in self._stopped}
        walks = {title: rest for title, (_, rest) in told.items()}
        visits = {
            f"{title}|{name}": value
            for title, (stream, _) in told.items()
            if stream is not None
            for name, value in vars(stream).items()
        }
        stream = self._save(self.paths.stream(epoch), visits) if visits else None
        sums = None
        if self.header.mean_probs:
            total = self._facts["probs"].to(torch.float64) + (self._probs_sum if self._probs_sum is not None else 0)
            sums = self._save(self.paths.sums(epoch), {"probs": total})
        stored = {name: fact for name, fact in self._facts.items() if name != "probs"}
        if not self.header.keep_logits:
            stored.pop("logits", None)
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
        )
        # Once more, because the files of a large epoch take a while.
        self._lock.check()
        append_line(self.paths.commits, commit.line())
        # Only now, so that an epoch that was refused by the disk can be recorded again.
        self.commits.append(commit)
        self.labels, self._states, self._walks, self._fresh, self._start = labels, states, walks, True, None
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
                f"({some(bad, len(bad), 2)}), so the epoch is not saved. Lower the learning rate or clip the gradient; {rest}."
            )

    def _absorb(self, epoch: int) -> dict[str, State]:
        """The states after this epoch, by title; those after the one before stay as they are."""
        states: dict[str, State] = {}
        source = EpochInMemory(epoch, self._facts)
        seen = Epoch(source, epoch, source.holds)
        for method in self.folds:
            if method.title in self._stopped:
                continue
            with self._guarded(method):
                if self._states is None:
                    state = method.start(len(self.ids), self.classes)
                else:
                    state = {name: tensor.clone() for name, tensor in self._states[method.title].items()}
                if epoch in method.epochs_read(epoch + 1):
                    method.absorb(state, seen.narrow(method.needs & EPOCH_NEEDS))
                states[method.title] = state
        return states

    def _flat(self, states: Mapping[str, State], told: Mapping[str, tuple[Any, Any]]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """States of all live methods as tensors and notes; for those that read steps also what they would say now."""
        tensors = {f"{title}|{name}": tensor for title, state in states.items() for name, tensor in state.items()}
        notes: dict[str, str] = {}
        for method in self.walks:
            if method.title in told:
                with self._guarded(method):
                    own, said = _told(method, told[method.title][1])
                    tensors |= own
                    notes |= said
        return tensors, notes | {f"{title}|stopped": why for title, why in self._stopped.items()}

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
        """Let other writers in. Epochs that are not committed are gone."""
        self._clear()
        self._lock.release()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _told(method: AbstractStepMethod, state: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state of a method that reads steps, and what it would say now, as tensors and notes."""
    title = method.title
    packed, body = encode(state)
    findings = method.finish(state)
    tensors = {f"{title}|{name}": tensor for name, tensor in packed.items()}
    tensors[f"{title}|found values"] = findings.values
    if findings.by_epoch is not None:
        tensors[f"{title}|found by epoch"] = findings.by_epoch
    if findings.stream is not None:
        tensors |= {f"{title}|found stream {name}": value for name, value in vars(findings.stream).items()}
    found = json.dumps([dict(findings.diagnostics), list(findings.warnings)])
    return tensors, {f"{title}|state": body, f"{title}|found": found}


def _warn_of_probabilities(logits: Tensor) -> None:
    rows = logits.to(torch.float32)
    if len(rows) and bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() < 1e-3).all()):
        warnings.warn(
            "The logits of the first batch are probabilities (every row is 0 or more and adds up to 1), so that margins and confidences would "
            "be those of a second softmax; give recorder.batch what the model computes before its softmax, or torch.log(probabilities).",
            stacklevel=4,
        )


def check_live(live: Sequence[AbstractMethod], examples: int) -> None:
    """Refuse methods that cannot run along.

    Raises:
        UsageError: A method is named twice, reads neither epochs nor steps, or looks ahead.
    """
    if len({method.title for method in live}) < len(live):
        raise UsageError(f"live= names a method twice: {', '.join(method.title for method in live)}; name each once.")
    for method in live:
        if isinstance(method, AbstractStepMethod):
            try:
                method.start(examples)
            except MissingEvidence as error:
                raise UsageError(f"{method.title} cannot run live: {error}") from error
        elif not isinstance(method, AbstractDynamicsMethod):
            raise UsageError(
                f"{method.title} cannot run live; it is a fold over neither epochs nor steps. Score the finished run instead."
            )
        elif not any(epoch in method.epochs_read(epoch + 1) for epoch in range(method.fewest_epochs + 1)):
            raise UsageError(
                f"{method.title} cannot run live: it must know the last epoch beforehand. Score the finished run instead."
            )


def _are_epochs(value: object) -> bool:
    return isinstance(value, Iterable) and all(isinstance(one, numbers.Integral) and int(one) >= 0 for one in value)
