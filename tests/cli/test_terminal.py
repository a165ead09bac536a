"""What a person at a terminal sees, through a real pseudo-terminal."""

import os
import pty
import subprocess
import sys

import pytest

from cli.shell import ENVIRONMENT, LONG, PATIENCE, SMALL


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


@pytest.mark.slow
def test_progress_is_live_on_a_terminal(tmp_path):
    drawn = seen("record", "run", *SMALL, cwd=tmp_path)
    assert "\x1b[?25l" in drawn and "━" in drawn and "3/3" in drawn and "train accuracy" in drawn
    assert "record 1/3 train accuracy" not in drawn, "these are the plain lines of a pipe (test_chain)"


@pytest.mark.slow
def test_who_ranks_first_stands_in_a_table_while_training_goes_on(tmp_path):
    # Long enough to be drawn more than once on any machine.
    drawn = seen("record", "run", *LONG, "--live", "liveval,aum", cwd=tmp_path)
    head = next(line for line in drawn.splitlines() if "liveval" in line and "aum" in line)
    below = drawn[drawn.index(head) :]
    assert "most harmful so far" in below and "(-" in below
    assert "\x1b[1A" in drawn or "\x1b[A" in drawn, "the table is drawn over, not below, the one before"


@pytest.mark.slow
def test_ids_and_classes_cannot_command_the_terminal(tmp_path):
    """Such as OSC 52, which puts a text into the clipboard of whoever looks at it."""
    evil = "\x1b]52;c;Y3VybA==\x07"
    lines = [f"{evil}{place},{place % 7},{'good' if place % 2 else 'bad' + evil}" for place in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(["id,x,label", *lines]))
    drawn = seen(
        "record",
        "run",
        "--data",
        "table:path=table.csv,label=label,id=id",
        "--net",
        "logistic",
        "--epochs",
        "2",
        "--live",
        "liveval",
        cwd=tmp_path,
    )
    assert "so far" in drawn and "\x1b]52" not in drawn and "\\x1b]52" in drawn
    drawn = seen("score", "run", "aum", cwd=tmp_path)
    assert "\x1b]52" not in drawn and "\\x1b]52" in drawn
