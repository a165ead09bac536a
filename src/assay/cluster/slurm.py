"""Calls as jobs of a SLURM cluster: sent by submitit, watched by squeue, each result kept until it is delivered.

What is sent is pickled. It lies in the home of the user and never in the folder of a run or study, which may come from a stranger.
"""

import contextlib
import dataclasses
import hashlib
import os
import pickle
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from ..core import options
from ..core.errors import NotWritten, UsageError
from .executors import Announced, Call, JobExecutor, JobLost, Raised, append, noted, threads_of_torch
from .ledger import BEGAN, ENDED, STOPPED
from .slurm_queue import Ended, Queue

ARRAY = 500
"""Jobs of one array; clusters allow 1,001 unless they were told otherwise."""
KEPT = 60 * 24 * 3600
"""Seconds for which results that were never asked for, and logs of failures, stay."""
OURS = re.compile(
    r"[0-9a-f]{32}\.(result|job)|call-[0-9a-f]{16}\.log|\d+(_\d+)*_(log\.out|log\.err|result\.pkl|submitted\.pkl|submission\.sh)"
)
"""Names of what is kept of calls and jobs."""
INSTALL = "pip install 'assay[slurm]'"


@dataclasses.dataclass(frozen=True)
class Slurm:
    """What each job asks of SLURM.

    Attributes:
        time: Time limit in minutes. A training that keeps states goes on after it in a new job, others fail.
        partition, account, qos, constraint: As sbatch takes them; empty for the cluster's default.
        cpus: Cores; 0 for as many as a call has torch threads.
        gpus: GPUs.
        mem: Memory in GB; 0 for the cluster's default.
        jobs: How many run side by side at most.
        requeues: How many time limits a job may reach before it is called a failure.
        setup: A line of shell before Python starts, such as `module load cuda`.
        folder: Where jobs and their results are kept, on a disk that all nodes see; by default `.cache/assay/slurm` in the home.
    """

    name: ClassVar[str] = "slurm"
    time: int = 60
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    cpus: int = 0
    gpus: int = 0
    mem: float = 0.0
    jobs: int = 256
    requeues: int = 20
    setup: str = ""
    folder: str = ""

    def __post_init__(self):
        options.coerce(self, "executor")
        options.at_least(self, time=1, cpus=0, gpus=0, mem=0, jobs=1, requeues=0)

    @property
    def title(self) -> str:
        """The text that gives these options."""
        return options.join(self.name, options.changed(self))

    @classmethod
    def parse(cls, text: str) -> "Slurm":
        """The options in a text such as `slurm:partition=gpu,gpus=1`.

        Raises:
            UnknownName: There is no such option.
            UsageError: A value cannot be read, or is out of range.
        """
        return options.build(cls, "executor", options.split(text)[1])

    @property
    def home(self) -> Path:
        """Where jobs and their results are kept."""
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(self.folder).expanduser().absolute() if self.folder else Path(cache) / "assay" / "slurm"

    def parameters(self, threads: int) -> dict[str, Any]:
        """What submitit is asked for."""
        seconds = 60 * self.time
        given = {
            "job_name": "assay",
            "time": self.time,
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": self.cpus or threads,
            "array_parallelism": self.jobs,
            # So early that a state can still be written.
            "signal_delay_s": min(90, seconds // 4),
            # A job that is repeated when its node is lost or it makes way; without this some clusters end it.
            "additional_parameters": {"requeue": True},
        }
        asked = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpus_per_node": self.gpus,
            "mem": f"{round(1024 * self.mem)}M" if self.mem else "",
            "setup": [self.setup] if self.setup else [],
        }
        return given | {name: value for name, value in asked.items() if value}


class JobFuture(Future):
    """The result of a job that may be waiting in SLURM's queue.

    Attributes:
        job_id: As SLURM has it; `12_3` in an array.
        files: Path, less its ending, of what is kept of the call.
        name: Of the call.
        log: Of the call.
    """

    job_id: str = ""
    files: Path = Path()
    name: str = ""
    log: Path = Path()
    end: Callable[["JobFuture"], None] | None = None

    def cancel(self) -> bool:
        """Cancel the job if it has not begun."""
        cancelled = super().cancel()
        if cancelled and self.end is not None:
            self.end(self)
        return cancelled


class SlurmExecutor(JobExecutor):
    """Executor of SLURM jobs, one per call.

    A call whose process ends without a result, for whatever reason, is a failure that says which; a call that was sent with a key and is waiting, running or done is not
    sent again by another executor with the same folder.

    Args:
        options: What each job asks for.
        threads: torch threads of each call.
        pause: Seconds between two looks at the queue.
        grace: Seconds after the end of a job in which its result may still appear on a shared disk.
        dry_run: Raise `Announced` where jobs would be sent.

    Raises:
        UsageError: SLURM's commands or submitit are not there.
    """

    def __init__(
        self, options: Slurm | None = None, threads: int = 1, *, pause: float = 3.0, grace: float = 30.0, dry_run: bool = False
    ):
        self.options, self.threads, self.dry_run = options or Slurm(), threads, dry_run
        self._submitit = _submitit()
        if not dry_run and (absent := [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]):
            raise UsageError(
                f"SLURM's {absent[0]} is not found here; call from a machine that submits jobs, or run with --where processes."
            )
        self._pause, self._grace, self._queue = pause, grace, Queue()
        self._waiting: dict[str, JobFuture] = {}
        self._gone: dict[str, float] = {}
        self._lock = threading.RLock()
        self._watcher: threading.Thread | None = None
        self._open = True

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Send one job, whose log is in the executor's own folder."""
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        name = f"call-{hashlib.blake2b(os.urandom(16), digest_size=8).hexdigest()}"
        call = Call(name, _with_keywords, (fn, args, kwargs)) if kwargs else Call(name, fn, args)
        (future,) = self.send([call], {name: self._home() / f"{name}.log"}, self.threads)
        # The result of a failed call is text, and whoever asks a future for a result wants the error.
        return _plain(future, self.delivered)

    def announce(self, calls: Sequence[Call], threads: int) -> None:
        """Raise `Announced` in a dry run, if there is a call."""
        if self.dry_run and calls:
            raise Announced(self._script(len(calls), threads), len(calls))

    def send(self, calls: Sequence[Call], logs: Mapping[str, Path], threads: int) -> dict[Future, str]:
        """Send the calls, but for those that an earlier process sent and that are done or not yet ended.

        Raises:
            UsageError: SLURM refuses the jobs, or a call cannot be pickled.
            NotWritten: The folder of the jobs cannot be written.
        """
        home, found, due = self._home(), {}, []
        _remove_old(home)
        for call in calls:
            future = JobFuture()
            future.end = self._cancelled
            future.name, future.log = call.name, logs[call.name]
            future.files = home / _file_name(call, future.log)
            if not self._taken_up(future):
                due.append((call, future))
            found[future] = call.name
        for start in range(0, len(due), ARRAY):
            self._sent(due[start : start + ARRAY], logs, threads)
        with self._lock:
            if self._waiting and (self._watcher is None or not self._watcher.is_alive()):
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()
        return found  # type: ignore[return-value]

    def delivered(self, future: Future) -> None:
        """Remove what was kept of a call; SLURM's own logs stay where the call did not end well."""
        if not isinstance(future, JobFuture):
            return
        well = future.cancelled() or (future.exception() is None and not isinstance(future.result(), Raised))
        self._remove(future, (".result", ".job"), logs=well)

    def stop(self) -> None:
        """End all jobs whose results are not there yet. What was kept of them goes too, but for results that come in the meantime; where SLURM does not answer, jobs may
        go on, and it stays for a later process to take them up.
        """
        with self._lock:
            ended = dict(self._waiting)
            for future in ended.values():
                future.end = None
                if not future.cancel() and not future.done():
                    future.set_exception(JobLost("was stopped"))
            self._waiting.clear()
        if self._queue.cancel(list(ended)):
            for future in ended.values():
                self._remove(future, (".job",), logs=True)
                with contextlib.suppress(NotWritten):
                    append(future.log, f"{STOPPED} {future.name}\n")

    def _remove(self, future: JobFuture, endings: Sequence[str], *, logs: bool) -> None:
        """Remove what was kept of a call and its job; SLURM's own logs only if asked to."""
        for ending in endings:
            with contextlib.suppress(OSError):
                future.files.with_name(future.files.name + ending).unlink(missing_ok=True)
        if future.job_id:
            main = self._home() / f"{future.job_id.partition('_')[0]}_submission.sh"
            for path in (main, *self._home().glob(f"{future.job_id}_*")):
                if logs or path.suffix == ".pkl":
                    path.unlink(missing_ok=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; wait for those that are sent, unless told otherwise. Jobs that nobody waits for go on, and a later process takes them up."""
        self._open = False
        with self._lock:
            waiting = list(self._waiting.values())
        if cancel_futures:
            for future in waiting:
                future.cancel()
        watcher = self._watcher
        if wait and watcher is not None:
            watcher.join()

    def __exit__(self, kind, error, trace):
        self.shutdown(wait=kind is None)

    def _home(self) -> Path:
        home = self.options.home
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise NotWritten(
                f"The jobs cannot be written to {home}: {error.strerror}; name another folder with slurm:folder=PATH."
            ) from error
        seen = home.stat()
        if seen.st_uid != os.getuid() or seen.st_mode & 0o022:
            whose = "belongs to somebody else" if seen.st_uid != os.getuid() else "can be written by others"
            raise UsageError(
                f"{home} {whose}, whose files would be run as yours; name another folder with slurm:folder=PATH, or `chmod go-w` it."
            )
        return home

    def _sender(self, threads: int) -> Any:
        made = self._submitit.SlurmExecutor(
            folder=self._home(), max_num_timeout=self.options.requeues, python=shlex.quote(sys.executable)
        )
        made.update_parameters(**self.options.parameters(threads))
        return made

    def _script(self, jobs: int, threads: int) -> str:
        from submitit.slurm.slurm import _make_sbatch_string

        many = {"map_count": jobs} if jobs > 1 else {}
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(self.options.home))}"
        return _make_sbatch_string(command=command, folder=self.options.home, **self.options.parameters(threads), **many)

    def _sent(self, due: Sequence[tuple[Call, JobFuture]], logs: Mapping[str, Path], threads: int) -> None:
        jobs = []
        for call, future in due:
            made = ResumingJob if call.resumes else Job
            jobs.append(
                made(call.name, _packed(call), str(logs[call.name].absolute()), str(_result(future)), threads, tuple(sys.path))
            )
        sender = self._sender(threads)
        try:
            if len(jobs) == 1:
                sent = [sender.submit(jobs[0])]
            else:
                with sender.batch():
                    sent = [sender.submit(job) for job in jobs]
        except self._submitit.core.utils.FailedJobError as error:
            why = " ".join(str(getattr(error, "__cause__", None) or error).split())[-300:]
            raise UsageError(
                f"SLURM refused the jobs ({why}); see `sinfo` for its partitions and limits, and mend the options of slurm:."
            ) from error
        except OSError as error:
            raise NotWritten(
                f"The jobs cannot be written to {self.options.home}: {error.strerror}; name another folder with slurm:folder=PATH."
            ) from error
        for link in self._home().glob(".submission_file_*"):
            # submitit leaves one where the script was.
            if link.is_symlink():
                link.unlink(missing_ok=True)
        with self._lock:
            for (_, future), job in zip(due, sent, strict=True):
                future.job_id = str(job.job_id)
                future.files.with_name(future.files.name + ".job").write_text(future.job_id)
                self._waiting[future.job_id] = future

    def _taken_up(self, future: JobFuture) -> bool:
        """Whether the call was sent by an earlier process and is done, waiting or running."""
        if self._finished(future):
            return True
        _result(future).unlink(missing_ok=True)
        try:
            job_id = future.files.with_name(future.files.name + ".job").read_text().strip()
        except OSError:
            return False
        states = self._queue.states([job_id])
        if not states or job_id not in states or states[job_id].startswith("COMPLETING"):
            # It may have ended while we asked; one that is being ended, as after Ctrl-C, gives no result any more, or has given it.
            return self._finished(future)
        future.job_id = job_id
        if Queue.running(states[job_id]):
            # The log that said so is of the earlier process.
            append(future.log, f"{BEGAN} {future.name} in job {job_id} at {time.time():.3f}\n")
        with self._lock:
            self._waiting[job_id] = future
        return True

    @staticmethod
    def _finished(future: JobFuture) -> bool:
        """Whether the call of an earlier process has ended well, which the future then says."""
        found = _load(_result(future))
        if found is None or isinstance(found[0], Raised):
            return False
        future.set_running_or_notify_cancel()
        future.set_result(found[0])
        append(future.log, f"{ENDED} {future.name}\n")
        return True

    def _cancelled(self, future: JobFuture) -> None:
        with self._lock:
            self._waiting.pop(future.job_id, None)
        if self._queue.cancel([future.job_id]):
            self.delivered(future)

    def _watch(self) -> None:
        """Answer the futures, until none waits."""
        while True:
            with self._lock:
                waiting = dict(self._waiting)
                if not waiting:
                    self._watcher = None
                    return
            states = self._queue.states(list(waiting))
            for job_id, future in waiting.items():
                try:
                    self._look(job_id, future, states)
                except Exception as error:
                    # Whoever waits must be told, whatever it is.
                    self._answer(job_id, future, JobLost(f"cannot be watched ({type(error).__name__}: {error})"))
            time.sleep(self._pause)

    def _look(self, job_id: str, future: JobFuture, states: Mapping[str, str] | None) -> None:
        found = _load(_result(future))
        if found is not None:
            self._answer(job_id, future, found[0])
            return
        if states is None:
            # The controller does not answer, and will again.
            return
        state = states.get(job_id)
        if state is not None and Queue.held(state):
            self._queue.cancel([job_id])
            self._answer(
                job_id,
                future,
                JobLost(f"is held by SLURM ({state}): its job could not be started; see `scontrol show job {job_id}`"),
            )
        elif state is not None:
            self._gone.pop(job_id, None)
            if Queue.running(state) and not future.running() and not future.set_running_or_notify_cancel():
                self._cancelled(future)
        else:
            since = self._gone.setdefault(job_id, time.monotonic())
            ended = self._queue.ended(job_id)
            if Queue.failed(ended) or time.monotonic() - since > self._grace:
                # The result may have come between the first look and the question.
                again = _load(_result(future))
                self._answer(job_id, future, again[0] if again is not None else JobLost(self._reason(job_id, ended)))

    def _reason(self, job_id: str, ended: Ended | None) -> str:
        told = {
            "CANCELLED": f"job {job_id} was cancelled (scancel)",
            "TIMEOUT": f"job {job_id} was ended at its time limit{self._limit(ended)}",
            "DEADLINE": f"job {job_id} was ended at its deadline",
            "OUT_OF_MEMORY": f"job {job_id} ran out of memory; give more with slurm:mem=",
            "NODE_FAIL": f"the node of job {job_id} failed",
            "BOOT_FAIL": f"the node of job {job_id} did not start",
            "PREEMPTED": f"job {job_id} made way for another",
        }
        state, code = (ended.state, ended.code) if ended is not None else ("", "")
        words = told.get(
            state,
            f"the worker of job {job_id} ended without a result ({', '.join(filter(None, (state, code))) or 'SLURM knows nothing of it any more'})",
        )
        own = next((path for path in sorted(self._home().glob(f"{job_id}_*.err")) if path.stat().st_size), None)
        last = _last_line(own) if own is not None else ""
        return words + (f"; SLURM's log {own} ends with: {last}" if last else "")

    def _limit(self, ended: Ended | None) -> str:
        """The limit of the job, which an earlier command may have sent with another one, and what helps."""
        if ended is None or ended.limit is None:
            return "; give more with slurm:time="
        again = f"; the same command again asks for {self.options.time}" if self.options.time > ended.limit else ""
        return f" of {ended.limit} minute{'s' * (ended.limit != 1)}{again or '; give more with slurm:time='}"

    def _answer(self, job_id: str, future: JobFuture, result: Any) -> None:
        with self._lock:
            if self._waiting.pop(job_id, None) is None:
                return
            self._gone.pop(job_id, None)
            if not future.running() and not future.done():
                future.set_running_or_notify_cancel()
            if future.done():
                return
            if isinstance(result, JobLost):
                future.set_exception(result)
            else:
                future.set_result(result)


@dataclasses.dataclass
class Job:
    """What runs on a node: a call, whose result goes into a file of its own.

    Attributes:
        name: Of the call.
        packed: Function and arguments.
        log: Where it writes when it begins and ends.
        result: File of the result.
        threads: torch threads.
        path: Where Python looks for modules.
    """

    name: str
    packed: bytes
    log: str
    result: str
    threads: int
    path: tuple[str, ...]

    def __call__(self) -> None:
        """Run the call, unless its result is there already."""
        sys.path.extend(one for one in self.path if one not in sys.path)
        target = Path(self.result)
        if _load(target) is not None:
            return
        found: Any = None
        # SystemExit is how a job leaves that will be queued again.
        with noted(self.name, Path(self.log), (KeyboardInterrupt, SystemExit)) as said:
            function, args = pickle.loads(self.packed)
            with threads_of_torch(self.threads):
                found = function(*args)
            # What cannot be sent is a failure of the call.
            found = pickle.dumps(found)
        if said and said[0].reason.startswith("UncompletedJobError"):
            # So submitit ends a call that it does not queue again.
            why = (
                "it keeps no state to go on from"
                if not isinstance(self, ResumingJob)
                else "it did so as often as slurm:requeues= allows"
            )
            said = [Raised(f"TimeLimit: it reached the time limit of its job, and {why}; give more time with slurm:time=")]
        part = target.with_name(f".{target.name}-{os.getpid()}")
        part.write_bytes(pickle.dumps((said[0] if said else pickle.loads(found),)))
        os.replace(part, target)


class ResumingJob(Job):
    """A job that goes on where it was stopped when it is queued again."""

    def checkpoint(self) -> Any:
        """What is queued again shortly before the time limit: the same, since everything is on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _with_keywords(function: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
    return function(*args, **kwargs)


def _plain(future: Future, delivered: Callable[[Future], None]) -> Future:
    """A future that raises what failed, of one whose result then is text."""
    made: Future = Future()
    made.set_running_or_notify_cancel()

    def hand_on(done: Future) -> None:
        error = done.exception() if not done.cancelled() else JobLost("was cancelled")
        if error is not None:
            made.set_exception(error)
        elif isinstance(result := done.result(), Raised):
            made.set_exception(JobLost(result.reason))
        else:
            made.set_result(result)
        delivered(done)

    future.add_done_callback(hand_on)
    return made


def _packed(call: Call) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps((call.function, call.args))
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        raise UsageError(
            f"Trial {call.name} cannot be sent to other machines ({what}); run it with --where inline, or define its functions at the top of a module."
        ) from error


def _file_name(call: Call, log: Path) -> str:
    """By what the call depends on and where it belongs; without a key it is a new one each time."""
    parts = (call.key, call.name, str(log.absolute())) if call.key else (os.urandom(16).hex(),)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _remove_old(home: Path) -> None:
    """Remove what nobody has asked for in a long time, and nothing that another name shows to be somebody else's."""
    for path in home.iterdir():
        with contextlib.suppress(OSError):
            if OURS.fullmatch(path.name) and path.is_file() and time.time() - path.lstat().st_mtime > KEPT:
                path.unlink()


def _result(future: JobFuture) -> Path:
    return future.files.with_name(future.files.name + ".result")


def _load(path: Path) -> tuple[Any] | None:
    """The result in a file; None if it is not there."""
    try:
        return pickle.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _submitit() -> Any:
    try:
        import submitit
    except Exception as error:
        raise UsageError(f"--where slurm needs submitit, which cannot be imported here ({error}): {INSTALL}.") from error
    return submitit
