"""Retraining: a recorded training replayed many times, each time without some examples, in this process or on an executor."""

import dataclasses
import functools
import pickle
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import __version__
from ..cluster.executors import Call, InlineExecutor, run_all, trained
from ..core.errors import Mismatch, UsageError
from ..core.lineage import fingerprint
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..replay.targets import Given, MeanAccuracy, MeanLoss, RowLosses
from ..runs.retrainings import KeptRetrainings
from ..runs.run import Run
from .evidence import open_replay
from .execution import Save
from .kept_state import ReplayKeeper
from .progress import Progress
from .trials import TURN

CHUNKS = 64
"""Largest number of calls in which trainings are sent out: enough for any machine's cores, few enough for one log each."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of one retraining.

    Attributes:
        place: Index of the group of examples that was left out.
        values: Values of the targets at the end of the training.
        seconds: How long it took.
    """

    place: int
    values: tuple[float, ...]
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Retraining:
    """A training that can be replayed many times.

    As what a `Replay` trains many by, it does the trainings wherever `pool` runs them, with the same bytes: each starts from the same state, at the
    recorded number of threads.

    Attributes:
        replay: The training.
        loop: The user's own loop that it was recorded in; None for a plan.
        targets: The targets, as passed to `open_replay`.
        replay_config: How steps are replayed.
        pool: Where trainings run; None for this process, one after the other.
        progress: Receives each finished part.
        task: Name of this work in the progress.
        save: Whether what each training comes to is kept in the run's folder as soon as it is finished, and taken from there if it is kept already; `"recompute"`
            takes nothing from there. Where a loop or a function of the user's own is part of it nothing is kept, since nobody can tell it again.
        kept: Folder in which it is kept, and a name of all that a loop and functions of one's own are, which then keep too.
        passing: Whether what is kept is removed when all trainings are done, because whoever asks for them keeps the results elsewhere.
    """

    replay: Replay
    loop: Loop | None = None
    targets: Mapping[str, Given] | Sequence[str] | None = None
    replay_config: ReplayConfig | None = None
    pool: Executor | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)
    task: str = "retrain"
    save: Save = False
    kept: tuple[Path, str] | None = None
    passing: bool = False

    def __call__(
        self, without: Sequence[Tensor], steps: range, targets: Sequence[str], form: str
    ) -> Float[Tensor, "trainings targets"]:
        """The targets after each training; see `Replay.retrained`.

        Raises:
            UsageError: The loop cannot be sent to other processes.
            TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
        """
        found = sorted(self.each(without, steps, targets, form), key=lambda one: one.place)
        if not found:
            return torch.zeros(0, len(targets), dtype=torch.float64)
        return torch.tensor([one.values for one in found], dtype=torch.float64)

    def each(
        self, without: Sequence[Tensor], steps: range, targets: Sequence[str], form: str, done: Collection[int] = ()
    ) -> Iterator[Trained]:
        """Yield the result of each training as it finishes. Equal ones are done once.

        Args:
            without: For each training, the positions of the examples that are left out.
            steps: The steps in which they are left out; the other steps stay as recorded.
            targets: Names of the targets to evaluate at the end.
            form: How an example is left out of a batch (see `StepSource.retrained`).
            done: Which of the trainings are not due. They are named all the same, because a call is known by all that it was given at first.

        Raises:
            UsageError: The loop cannot be sent to other processes.
            TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
        """
        groups = [group.numpy() for group in without]
        made_of = self._made_of(steps, targets, form)
        folder = self.replay.run.paths.retrained(made_of) if self.kept is None else self.kept[0]
        there = KeptRetrainings(folder.absolute(), made_of, self._width(targets))
        names = [there.name(group) for group in groups]
        places: dict[bytes, list[int]] = {}
        for place, name in enumerate(names):
            if place not in done:
                places.setdefault(name, []).append(place)
        keeps = bool(made_of and (self.save or self.kept))
        if keeps and self.save == "recompute":
            there.forget()
        known = there.known() if keeps else {}
        found = [Trained(place, known[name][:-1], known[name][-1]) for name in places.keys() & known for place in places[name]]
        count, total = len(found), sum(map(len, places.values()))
        self.progress.advance(self.task, count, total, "taken from an earlier run" if count else "")
        yield from sorted(found, key=lambda one: one.place)
        due = {places[name][0]: name for name in places if name not in known}
        if due:
            # Before work is given out, which would fail elsewhere as a trial.
            self.replay.hold_end(steps)
        for made in self._parts(groups, names, due, (steps, tuple(targets), form), there if keeps else None):
            for one in made:
                # A call that an earlier process sent may have been given more than is due now.
                if one.place in due:
                    alike = places[due.pop(one.place)]
                    yield from (dataclasses.replace(one, place=place) for place in alike)
                    count += len(alike)
            self.progress.advance(self.task, count, total)
        if keeps and self.passing:
            there.forget()

    def _parts(
        self,
        groups: Sequence[np.ndarray],
        names: Sequence[bytes],
        due: Mapping[int, bytes],
        how: tuple[range, tuple[str, ...], str],
        kept: KeptRetrainings | None,
    ) -> Iterator[list[Trained]]:
        if self.pool is None:
            chunk = [(place, groups[place]) for place in due]
            for one in _each_here(self.replay, chunk, *how, kept, None if kept is None else kept.part(names)):
                yield [one]
            return
        # A replay holds a net and its data, which only threads of this process can share.
        local = isinstance(self.pool, (InlineExecutor, ThreadPoolExecutor))
        function, whose = (_here, self.replay) if local else (_elsewhere, self._packed() if due else b"")
        made_of = self._made_of(*how)
        calls, chunks = [], min(CHUNKS, len(groups))
        for number in range(chunks):
            # Of all groups, whatever is done of them, so that a later process finds the call again.
            whole = range(number, len(groups), chunks)
            left = [(place, groups[place]) for place in whole if place in due]
            if not left:
                continue
            part = (kept or KeptRetrainings(Path(), made_of, 0)).part([names[place] for place in whole])
            key = fingerprint(part.stem, *map(str, whole)) if made_of else ""
            given = (whose, left, *how, kept, part)
            name = f"without-{number:02d}"
            calls.append(Call(name, function, given, key, resumes=kept is not None, trainings=len(left)))
        before = len(set(names)) - len(due)
        for _, found in run_all(self.pool, calls, self.replay.run.paths.logs, self.task, before):
            yield found

    def _width(self, targets: Sequence[str]) -> int:
        """How many numbers a training comes to."""
        named = [self.replay.named(name) for name in targets]
        return sum(len(one.mean.labels) if isinstance(one, RowLosses) else 1 for one in named)

    def _made_of(self, steps: range, targets: Sequence[str], form: str) -> str:
        """Fingerprint of all that the trainings depend on, apart from who is left out; empty where a loop or a function of the user's own is part of it."""
        how = repr(sorted((self.replay_config or ReplayConfig()).identity.items()))
        if self.kept is not None:
            return fingerprint(self.replay.run.fingerprint, self.kept[1], *targets, how, repr(steps), form, __version__)
        whole = [self.replay.named(name) for name in targets]
        means = [one.mean if isinstance(one, RowLosses) else one.loss if isinstance(one, MeanAccuracy) else one for one in whole]
        prints = [one.fingerprint for one in means if isinstance(one, MeanLoss)]
        if self.loop is not None or len(prints) < len(whole):
            return ""
        kinds = [type(one).__name__ for one in whole]
        replay = self.replay
        return fingerprint(replay.run.fingerprint, replay.training.made_of, *kinds, *prints, how, repr(steps), form, __version__)

    def _packed(self) -> bytes:
        """Everything that another process needs to build the replay. As bytes: torch sends tensors through shared memory, which small
        containers lack."""
        run = self.replay.run
        try:
            return pickle.dumps((str(run.folder.absolute()), run.fingerprint, self.loop, self.targets, self.replay_config))
        except Exception as error:
            # Whatever a user's objects raise when they are pickled.
            what = " ".join(str(error).split())[:200]
            raise UsageError(
                f"Your loop or targets cannot be sent to other processes ({what}); leave Execution(pool=) out, or define their functions at the top "
                "of a module."
            ) from error


def _here(replay: Replay, *args: Any) -> list[Trained]:
    return list(_each_here(replay, *args))


def _each_here(
    replay: Replay,
    chunk: Sequence[tuple[int, np.ndarray]],
    steps: range,
    targets: tuple[str, ...],
    form: str,
    kept: KeptRetrainings | None,
    part: Path | None,
) -> Iterator[Trained]:
    """The trainings of one call, each kept in the call's file as soon as it is finished."""
    if kept is None or part is None:
        for place, group in chunk:
            yield _trained(replay, place, group, steps, targets, form)
        return
    values = kept.opened(part)
    for done, (place, group) in enumerate(chunk, 1):
        name = kept.name(group)
        if name in values:
            *numbers, seconds = values[name]
            yield Trained(place, tuple(numbers), seconds)
            continue
        keeper = ReplayKeeper(part.with_suffix(".state"), name.hex())
        one = _trained(replay, place, group, steps, targets, form, keeper)
        values.add([name], torch.tensor([[*one.values, one.seconds]], dtype=torch.float64), [False])
        keeper.forget()
        trained(done, len(chunk))
        yield one


def _trained(
    replay: Replay,
    place: int,
    group: np.ndarray,
    steps: range,
    targets: tuple[str, ...],
    form: str,
    keeper: ReplayKeeper | None = None,
) -> Trained:
    with TURN:
        began = time.perf_counter()
        values = replay.retrained([torch.from_numpy(group)], steps, targets, form, keeper)[0]
        return Trained(place, tuple(values.tolist()), time.perf_counter() - began)


def _elsewhere(packed: bytes, *args: Any) -> list[Trained]:
    with TURN:
        replay = _rebuilt(packed)
    return _here(replay, *args)


@functools.lru_cache(maxsize=1)
def _rebuilt(packed: bytes) -> Replay:
    """The replay in another process, built once for all that is asked of it."""
    folder, made_of, loop, targets, replay_config = pickle.loads(packed)
    run = Run(folder)
    if run.fingerprint != made_of:
        raise Mismatch(
            f"{folder} holds recording {run.fingerprint} here and {made_of} where the work was given out; use one folder."
        )
    return open_replay(run, loop=loop, targets=targets, replay_config=replay_config)
