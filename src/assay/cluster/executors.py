"""Where trials run: in this process, in processes on this machine, on SLURM, or in any other `concurrent.futures.Executor`."""

import abc
import contextlib
import contextvars
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    InvalidStateError,
    ProcessPoolExecutor,
    wait,
)
from pathlib import Path
from typing import Any

from ..core.errors import NotWritten, TrialFailed, UsageError, listed
from .ledger import BEGAN, ENDED, FAILED, TRAINED, Ledger

KINDS = ("inline", "processes", "processes:N", "slurm", "slurm:option=value,...")
_TAIL = 8
"""Lines of a log that an error message shows."""


class InlineExecutor(Executor):
    """Executor that runs each call inside `submit`, in this process; `threads` is the number of torch threads that `run_all` uses."""

    def __init__(self, threads: int = 1):
        self.threads, self._open = threads, True

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run the call and return its finished future, which stores an exception of the call; KeyboardInterrupt is raised instead."""
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future = Future()
        future.set_running_or_notify_cancel()
        try:
            result = fn(*args, **kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; no call ever waits here, so there is nothing to cancel."""
        self._open = False


class _Answered(Future):
    """A future that a broken pool may answer although it was cancelled before."""

    def set_exception(self, exception: BaseException | None) -> None:
        # The pool's own thread would end in a traceback.
        with contextlib.suppress(InvalidStateError):
            super().set_exception(exception)


class SpawnedProcesses(ProcessPoolExecutor):
    """Executor of newly spawned processes (torch's threads and CUDA do not survive a fork); `threads` is the number of torch threads that `run_all`
    uses.
    """

    def __init__(self, workers: int, threads: int = 1):
        context = multiprocessing.get_context("spawn")
        self.threads, self.workers = threads, workers
        devices = _cuda_devices()
        # The workers take numbers in the order in which they come up; one device needs no numbers.
        shared = (devices, context.Value("i", 0)) if len(devices) > 1 else ()
        super().__init__(workers, mp_context=context, initializer=_begin_worker, initargs=shared)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Submit a call, as with any executor; the workers that this starts ignore Ctrl-C, even while they start up."""
        with _interrupts_ignored():
            future = super().submit(fn, *args, **kwargs)
            # The pool makes its futures itself, of the plain kind.
            future.__class__ = _Answered
            return future

    def stop(self) -> None:
        """End the workers now, whatever they are doing; calls that are not finished get BrokenProcessPool."""
        # The pool has no public way to end a running call before Python 3.14.
        workers = list((self._processes or {}).values())
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        self.shutdown(wait=True)

    def __exit__(self, kind, error, trace):
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.stop()
        return super().__exit__(kind, error, trace)


class JobExecutor(Executor, abc.ABC):
    """An executor that is given all calls at once, and whose calls outlive the process that sent them."""

    def announce(self, calls: Sequence["Call"], threads: int) -> None:
        """Called before anything is written for the calls; does nothing by default."""

    @abc.abstractmethod
    def send(self, calls: Sequence["Call"], logs: Mapping[str, Path], threads: int) -> dict[Future, str]:
        """Send the calls, but for those that an earlier process sent and that are done or not yet ended; the name of each future's call."""

    @abc.abstractmethod
    def delivered(self, future: Future) -> None:
        """Forget the result of a call, because whoever asked for it has it."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End the calls now."""


class Announced(Exception):
    """Raised by a dry run in the place of sending calls.

    Attributes:
        script: What would be sent.
        jobs: How many jobs it is.
    """

    def __init__(self, script: str, jobs: int):
        super().__init__(f"{jobs} jobs would be sent")
        self.script, self.jobs = script, jobs


def executor(kind: str = "inline", workers: int | None = None, threads: int = 1, *, dry_run: bool = False) -> Executor:
    """The executor of a text, as `--where` takes it.

    Args:
        kind: `inline`, one after the other in this process; `processes` or `processes:N`, side by side on this machine, each worker with a CUDA device of
            its own as far as there are several; or `slurm` with its options (see `Slurm`), such as `slurm:partition=gpu,gpus=1,time=240`.
        workers: How many processes; None for the cores that this process may use, divided by `threads`.
        threads: torch threads of each call.
        dry_run: On SLURM, raise `Announced` before the first job is sent.

    Raises:
        UsageError: An unknown kind or option, a number below 1, several workers inline, or SLURM or submitit is not there.
    """
    name, _, rest = kind.partition(":")
    if name == "slurm":
        from .slurm import Slurm, SlurmExecutor

        asked = Slurm.parse(kind)
        if workers is not None:
            raise UsageError(
                f"workers={workers} is for processes; on SLURM slurm:jobs={workers} says how many jobs run side by side."
            )
        return SlurmExecutor(asked, threads, dry_run=dry_run)
    if name in KINDS[:2] and rest.lstrip("-").isdecimal() and workers is None:
        kind, workers = name, int(rest)
    if kind not in KINDS[:2]:
        raise UsageError(f"{kind!r} is not one of {', '.join(KINDS)}, where trainings can run.")
    if threads < 1 or (workers is not None and workers < 1):
        raise UsageError(f"workers={workers} and threads={threads} must be 1 or more.")
    if kind == "inline":
        if workers not in (None, 1):
            raise UsageError(f"workers={workers} needs the executor 'processes'; 'inline' runs one call after the other.")
        return InlineExecutor(threads)
    return SpawnedProcesses(workers or max(_cores() // threads, 1), threads)


def side_by_side(kind: str, threads: int = 1) -> int:
    """How many calls an executor of that text runs at once, at most.

    Raises:
        UsageError: As `executor`.
    """
    if kind.partition(":")[0] == "slurm":
        from .slurm import Slurm

        return Slurm.parse(kind).jobs
    with executor(kind, threads=threads) as pool:
        return getattr(pool, "workers", 1)


@dataclasses.dataclass(frozen=True)
class Call:
    """One trial to run: `function(*args)`. For other processes it must be picklable, so a function at the top of a module.

    Attributes:
        name: Unique among the calls; the log is `NAME.log`. Letters, digits, dot, dash and underscore.
        function: The function to call.
        args: Its positional arguments.
        key: Fingerprint of all that the result depends on; with it a call that was sent to a cluster is not sent again by a later process. Empty for none.
        resumes: Whether the call goes on where it was stopped when it is made again, so that a time limit is no end of it.
        trainings: How many trainings it is, as `assay status` counts them.
    """

    name: str
    function: Callable[..., Any]
    args: tuple = ()
    key: str = ""
    resumes: bool = False
    trainings: int = 1


def run_all(
    pool: Executor, calls: Sequence[Call], logs: Path, task: str = "trials", before: int = 0
) -> Iterator[tuple[str, Any]]:
    """Run all calls, and yield (name, result) as each completes.

    Each call uses its executor's number of torch threads (`threads`), or 1 if the executor names none: the same number gives the same bytes, so a
    result does not depend on where it was made.

    After a failure nothing new is started; results of calls that were running are still yielded, then the error is raised.
    When the caller closes the generator or presses Ctrl-C, waiting calls are cancelled; Ctrl-C also ends the workers of
    `executor("processes")`.

    Args:
        pool: Any executor; the caller shuts it down.
        calls: The calls to run.
        logs: Folder for one log per call: when it began, when it ended, the traceback if it failed; and of the ledger that `assay status` reads.
        task: What the calls are, for the ledger.
        before: How many more trainings are done already, for the ledger.

    Raises:
        UsageError: Two calls share a name, or a name does not fit a file.
        NotWritten: A log cannot be written.
        TrialFailed: A call raised, or its process died; carries path and tail of its log.
    """
    threads = getattr(pool, "threads", 1)
    if isinstance(pool, JobExecutor):
        pool.announce(calls, threads)
    paths = _prepare_logs(calls, logs)
    sizes = {call.name: call.trainings for call in calls}
    with Ledger(logs, task, sizes, before, type(pool).__name__) if calls else contextlib.nullcontext():
        yield from _run_all(pool, calls, paths, threads)


def _run_all(pool: Executor, calls: Sequence[Call], paths: dict[str, Path], threads: int) -> Iterator[tuple[str, Any]]:
    waiting: dict[Future, str] = {}
    failed: TrialFailed | None = None
    lost: list[tuple[str, BaseException]] = []

    def collect(done: set[Future]) -> Iterator[tuple[str, Any]]:
        nonlocal failed
        for future in [future for future in waiting if future in done]:
            name = waiting.pop(future)
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                lost.append((name, error))
            elif error is not None:
                # Raised outside the call itself: it, or its result, could not be sent between processes.
                known = isinstance(error, JobLost)
                append(paths[name], "" if known else "".join(traceback.format_exception(error)))
                reason = str(error) if known else f"{type(error).__name__}: {error}"
                failed = failed or _failure(name, reason, paths[name], error)
                append(paths[name], f"{FAILED} {name}: {reason}\n")
            elif isinstance(result := future.result(), Raised):
                failed = failed or _failure(name, result.reason, paths[name])
            else:
                yield name, result
            if isinstance(pool, JobExecutor):
                pool.delivered(future)

    try:
        if isinstance(pool, JobExecutor):
            waiting |= pool.send(calls, paths, threads)
        for call in () if isinstance(pool, JobExecutor) else calls:
            try:
                waiting[pool.submit(_logged, call, str(paths[call.name]), threads)] = call.name
            except BrokenExecutor as error:
                lost.append((call.name, error))
            # An inline executor is done at once, and its result should not wait for the other calls.
            yield from collect({future for future in waiting if future.done()})
            if failed or lost:
                break
        while waiting:
            if failed or lost:
                # A cancelled future counts as done only once its executor has noticed, which some never do.
                waiting = {future: name for future, name in waiting.items() if not future.cancel()}
            if waiting:
                yield from collect(wait(waiting, return_when=FIRST_COMPLETED).done)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and isinstance(pool, (SpawnedProcesses, JobExecutor)):
            # Cancelled futures would make the pool's own thread stumble over them when the workers are gone.
            pool.stop()
        else:
            for future in waiting:
                future.cancel()
        raise
    if failed:
        raise failed
    if lost:
        died = _died(lost, paths)
        for name, _ in lost:
            if paths[name].stat().st_size:
                append(paths[name], f"{FAILED} {name}: its worker died\n")
        raise died from lost[0][1]


class JobLost(Exception):
    """A call ended without a result; the text says how."""


@dataclasses.dataclass(frozen=True)
class Raised:
    """What a failed call sends back: text, since an exception may not survive the way between processes."""

    reason: str


def _logged(call: Call, log: str, threads: int) -> Any:
    """Run a call where the executor put it, at so many torch threads, with its beginning, end and traceback in the log."""
    with noted(call.name, Path(log)) as said, threads_of_torch(threads):
        result = call.function(*call.args)
    return said[0] if said else result


@contextlib.contextmanager
def noted(name: str, path: Path, let_out: tuple[type[BaseException], ...] = (KeyboardInterrupt,)) -> Iterator[list["Raised"]]:
    """Context of a call that writes its beginning and its end into the log; an error becomes the one item of the list, but for kinds that are let out."""
    said: list[Raised] = []
    append(path, f"{BEGAN} {name} in process {os.getpid()} at {time.time():.3f}\n")
    before = _CALL.set((name, path))
    try:
        yield said
    except let_out:
        raise
    except BaseException as error:
        said.append(Raised(f"{type(error).__name__}: {error}"))
        append(path, f"{traceback.format_exc()}{FAILED} {name}\n")
    else:
        append(path, f"{ENDED} {name}\n")
    finally:
        _CALL.reset(before)


_CALL: contextvars.ContextVar[tuple[str, Path] | None] = contextvars.ContextVar("call", default=None)
"""Name and log of the call that runs."""


def trained(done: int, of: int) -> None:
    """Say in the log of the call that runs how many of its trainings are finished and kept; outside of a call nothing.

    Args:
        done: How many are.
        of: How many it was given.

    Raises:
        NotWritten: The log cannot be written.
    """
    if (call := _CALL.get()) is not None:
        append(call[1], f"{TRAINED} {call[0]} {done} of {of} at {time.time():.3f}\n")


def _begin_worker(devices: Sequence[str] = (), taken: Any = None) -> None:
    if devices:
        with taken.get_lock():
            first = taken.value % len(devices)
            taken.value += 1
        # CUDA is not up yet, and its first device is then this worker's; the others stay behind it for functions that name one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join((*devices[first:], *devices[:first]))
    # Ctrl-C reaches the whole group; the parent decides, and a worker would only print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process that is started inside ignores Ctrl-C from its very beginning, because it inherits that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with(sentinel: int) -> None:
    """End this worker when its parent is gone: after kill -9 nobody else would."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


_TURN = threading.RLock()
"""Held while a call runs at its number of threads: part of what torch computes with has one number for the whole process."""


@contextlib.contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """So many torch threads for a call, and as many as before after it. Calls in threads of one process take turns."""
    import torch

    with _TURN:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _cuda_devices() -> list[str]:
    """The CUDA devices of this machine that this process may use, as the environment names them."""
    import torch

    count = torch.cuda.device_count()
    named = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    return named[:count] if named else [str(one) for one in range(count)]


def _cores() -> int:
    """How many cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare_logs(calls: Sequence[Call], logs: Path) -> dict[str, Path]:
    names = [call.name for call in calls]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{len(twice)} calls share a name: {listed(twice, len(twice))}. Name each call differently.")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            raise UsageError(f"{name!r} cannot name a call and its log; use letters, digits, dot, dash and underscore.")
    paths = {name: logs / f"{name}.log" for name in names}
    try:
        logs.mkdir(parents=True, exist_ok=True)
        for path in paths.values():
            # A new file each: one that is there may be a link, or have another name elsewhere.
            path.unlink(missing_ok=True)
            path.open("x").close()
    except OSError as error:
        raise NotWritten(f"The logs of the trials cannot be written to {logs}: {error.strerror}; name another folder.") from error
    return paths


def append(path: Path, text: str) -> None:
    """Write to the end of a log.

    Raises:
        NotWritten: The operating system refuses.
    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "a") as log:
            log.write(text)
    except OSError as error:
        raise NotWritten(f"The log {path} cannot be written: {error.strerror}.") from error


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()[-_TAIL:]
    return "\n".join(f"  {line}" for line in lines) if lines else "  (nothing was written)"


def _failure(name: str, reason: str, path: Path, cause: BaseException | None = None) -> TrialFailed:
    how = "failed, because" if isinstance(cause, JobLost) else "failed with"
    error = TrialFailed(f"Trial {name} {how} {reason.rstrip('. ')}; its log {path} ends with\n{_tail(path)}")
    error.__cause__ = cause
    return error


def _died(lost: Sequence[tuple[str, BaseException]], paths: dict[str, Path]) -> TrialFailed:
    """A broken pool fails every call that it still had; those that had begun are the ones to look at."""
    names = [name for name, _ in lost if paths[name].stat().st_size] or [lost[0][0]]
    return TrialFailed(
        f"A worker process died while running trial {listed(names, len(names))}: killed, out of memory, "
        'or started by a script without `if __name__ == "__main__":`. '
        f"The log {paths[names[0]]} ends with\n{_tail(paths[names[0]])}"
    )
