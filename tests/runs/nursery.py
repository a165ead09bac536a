"""Children that can be killed: real processes, forked from one that has torch loaded already, so that there can be many of them.

Run as a program it reads one JSON line per child: what to call, with what, and when to kill it. It answers with the child's status.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

STEPS = ("fsync", "replace", "write", "unlink", "ftruncate")
"""The calls by which a recording reaches the disk."""


class Nursery:
    """Starts children one after the other."""

    def __init__(self):
        tests = str(Path(__file__).parent.parent)
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("ASSAY_TEST_THREADS", "1")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, tests], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, call, *, kill_after=None, kill_at_step=None, wait=True, **arguments):
        """Call `module:function` in a child.

        Returns its exit status: 0, or -9 if it was killed after so many seconds or before the so-many-th call of `STEPS`.
        With `wait=False` the child goes on: its process id, once it has printed a line.
        """
        order = {"call": call, "after": kill_after, "at": kill_at_step, "wait": wait, "with": arguments}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def kill(self, pid):
        """Kill a child that went on, and wait until it is gone."""
        self._process.stdin.write(json.dumps({"kill": pid}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        # Said, since a process that this one forked meanwhile, as torch does for a loader, keeps the pipe open.
        self._process.stdin.write("null\n")
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def die_at(step):
    """Kill this process by the signal that cannot be caught, before its `step`-th call of `STEPS`."""
    left = [step]

    def counted(call):
        def through(*arguments, **more):
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **more)

        return through

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def child(order, ready):
    import torch

    torch.set_num_threads(int(os.environ.get("ASSAY_TEST_THREADS", "1")))
    module, name = order["call"].split(":")
    function = getattr(importlib.import_module(module), name)
    if order.get("at") is not None:
        die_at(order["at"])
    with contextlib.redirect_stdout(sys.stderr):
        function(**order["with"], **({} if order["wait"] else {"ready": lambda: os.write(ready, b".")}))


def main():
    for line in sys.stdin:
        order = json.loads(line)
        if order is None:
            break
        if "kill" in order:
            os.kill(order["kill"], signal.SIGKILL)
            answer = os.waitstatus_to_exitcode(os.waitpid(order["kill"], 0)[1])
        else:
            heard, ready = os.pipe()
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    os.close(heard)
                    child(order, ready)
                    status = 0
                except BaseException as error:
                    traceback.print_exc()
                    status = getattr(error, "exit_code", 1)
                finally:
                    os._exit(status)
            os.close(ready)
            if order["after"] is not None:
                time.sleep(order["after"])
                os.kill(pid, signal.SIGKILL)
            if order["wait"]:
                answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            else:
                assert os.read(heard, 1) == b".", "the child ended before it was ready"
                answer = pid
            os.close(heard)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import pyarrow.parquet  # noqa: F401

    # The first step of an optimizer loads this, which takes longer than most of what the children do.
    import torch._dynamo  # noqa: F401

    import assay.integrations.pytorch  # noqa: F401
    import runs.children  # noqa: F401

    main()
