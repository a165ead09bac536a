"""What trainings without some examples came to is kept as it is made: a killed command goes on, to the same bytes."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import assay
from assay.cluster.executors import Call, InlineExecutor
from assay.core.errors import RunError
from assay.experiments import kept_state, retraining
from assay.experiments import lds as lds_module
from assay.experiments.evidence import open_replay
from assay.experiments.kept_state import ReplayKeeper
from assay.experiments.lds import LeaveOutGrid, lds
from assay.experiments.retraining import Retraining
from assay.experiments.score import score
from assay.replay.replay import Replay
from assay.runs.artefacts import load_scores
from assay.runs.retrainings import KeptRetrainings
from experiments import small
from experiments.test_verify import Told
from methods.loops import World

LOO = "loo:window=last"


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run of 40 examples, with validation examples. It is read, never changed."""
    recipe = {"batch": 16, "optimizer": "adamw", "ema": 0.9}
    return small.recorded(tmp_path_factory.mktemp("held") / "run", data="digits:test=1747", validation=0.2, recipe=recipe)


@pytest.fixture(scope="module")
def expected(held):
    return score(held, LOO)[LOO]


@pytest.fixture
def mine(held, tmp_path):
    return small.copied(held, tmp_path / "mine")


@pytest.fixture
def trained(monkeypatch):
    """One item for each training that is done in this process."""
    done, again = [], Replay._again
    monkeypatch.setattr(Replay, "_again", lambda *given: (again(*given), done.append(1))[0])
    return done


def kept_files(run):
    return sorted(run.folder.glob("retrained/*/*"))


@pytest.mark.parametrize("pool", [None, InlineExecutor()])
def test_a_stopped_score_goes_on(mine, expected, trained, pool):
    whole, told, counts = len(mine.ids) + 1, Told(), []
    again = Replay._again

    def stop(*given):
        if len(trained) == 7:
            raise Stopped
        return again(*given)

    execution = assay.Execution(pool=pool, progress=told)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "_again", stop)
        with pytest.raises((Stopped, assay.AssayError)):
            score(mine, LOO, save=True, execution=execution)
    assert len(trained) == 7 and not mine.paths.scores(LOO).exists()
    found = score(mine, LOO, save=True, execution=execution)[LOO]
    assert found.values.numpy().tobytes() == expected.values.numpy().tobytes()
    assert len(trained) == whole and (7, whole, "taken from an earlier run") in told.words
    counts = [path.stat().st_size // 36 for path in kept_files(mine)]
    assert sum(counts) == whole and len(counts) <= retraining.CHUNKS + 1
    # The score is gone, the trainings are there.
    shutil.rmtree(mine.folder / "scores")
    assert torch.equal(score(mine, LOO, save=True)[LOO].values, expected.values) and len(trained) == whole
    assert torch.equal(score(mine, LOO, save="recompute")[LOO].values, expected.values) and len(trained) == 2 * whole


def test_what_is_damaged_or_of_other_settings_is_made_again(mine, expected, trained):
    score(mine, LOO, save=True)
    (path,) = kept_files(mine)
    body = bytearray(path.read_bytes())
    body[36 * 5 + 20] ^= 1
    path.write_bytes(bytes(body[:-3]))
    shutil.rmtree(mine.folder / "scores")
    trained.clear()
    assert torch.equal(score(mine, LOO, save=True)[LOO].values, expected.values) and len(trained) == 2
    for other in (f"{LOO},form=removed", "loo:window=1-2"):
        trained.clear()
        score(mine, other, save=True)
        assert len(trained) == len(mine.ids) + 1, "other settings are other trainings"
    folders = sorted(mine.folder.glob("retrained/*"))
    assert len(folders) == 3
    for folder in folders:
        for one in mine.folder.glob("retrained/*/*.values"):
            if one.parent != folder:
                shutil.copy(one, folder / one.name)
    there = KeptRetrainings(path.parent, path.parent.name, 1)
    names = {there.name(np.array(group, dtype=np.int64)) for group in [[], *[[place] for place in range(len(mine.ids))]]}
    known = there.known()
    assert len(known) == 3 * len(names) and names < known.keys(), "trainings of other settings have other names"


def test_nothing_is_kept_where_nobody_asked_or_nobody_could_tell(mine, tmp_path):
    score(mine, LOO)
    world = World(tmp_path / "own", epochs=2)
    world.score(LOO)
    assay.score(world.run, LOO, save=True, loop=world.loop(), targets={"validation": (world.held_out, world.held_labels)})
    assert not (mine.folder / "retrained").exists() and not (world.run.folder / "retrained").exists()


def test_a_link_is_refused(mine, tmp_path):
    (mine.folder / "retrained").symlink_to(tmp_path)
    with pytest.raises(RunError, match="is a link"):
        score(mine, LOO, save=True)


@pytest.mark.parametrize("state", ["whole", "damaged", "of another training"])
def test_a_training_that_is_stopped_in_the_middle_goes_on_from_its_state(held, tmp_path, monkeypatch, state):
    replay, path = open_replay(held, targets=["validation"]), tmp_path / "a.state"
    asked = [torch.tensor([3, 5])], range(replay.epochs[-1].stop), ["validation"], "weight"
    whole = replay.retrained(*asked)
    monkeypatch.setattr(kept_state, "EVERY", 0.0)
    reached, steps, taken, step = ReplayKeeper.reached, [], [], replay.training.step

    def stop(self, index, state):
        reached(self, index, state)
        steps.append(index)
        if len(steps) == 2:
            raise Stopped

    monkeypatch.setattr(ReplayKeeper, "reached", stop)
    with pytest.raises(Stopped):
        replay.retrained(*asked, ReplayKeeper(path, "this"))
    assert steps == [epoch.start for epoch in replay.epochs[1:]] and path.exists()
    if state == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(replay.training, "step", lambda *given, **how: taken.append(1) or step(*given, **how))
    keeper = ReplayKeeper(path, "another" if state == "of another training" else "this")
    assert torch.equal(replay.retrained(*asked, keeper), whole)
    assert len(taken) == (len(replay.epochs[-1]) if state == "whole" else replay.epochs[-1].stop)
    keeper.forget()
    assert not path.exists()


def test_a_call_is_the_same_whatever_is_done_of_it(mine, monkeypatch):
    replay, sent = open_replay(mine, targets=["validation"]), []

    def run_all(pool, calls, logs, task, before):
        sent.append((before, calls))
        yield from ((call.name, call.function(*call.args)) for call in calls)

    monkeypatch.setattr(retraining, "run_all", run_all)
    monkeypatch.setattr(retraining, "CHUNKS", 3)
    trainings = Retraining(replay, targets=["validation"], pool=InlineExecutor(), save=True, passing=True)
    # The last is equal to the first, and is not trained again.
    groups = [*torch.arange(7).split(1), torch.tensor([0])]
    asked = groups, replay.epochs[-1], ["validation"], "weight"
    first = {one.place: one.values for one in trainings.each(*asked)}
    assert len(first) == 8 and first[0] == first[7] and not kept_files(mine), "whoever asked has it"
    second = {one.place: one.values for one in trainings.each(*asked, done=(0, 2, 5, 7))}
    assert second == {place: first[place] for place in (1, 3, 4, 6)}
    (none, all_calls), (some, calls) = sent
    assert (none, some) == (0, 3) and [sum(call.trainings for call in made) for made in (all_calls, calls)] == [7, 4]
    assert all(call.resumes and call.key for call in all_calls)
    assert [call.key for call in calls] == [call.key for call in all_calls[:2]]
    assert [[place for place, _ in call.args[1]] for call in calls] == [[3, 6], [1, 4]]
    assert len({call.key for call in all_calls}) == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "__version__", "another")
        list(trainings.each(*asked))
    assert not {call.key for call in sent[2][1]} & {call.key for call in all_calls}


def test_a_result_of_an_earlier_command_may_hold_more_than_is_due(mine, monkeypatch):
    replay = open_replay(mine, targets=["validation"])
    groups = list(torch.arange(4).split(1))
    asked = groups, replay.epochs[-1], ["validation"], "weight"
    whole = list(Retraining(replay).each(*asked))
    monkeypatch.setattr(retraining, "run_all", lambda *given: iter([("without-00", whole)]))
    found = list(Retraining(replay, pool=InlineExecutor(), save=True).each(*asked, done=(1, 3)))
    assert [one.place for one in found] == [0, 2]


def test_lds_under_other_seeds_is_known_and_goes_on(mine, monkeypatch):
    grid, sent, run_all = LeaveOutGrid(subsets=4, queries=2, same_seed=False, other_seeds=1), [], lds_module.run_all
    whole = lds(mine, ["tracin"], grid=grid)

    def seen(pool, calls, *rest):
        sent.append(list(calls))
        return run_all(pool, calls, *rest)

    monkeypatch.setattr(lds_module, "run_all", seen)
    monkeypatch.setattr(kept_state, "EVERY", 0.0)
    began, ends = [], kept_state.StateKeeper.epoch_ends

    def stop(self, epoch, model, state):
        ends(self, epoch, model, state)
        began.append(epoch)
        if len(began) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(kept_state.StateKeeper, "epoch_ends", stop)
    with pytest.raises(KeyboardInterrupt):
        lds(mine, ["tracin"], grid=grid, save=True)
    assert len(list(mine.paths.trials.glob("*/without-*.json"))) == 1 and len(list(mine.paths.trials.glob("*/*.state"))) == 1
    assert lds(mine, ["tracin"], grid=grid, save=True).fingerprint == whole.fingerprint
    # Three epochs each: two of the second training were done.
    assert began == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2] and not list(mine.paths.trials.glob("*/*.state"))
    first, second = sent
    assert {call.key for call in second} < {call.key for call in first} and len(first) == 4 and len(second) == 3
    assert all(isinstance(call, Call) and call.key and call.resumes for call in first)


SCORING = """
import os
import sys
import time

import assay
from assay.cluster.executors import executor
from assay.replay.replay import Replay

again = Replay._again


def counted(*given):
    time.sleep(0.02)
    found = again(*given)
    with open(os.environ["DONE"], "a") as file:
        file.write("x")
    return found


# In the workers too, which read this file.
Replay._again = counted

if __name__ == "__main__":
    with executor(sys.argv[3]) as pool:
        assay.score(sys.argv[1], sys.argv[2], save=True, execution=assay.Execution(pool))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "workers"), [("inline", 1), ("processes:2", 2)])
def test_a_score_that_is_killed_by_force_goes_on_to_the_same_bytes(held, mine, tmp_path, where, workers):
    whole = small.copied(held, tmp_path / "whole")
    script, done, folder = tmp_path / "script.py", tmp_path / "done", mine.folder
    script.write_text(SCORING)
    environment = {**os.environ, "DONE": str(done), "OMP_NUM_THREADS": "1"}
    score(whole, LOO, save=True)

    def count():
        return done.stat().st_size if done.exists() else 0

    def kept():
        return sum(path.stat().st_size // 36 for path in folder.glob("retrained/*/*.values"))

    for _ in range(2):
        before = kept()
        child = subprocess.Popen([sys.executable, script, folder, LOO, where], env=environment)
        while child.poll() is None and kept() < before + 5:
            time.sleep(0.005)
        assert child.poll() is None, "it was killed in the middle"
        child.kill()
        child.wait()
        time.sleep(1.0)
    last, there = count(), kept()
    assert 10 <= there < len(mine.ids) and last <= there + 2 * workers and not (folder / "scores").exists()
    subprocess.run([sys.executable, script, folder, LOO, where], env=environment, check=True)
    assert count() - last == len(mine.ids) + 1 - there, "what is kept is not trained again"

    def bare(run):
        found = load_scores(run.paths.scores(LOO))
        return found.values.numpy().tobytes(), dataclasses.replace(found.lineage, seconds=0.0, folder=""), found.fingerprint

    assert bare(mine) == bare(whole)
