"""What SLURM says of jobs: squeue of those that wait or run; sacct, or where that is off scontrol, of those that ended."""

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Sequence

_PATIENCE = 60
"""Seconds after which an answer of SLURM's commands is not waited for."""
_ENDS = ("CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "FAILED")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a job ended: SLURM's word, its exit code as it writes it, and the job's own time limit in minutes; None if it does not say."""

    state: str
    code: str
    limit: int | None = None


class Queue:
    """SLURM's commands."""

    def states(self, ids: Sequence[str]) -> dict[str, str] | None:
        """The state of each job that waits or runs, with the reason why it waits; None if SLURM does not answer."""
        mains = sorted({one.partition("_")[0] for one in ids})
        said = _said(["squeue", "-h", "-r", "-a", "-o", "%i|%T|%r", "-j", ",".join(mains)])
        if said is None:
            return None
        if said.returncode:
            # So it answers where every job that was asked for is gone.
            return {} if "nvalid job id" in said.stderr else None
        rows = [line.strip().split("|") for line in said.stdout.splitlines()]
        return {row[0]: f"{row[1]} {row[2]}" for row in rows if len(row) == 3}

    def ended(self, job_id: str) -> Ended | None:
        """How a job ended; None if SLURM does not say."""
        return self._by_sacct(job_id) or self._by_scontrol(job_id)

    def cancel(self, ids: Sequence[str]) -> bool:
        """End jobs, waiting or running; whether SLURM says that it does so, or that they have ended."""
        said = [_said(["scancel", *ids[start : start + 200]]) for start in range(0, len(ids), 200)]
        return all(one is not None and _all_ended(one) for one in said)

    @staticmethod
    def held(state: str) -> bool:
        """Whether SLURM will never start a job by itself, because it could not."""
        return state.startswith(("SPECIAL_EXIT", "REQUEUE_HOLD")) or "launch failed requeued held" in state.replace("_", " ")

    @staticmethod
    def running(state: str) -> bool:
        """Whether a job can no longer be taken out of the queue unseen."""
        return state.startswith(("RUNNING", "COMPLETING", "SUSPENDED"))

    @staticmethod
    def failed(ended: Ended | None) -> bool:
        """Whether no result will come of a job."""
        return ended is not None and ended.state in _ENDS

    def _by_sacct(self, job_id: str) -> Ended | None:
        if shutil.which("sacct") is None:
            return None
        said = _said(["sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode,Timelimit", "-j", job_id])
        if said is None or said.returncode:
            return None
        for line in said.stdout.splitlines():
            cells = line.strip().split("|")
            if len(cells) == 4 and cells[0] == job_id:
                return _known(*cells[1:])
        return None

    def _by_scontrol(self, job_id: str) -> Ended | None:
        said = _said(["scontrol", "show", "job", "-o", job_id])
        if said is None or said.returncode:
            return None
        found = (re.search(rf"\b{name}=(\S+)", said.stdout) for name in ("JobState", "ExitCode", "TimeLimit"))
        return _known(*(one[1] if one else "" for one in found))


def _known(state: str, code: str, limit: str) -> Ended | None:
    # "CANCELLED by 0"
    word = state.split()[0] if state.split() else ""
    return (
        None
        if word in ("", "PENDING", "RUNNING", "REQUEUED", "COMPLETING", "SUSPENDED")
        else Ended(word, f"exit code {code}" if code else "", _minutes(limit))
    )


def _minutes(limit: str) -> int | None:
    """Of a limit such as `1-12:30:00`; None of a word."""
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", limit)
    if parts is None:
        return None
    days, hours, minutes, seconds = (int(one or 0) for one in parts.groups())
    return (24 * days + hours) * 60 + minutes + (seconds > 0)


def _all_ended(said: subprocess.CompletedProcess) -> bool:
    """Whether scancel had nothing to complain of but jobs that were gone already."""
    gone = ("nvalid job id", "already completing or completed")
    return not said.returncode or all(any(word in line for word in gone) for line in said.stderr.splitlines() or [""])


def _said(command: Sequence[str]) -> subprocess.CompletedProcess | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
