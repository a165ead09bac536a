"""A recording that is killed by the signal that cannot be caught, again and again, at moments chosen and at random."""

import random
import shutil

import pytest
import torch

from assay.core.errors import RunError, RunLocked
from assay.replay.live_methods import LiveMethods, live_state
from assay.runs.recorder import Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run
from runs.worlds import IDS, LABELS, LIVE, assert_holds, logits_of, order_of, play, recorded, state_of

KILLED, EPOCHS = -9, 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    recorded(folder, EPOCHS, live=LiveMethods(LIVE))
    return Run(folder)


def opened(folder):
    """The run as it stands, wholly checked; None before its first epoch."""
    try:
        run = Run(folder)
    except RunError as error:
        assert "no committed epoch" in str(error) or "does not exist" in str(error) or "no run.json" in str(error)
        return None
    assert run.epochs == (folder / "commits.jsonl").read_bytes().count(b"\n")
    assert run.check() > 0 and run.ids == IDS and torch.equal(run.labels, LABELS)
    assert torch.equal(torch.cat(run.order(run.epochs - 1)), order_of(run.epochs - 1))
    newest = run.checkpoint(run.epochs - 1)
    assert newest.notes == {"epoch": str(run.epochs - 1)}
    assert all(torch.equal(newest.read(name), tensor) for name, tensor in state_of(run.epochs - 1).items())
    return run


def assert_same(run, other):
    assert run.epochs == other.epochs and run.fingerprint == other.fingerprint
    assert torch.equal(run.probs_sum(), other.probs_sum())
    for method in LIVE:
        torch.testing.assert_close(live_state(run, method), live_state(other, method), rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("begun", [0, pytest.param(EPOCHS - 1, marks=pytest.mark.slow)])
def test_killed_before_every_single_step_to_the_disk(nursery, whole, tmp_path, begun):
    """One more epoch: dies before the first call that reaches the disk, then before the second, and so on, until it lives."""
    if begun:
        recorded(tmp_path / "begun", begun, live=LiveMethods(LIVE))
    seen, step, status = set(), 0, KILLED
    while status == KILLED:
        step += 1
        folder = tmp_path / str(step)
        if begun:
            shutil.copytree(tmp_path / "begun", folder)
        status = nursery.run("runs.children:record_last", kill_at_step=step, folder=str(folder), epochs=begun + 1)
        run = opened(folder)
        seen.add(run.epochs if run else 0)
        if step % 3 == 0 or status == 0:
            recorded(folder, EPOCHS, live=LiveMethods(LIVE), resume=True)
            assert_same(Run(folder), whole)
            assert not list(folder.rglob("*.tmp")) and len(list(folder.glob("*/*"))) == EPOCHS + 3 * 2
        shutil.rmtree(folder)
    assert status == 0 and step > 15 and seen == {begun, begun + 1}


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_each_time(nursery, tmp_path):
    moments, kills, done = random.Random(0), 0, []
    # A machine that is busy elsewhere takes longer to its first epoch, and is killed later from round to round.
    while kills < 28 or (sum(done) <= len(done) and kills < 280):
        later = 1 + kills // 28
        folder = tmp_path / str(kills)
        committed = 0
        for _ in range(7):
            moment = later * moments.uniform(0.02, 0.2)
            status = nursery.run("runs.children:record", kill_after=moment, folder=str(folder), epochs=10**6)
            assert status == KILLED
            kills += 1
            run = opened(folder)
            assert (run.epochs if run else 0) >= committed
            for epoch in range(committed, run.epochs if run else 0):
                assert_holds(run.shard(epoch), logits_of(epoch), LABELS)
            committed = run.epochs if run else 0
        with Recorder(folder, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True) as recorder:
            play(recorder, committed + 1)
        plain = tmp_path / "plain"
        recorded(plain, committed + 1, live=LiveMethods(LIVE), checkpoints="every")
        assert_same(Run(folder), Run(plain))
        shutil.rmtree(plain)
        done.append(committed)
    assert sum(done) > len(done), f"nothing was recorded between the kills: {done}"


@pytest.mark.slow
@pytest.mark.parametrize("fork", [False, True], ids=["alone", "with a worker that lives on"])
def test_a_second_writer_is_refused_until_the_first_is_killed(nursery, tmp_path, fork):
    pid = nursery.run("runs.children:hold", wait=False, folder=str(tmp_path), epochs=2, fork=fork)
    try:
        assert nursery.run("runs.children:record", folder=str(tmp_path), epochs=3) == RunLocked.exit_code
        with pytest.raises(RunLocked, match="is being written by another process") as caught:
            Recorder(tmp_path, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True)
        assert caught.value.exit_code == 5
        with pytest.raises(RunLocked):
            Recorder(tmp_path, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE))
        # Reading needs no lock.
        assert Run(tmp_path).epochs == 2 and Run(tmp_path).check()
    finally:
        assert nursery.kill(pid) == KILLED
    assert nursery.run("runs.children:record", folder=str(tmp_path), epochs=3) == 0
    assert Run(tmp_path).epochs == 3


def test_two_that_begin_at_once_do_not_both_write(nursery, tmp_path):
    pid = nursery.run("runs.children:hold", wait=False, folder=str(tmp_path), epochs=0)
    try:
        with pytest.raises(RunLocked):
            Recorder(tmp_path, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True)
    finally:
        nursery.kill(pid)
    recorded(tmp_path, 1, live=LiveMethods(LIVE), checkpoints="every", resume=True)
    assert Run(tmp_path).epochs == 1
