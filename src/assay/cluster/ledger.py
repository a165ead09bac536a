"""What `assay status` reads: which calls a process has given out, and what the log of each says."""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..core.errors import NotWritten, RunError, reading

BEGAN, TRAINED, ENDED, FAILED, STOPPED = "began", "trained", "ended", "failed", "stopped"
"""The words by which a log's lines say what happened to a call; `trained` how many of its trainings are finished and kept, `stopped` that its job was ended by whoever sent it."""
_MOST = 2**20
"""Bytes at a log's end that are read."""


class Ledger:
    """Context in which a process has calls out: their names and numbers of trainings stand in a file of the folder of logs, on which a lock is held as long as it lives."""

    def __init__(self, logs: Path, task: str, trainings: Mapping[str, int], before: int, where: str):
        self._said = {
            "task": task, "before": before, "where": where, "began": time.time(), "names": list(trainings), "trainings": list(trainings.values()),
        }  # fmt: skip
        self._path = logs / f"{task}.ledger"
        self._handle = -1

    def __enter__(self) -> "Ledger":
        try:
            # Another file than the one that may be there, of which somebody may hold the lock.
            place = self._path.with_name(f".{self._path.name}-{os.getpid()}-{time.time_ns()}")
            self._handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            with contextlib.suppress(OSError):
                # Some shared disks have no locks.
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._handle, json.dumps(self._said).encode())
            os.replace(place, self._path)
        except OSError as error:
            raise NotWritten(f"{self._path} cannot be written: {error.strerror}; name another folder.") from error
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)


@dataclasses.dataclass(frozen=True)
class TaskStatus:
    """How far the trainings of one task are.

    Attributes:
        task: What they are.
        where: Class of the executor that they were given to.
        done, running, failed, queued: How many there are of each; `done` counts those of earlier processes too, and of a call of several trainings those that it keeps.
        first_failed: Name of the first call that failed; empty if none did.
        alive: Whether the process that gave them out is still there.
        seconds: Mean duration of those that are done; None if none is.
        seconds_left: Until the last one ends, if as many run side by side as now; None if that cannot be said.
    """

    task: str
    where: str
    done: int
    running: int
    failed: int
    queued: int
    first_failed: str
    alive: bool
    seconds: float | None
    seconds_left: float | None


def read_ledgers(logs: Path) -> list[TaskStatus]:
    """How far every task is whose calls log into this folder, in the order in which they began.

    Raises:
        RunError: A ledger is damaged.
    """
    found = []
    for path in sorted(logs.glob("*.ledger")):
        with reading(path, RunError, "Remove it; the next command writes it again."):
            if path.is_symlink() or not path.is_file():
                raise RunError(f"{path} is no regular file. Remove it; the next command writes it again.")
            with path.open() as file:
                alive = _locked(file.fileno())
                said = json.load(file)
            names, before = [str(one) for one in said["names"]], int(said["before"])
            sizes = dict(zip(names, map(int, said.get("trainings", [1] * len(names))), strict=True))
            found.append((float(said["began"]), _status(logs, said, sizes, before, alive)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def together(tasks: Sequence[TaskStatus], task: str) -> TaskStatus:
    """Trainings of one kind that log into several folders, as one task.

    Args:
        tasks: How far those of each folder are; at least one.
        task: What they are called together.
    """
    ended = [(one.seconds, one.done) for one in tasks if one.seconds is not None and one.done]
    open_ = [one for one in tasks if one.running or one.queued]
    left = [one.seconds_left for one in open_]
    return TaskStatus(
        task, tasks[-1].where, sum(one.done for one in tasks), sum(one.running for one in tasks), sum(one.failed for one in tasks),
        sum(one.queued for one in tasks), next((one.first_failed for one in tasks if one.first_failed), ""), any(one.alive for one in tasks),
        sum(seconds * done for seconds, done in ended) / sum(done for _, done in ended) if ended else None,
        None if None in left else sum(one for one in left if one is not None),
    )  # fmt: skip


def _status(logs: Path, said: dict, sizes: Mapping[str, int], before: int, alive: bool) -> TaskStatus:
    seen = {
        name: _seen(logs / f"{name}.log", size)
        for name, size in sizes.items()
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    }
    of = {word: {name: one for name, one in seen.items() if one.last == word} for word in (BEGAN, ENDED, FAILED, "")}
    spans = [one.spent for one in seen.values() if one.spent[0] and one.spent[1]]
    mean = sum(seconds for seconds, _ in spans) / sum(count for _, count in spans) if spans else None
    running, waiting, left = of[BEGAN], sum(one.left for one in of[""].values()), None
    if not alive and str(said["where"]) != "SlurmExecutor":
        # Nobody ends what was begun.
        waiting, running = waiting + sum(one.left for one in running.values()), {}
    if mean is not None and running:
        rest = sum(max(mean * one.left - one.since, 0) for one in running.values())
        left = rest / len(running) + math.ceil(waiting / len(running)) * mean
    elif not running and not waiting:
        left = 0.0
    # Of a call that runs or failed, one training is at work or failed, and the others wait.
    waiting += sum(one.left - 1 for one in (*running.values(), *of[FAILED].values()))
    done = before + sum(sizes[name] - one.left for name, one in seen.items())
    return TaskStatus(
        str(said["task"]), str(said["where"]), done, len(running), len(of[FAILED]), waiting, min(of[FAILED], default=""), alive, mean, left,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What the log of a call says.

    Attributes:
        last: The last word of it; empty if the call has not begun.
        left: How many of its trainings are not done.
        spent: Seconds, and in how many trainings.
        since: Seconds since it began, or since its last training was finished.
    """

    last: str
    left: int
    spent: tuple[float, int]
    since: float


def _seen(path: Path, size: int) -> _Seen:
    """What the log of a call of so many trainings says."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, errors="replace") as log:
            seen = os.fstat(handle)
            log.seek(max(seen.st_size - _MOST, 0))
            lines = log.read(_MOST).splitlines()
    except OSError:
        return _Seen("", size, (0.0, 0), 0.0)
    name, last, began, at, count, left = path.name.removesuffix(".log"), "", 0.0, 0.0, 0, size
    for line in lines:
        word, _, rest = line.partition(" ")
        if word not in (BEGAN, TRAINED, ENDED, FAILED, STOPPED) or re.split(r"[ :]", rest)[0] != name:
            continue
        when = re.search(r" at (\d+\.\d+)$", line)
        if word == TRAINED:
            if size == 1:
                # Some calls of one training make scores too, for which they train again.
                continue
            # A call that an earlier process sent may have more trainings than are due now.
            of = re.search(r" (\d+) of (\d+) ", line)
            left = min(max(int(of[2]) - int(of[1]), 0), size) if of else left
            at, count = float(when[1]) if when else at, count + 1
            continue
        last = "" if word == STOPPED else word
        if word == BEGAN:
            began, at, count = float(when[1]) if when else began, 0.0, 0
    left = 0 if last == ENDED else max(left, 1)
    if at:
        return _Seen(last, left, (max(at - began, 0.0), count), max(time.time() - at, 0.0))
    lasted = max((seen.st_mtime if last == ENDED else time.time()) - began, 0.0) if began else 0.0
    return _Seen(last, left, (lasted, size) if last == ENDED else (0.0, 0), lasted)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
