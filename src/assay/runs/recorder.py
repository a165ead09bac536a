"""The recorder: it opens, writes and commits the files of a run; what an epoch observes is in `observations`."""

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.arguments import checked_arguments, checked_fields, moved_keywords
from ..core.errors import Mismatch, NotWritten, NumericalError, OutputExists, UsageError, listed
from ..core.ids import Ids, dataset_fingerprint
from ..core.passes import Passes
from .alongside import Alongside, Nothing
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
from .observations import Observations
from .paths import RunPaths
from .recording import Recording
from .run import Run, read_run
from .schema import CONDITIONS, Commit, File, Header, here, now, read_commits, write_header
from .tables import write_examples


def check_place(paths: RunPaths, resume: bool = False, *, resumable: bool = True) -> bool:
    """Whether there is a run that the recording resumes; `resumable` is whether such a recording can be resumed at all, for the cure.

    Raises:
        OutputExists: There is a run and `resume` is false, or there is something else.
    """
    folder = paths.folder
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"{folder} is a file; name a folder for the run.")
    exists = paths.header.exists()

    def nothing(at: Path) -> bool:
        # What writers leave that ended before anything was worth keeping, such as those of a training that was refused in its first epoch.
        left = at in (paths.lock, paths.header) or at.suffix == ".tmp"
        logs = at == paths.trials and at.is_dir() and all(one == paths.logs for one in at.iterdir())
        return left or logs or (at in (paths.models, paths.folds) and not any(at.glob("*/run.json")))

    if not resume and folder.exists() and all(map(nothing, folder.iterdir())):
        return False
    if exists and not resume:
        how = "resume it with resume=True (`--resume`) or " if resumable else ""
        raise OutputExists(f"{folder} already holds a run; {how}name another folder.")

    if not exists and folder.exists() and not all(map(nothing, folder.iterdir())):
        raise OutputExists(f"{folder} is not empty and holds no run; name a new or empty folder.")
    return exists


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


class Recorder(Observations):
    """Writes one run, epoch by epoch.

    Call `begin`, then `step` for every optimizer step and `observe` for every forward pass that is recorded, then `commit`. An epoch
    that was not committed leaves no trace.
    """

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
        super().__init__(RunPaths(Path(folder)), ids, live if live is not None else Nothing(), class_names)
        try:
            check_place(self.paths, resume)
        except OutputExists:
            if self.paths.lock.exists():
                # A run that is being written is told from one that is there.
                with contextlib.suppress(NotWritten):
                    WriterLock(self.paths.lock).release()
            raise
        self._lock = WriterLock(self.paths.lock)
        self.commits: list[Commit] = []
        self._probs_sum: Tensor | None = None
        self._start: tuple[dict[str, Tensor], dict[str, str]] | None = None
        self._skipped = 0
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
            if partial is not None and partial.labels is not None:
                self._labels.expect(partial.labels)
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
            # Nothing was recorded where the run was begun, maybe by a process that only sends its training elsewhere.
            self.header = self.header.model_copy(update=here())
            replace(self.paths.header, write_header(self.header))
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
        self._labels.classes, self.classes = run.labels, run.classes
        self._names, self._task, self.reduce_labels = run.class_names or None, run.task, run.header.reduce_labels
        self._labels.rows = run.label_matrix() if run.task == "labels" else None
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

    def joined(self) -> None:
        """Called when methods were added after the recorder was made."""
        if not self.epochs:
            self.header = self.header.model_copy(update={"live": self.alongside.titles})
            replace(self.paths.header, write_header(self.header))

    @property
    def epochs(self) -> int:
        """How many epochs are committed, which is also the number of the epoch to come."""
        return len(self.commits)

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
            self._skipped += len(self._steps)
            self.alongside.left(len(self._steps))
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

    def _decide_mean_probs(self) -> bool:
        if ruled_out := super()._decide_mean_probs():
            replace(self.paths.header, write_header(self.header))
            warnings.warn(
                f"{self.paths.folder}: mean probabilities are not kept, because {len(self.ids):,} examples of {self.classes:,} classes take "
                f"{8 * len(self.ids) * self.classes / 2**20:,.0f} MB; record with Recording(mean_probs=True) to choose new labels with `relabel`, or with "
                "Recording(mean_probs=False) to leave them out without this warning.",
                stacklevel=4,
            )
        return ruled_out

    @property
    def opening(self) -> tuple[Header, int, bool]:
        """What another process must know to observe a part of an epoch (see `parts`): the header, how many epochs there are, and whether it hangs
        on the number of classes that probabilities are summed up.
        """
        return self.header, self.epochs, self._undecided

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the state at the end of an epoch is to be saved."""
        # Of a list of epochs the newest stand beside those asked for, so that the run can be resumed.
        return self.header.checkpoints != "none"

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
        self._count_visits()
        saved = self.alongside.saved(epoch, self._shown, self.classes)
        live = self._save(self.paths.live(epoch), saved.states, saved.notes) if self.alongside.titles else None
        stream = self._save(self.paths.stream(epoch), saved.visits) if saved.visits else None
        sums = None
        if self.header.mean_probs:
            total = self._facts["probs"].to(torch.float64) + (self._probs_sum if self._probs_sum is not None else 0)
            sums = self._save(self.paths.sums(epoch), {"probs": total})
        told_of_content, noted = content or ({}, {})
        wanted = state is not None and self.keeps_checkpoints
        checkpoint = self._save(self.paths.checkpoint(epoch), state, notes) if wanted and state is not None else None
        commit = Commit(
            epoch=epoch,
            shard=self._save(self.paths.shard(epoch), {**self._stored(), **told_of_content}, noted),
            checkpoint=checkpoint,
            start=self._save(self.paths.start, *self._start) if self._start is not None else None,
            sums=sums,
            live=live,
            stream=stream,
            dataset=dataset_fingerprint(self.ids, labels),
            steps=len(self._steps),
            skipped=self._skipped,
            seconds=time.perf_counter() - self._begun,
            at=now(),
            elsewhere=self._elsewhere(),
            processes=self.processes if self.processes > 1 else None,
            smoothing=self.smoothing or None,
            autocast=dict(self.autocast) or None,  # type: ignore[arg-type]  # held to its names when it is made
        )
        # Once more, because the files of a large epoch take a while.
        self._lock.check()
        append_line(self.paths.commits, commit.line())
        # Only now, so that an epoch that was refused by the disk can be recorded again.
        self.commits.append(commit)
        self._labels.classes, self._start = labels, None
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
