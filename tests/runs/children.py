"""What the children do that are killed or share a run with another process."""

import os
import time
from pathlib import Path

from assay.replay.live_methods import LiveMethods
from assay.runs.disk import replace
from assay.runs.recorder import Recorder
from assay.runs.recording import Recording
from runs.worlds import IDS, LIVE, play, recorded


def record(folder, epochs):
    recorded(folder, epochs, live=LiveMethods(LIVE), checkpoints="every", resume=True)


def record_last(folder, epochs):
    recorded(folder, epochs, live=LiveMethods(LIVE), resume=True)


def hold(folder, epochs, ready, fork=False):
    """Record some epochs, keep the run open and wait; with `fork`, so does a child of its own, as a loader's worker would."""
    with Recorder(Path(folder), IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True) as recorder:
        play(recorder, epochs)
        if fork and not os.fork():
            time.sleep(20)
            os._exit(0)
        ready()
        time.sleep(60)


def put(path, size):
    replace(Path(path), b"x" * size)


def record_and_wait(folder, epochs, ready):
    """Record epoch after epoch, some fifty in a second."""
    with Recorder(Path(folder), IDS, live=LiveMethods(LIVE)) as recorder:
        play(recorder, 1)
        ready()
        while recorder.epochs < epochs:
            play(recorder, recorder.epochs + 1)
            # What a reader reads grows with every epoch: without a pause it would never catch up on a slow machine.
            time.sleep(0.02)
