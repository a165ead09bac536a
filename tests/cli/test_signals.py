"""Ctrl-C and SIGTERM at any moment of a command: a sentence, no traceback, 130 or 143. Real processes, real signals."""

import signal
import time
from pathlib import Path

import pytest

from cli.shell import finish, start

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def answered(process):
    """Wait until the command answers signals: from then on, and not while Python itself starts, everything is promised."""
    bit = 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        caught = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) & bit:
            return
        time.sleep(0.001)


def stopped(process, number, after):
    answered(process)
    time.sleep(after)
    process.send_signal(number)
    code, out, err = finish(process)
    assert "Traceback" not in out + err, err
    # A process that a signal ends on its last steps is told by shells with the same code as one that answers it.
    assert code in (0, CODES[number], -number), (code, err)
    if code == CODES[number]:
        assert "interrupted; what was finished is kept" in err
    return code


@pytest.mark.parametrize("number", CODES)
def test_a_signal_while_everything_is_imported(recorded, number):
    assert stopped(start("inspect", recorded, cwd=recorded), number, 0.05) == CODES[number]


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    "verb", [("inspect",), ("score", "all"), ("report",), ("verify", "--executor", "processes", "--seeds", "2")]
)
def test_a_signal_at_any_moment(own, number, verb):
    ended = set()
    for step in range(12):
        ended.add(stopped(start(verb[0], own, *verb[1:], cwd=own), number, 0.35 * step))
    assert CODES[number] in ended
