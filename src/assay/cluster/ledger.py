"""What `assay status` reads: which calls a process has given out, and what the log of each says."""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import NotWritten, RunError, reading

BEGAN, ENDED, FAILED = "began", "ended", "failed"
"""The words by which a log's lines say what happened to a call."""
_MOST = 2**20
"""Bytes at a log's end that are read."""


class Ledger:
    """Context in which a process has calls out: their names stand in a file of the folder of logs, on which a lock is held as long as it lives."""

    def __init__(self, logs: Path, task: str, names: Sequence[str], before: int, where: str):
        self._said = {"task": task, "before": before, "where": where, "began": time.time(), "names": list(names)}
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
    """How far the calls of one task are.

    Attributes:
        task: What the calls are.
        where: Class of the executor that they were given to.
        done, running, failed, queued: How many there are of each; `done` counts those of earlier processes too.
        first_failed: Name of the first that failed; empty if none did.
        alive: Whether the process that gave them out is still there.
        seconds: Mean duration of those that ended; None if none did.
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
            found.append((float(said["began"]), _status(logs, said, names, before, alive)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def together(tasks: Sequence[TaskStatus], task: str) -> TaskStatus:
    """Calls of one kind that log into several folders, as one task.

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


def _status(logs: Path, said: dict, names: Sequence[str], before: int, alive: bool) -> TaskStatus:
    states = {name: _state(logs / f"{name}.log") for name in names if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)}
    of = {word: [name for name, (state, _) in states.items() if state == word] for word in (BEGAN, ENDED, FAILED, "")}
    spans = [seconds for state, seconds in states.values() if state == ENDED and seconds]
    mean = sum(spans) / len(spans) if spans else None
    running, left = of[BEGAN], None
    if not alive and str(said["where"]) != "SlurmExecutor":
        # Nobody ends what was begun.
        running, of[""] = [], of[""] + running
    if mean is not None and running:
        rest = sum(max(mean - states[name][1], 0) for name in running)
        left = max(rest / len(running), 0) + math.ceil(len(of[""]) / len(running)) * mean
    elif not running and not of[""]:
        left = 0.0
    return TaskStatus(
        str(said["task"]), str(said["where"]), before + len(of[ENDED]), len(running), len(of[FAILED]), len(of[""]),
        min(of[FAILED], default=""), alive, mean, left,
    )  # fmt: skip


def _state(path: Path) -> tuple[str, float]:
    """The last that a log says of its call (empty if it has not begun), and how many seconds it takes or took."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, errors="replace") as log:
            seen = os.fstat(handle)
            log.seek(max(seen.st_size - _MOST, 0))
            lines = log.read(_MOST).splitlines()
    except OSError:
        return "", 0.0
    name, last, began = path.name.removesuffix(".log"), "", None
    for line in lines:
        word, _, rest = line.partition(" ")
        if word in (BEGAN, ENDED, FAILED) and re.split(r"[ :]", rest)[0] == name:
            last = word
            at = re.search(r" at (\d+\.\d+)$", line)
            began = float(at[1]) if at else began
    if began is None:
        return last, 0.0
    return last, max((time.time() if last == BEGAN else seen.st_mtime) - began, 0.0)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
