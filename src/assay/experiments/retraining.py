"""Retraining: a recorded training replayed many times, each time without some examples, in this process or on an executor."""

import dataclasses
import functools
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import __version__
from ..cluster.executors import Call, InlineExecutor, run_all
from ..core.errors import Mismatch, UsageError
from ..core.lineage import fingerprint
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..replay.targets import Given
from ..runs.run import Run
from .evidence import open_replay
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
    """

    replay: Replay
    loop: Loop | None = None
    targets: Mapping[str, Given] | Sequence[str] | None = None
    replay_config: ReplayConfig | None = None
    pool: Executor | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)
    task: str = "retrain"

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

    def each(self, without: Sequence[Tensor], steps: range, targets: Sequence[str], form: str) -> Iterator[Trained]:
        """Yield the result of each training as it finishes.

        Args:
            without: For each training, the positions of the examples that are left out.
            steps: The steps in which they are left out; the other steps stay as recorded.
            targets: Names of the targets to evaluate at the end.
            form: How an example is left out of a batch (see `StepSource.retrained`).

        Raises:
            UsageError: The loop cannot be sent to other processes.
            TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
        """
        # Before work is given out, which would fail elsewhere as a trial.
        if without:
            self.replay.hold_end(steps)
        groups = [group.numpy() for group in without]
        done = 0
        self.progress.advance(self.task, done, len(groups))
        for found in self._parts(groups, steps, tuple(targets), form):
            done += len(found)
            yield from found
            self.progress.advance(self.task, done, len(groups))

    def _parts(self, groups: Sequence[np.ndarray], steps: range, targets: tuple[str, ...], form: str) -> Iterator[list[Trained]]:
        if self.pool is None:
            for place, group in enumerate(groups):
                yield _here(self.replay, [(place, group)], steps, targets, form)
            return
        # A replay holds a net and its data, which only threads of this process can share.
        local = isinstance(self.pool, (InlineExecutor, ThreadPoolExecutor))
        function, whose = (_here, self.replay) if local else (_elsewhere, self._packed())
        chunks = [list(enumerate(groups))[place::CHUNKS] for place in range(min(CHUNKS, len(groups)))]
        calls = [
            Call(f"without-{number:02d}", function, (whose, chunk, steps, targets, form), self._key(chunk, steps, targets, form))
            for number, chunk in enumerate(chunks)
        ]
        for _, found in run_all(self.pool, calls, self.replay.run.paths.logs, self.task):
            yield found

    def _key(self, chunk: Sequence[tuple[int, np.ndarray]], steps: range, targets: tuple[str, ...], form: str) -> str:
        """Fingerprint of all that some trainings depend on; empty where a loop or targets of the user's own are part of it."""
        if self.loop is not None or isinstance(self.targets, Mapping):
            return ""
        how = repr(sorted((self.replay_config or ReplayConfig()).identity.items()))
        groups = [part for place, group in chunk for part in (str(place), group.tobytes())]
        return fingerprint(
            self.replay.run.fingerprint, repr(self.targets), how, repr(steps), repr(targets), form, __version__, *groups
        )

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


def _here(
    replay: Replay, chunk: Sequence[tuple[int, np.ndarray]], steps: range, targets: tuple[str, ...], form: str
) -> list[Trained]:
    with TURN:
        found = []
        for place, group in chunk:
            began = time.perf_counter()
            values = replay.retrained([torch.from_numpy(group)], steps, targets, form)[0]
            found.append(Trained(place, tuple(values.tolist()), time.perf_counter() - began))
        return found


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
