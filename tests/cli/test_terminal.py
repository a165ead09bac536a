"""What a person at a terminal sees, through a real pseudo-terminal."""

import os
import pty
import subprocess
import sys

from cli.shell import ENVIRONMENT, PATIENCE, SMALL


def seen(*arguments, cwd):
    """Everything that `assay ...` draws on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-m", "assay", *arguments], cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    assert process.wait(timeout=PATIENCE) == 0
    return drawn.decode()


def test_progress_is_live_on_a_terminal(tmp_path):
    drawn = seen("record", "run", *SMALL, cwd=tmp_path)
    assert "\x1b[?25l" in drawn and "━" in drawn and "3/3" in drawn and "train accuracy" in drawn
    assert "record 1/3 train accuracy" not in drawn, "these are the plain lines of a pipe (test_chain)"
