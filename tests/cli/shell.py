"""The command line as people use it: in processes of its own, with as many torch threads as the tests have."""

import os
import subprocess
import sys
import time

from assay.cli.app import run_app

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": os.environ.get("ASSAY_TEST_THREADS", "1"), "COLUMNS": "100"}
SMALL = ("--data", "digits:test=1400", "--net", "logistic", "--plant", "uniform:rate=0.1", "--epochs", "3", "--batch", "64")
"""397 of scikit-learn's digits, a linear net, three epochs."""
LONG = (*SMALL[:-3], "120", *SMALL[-2:])
"""The same with so many epochs that there is time to interfere."""
PATIENCE = 120
"""Seconds after which a test gives up on a process; none takes so long."""


def start(*arguments, cwd):
    """`assay ...` in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "assay", *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    """Exit code, stdout and stderr of a process that was started."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def assay(*arguments, cwd):
    """Exit code, stdout and stderr of `assay ...`."""
    return finish(start(*arguments, cwd=cwd))


def wait_until(happens, process):
    """Look until something is there, for as long as the process lives."""
    begun = time.monotonic()
    while not happens():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.005)


def here(capsys, *arguments):
    """Exit code, stdout and stderr of `assay ...` run inside the test: the same seam, without a new process."""
    capsys.readouterr()
    code = run_app([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def sentence(err):
    """The one line on stderr, without the name of the command; a traceback or a second line is no sentence."""
    (line,) = err.splitlines()
    assert line.startswith("assay: ") and line.endswith((".", "?", "...")) and "Traceback" not in line, line
    return line.removeprefix("assay: ")
