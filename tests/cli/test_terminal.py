"""What a person at a terminal sees, through a real pseudo-terminal."""

import os
import pty
import subprocess
import sys

from cli.shell import ENVIRONMENT, PATIENCE, SMALL, assay


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


def test_progress_is_live_on_a_terminal_and_plain_lines_elsewhere(tmp_path):
    drawn = seen("record", "one", *SMALL, cwd=tmp_path)
    assert "\x1b[?25l" in drawn and "━" in drawn and "3/3" in drawn and "train accuracy" in drawn
    assert "record 1/3 train accuracy" not in drawn
    code, out, err = assay("record", "two", *SMALL, cwd=tmp_path)
    assert code == 0 and err == "" and "\x1b" not in out
    assert [line[:10] for line in out.splitlines()[:3]] == ["record 1/3", "record 2/3", "record 3/3"]
