"""A recording that goes on after a break by another number of threads, on another machine or by another torch; and one whose folder moved."""

import os
import re

import pytest
import torch

from assay.core.errors import Mismatch, RunError
from assay.experiments.execution import Execution
from assay.experiments.progress import Progress
from assay.experiments.record import record
from assay.experiments.score import score
from assay.replay.config import ReplayConfig
from assay.runs.recorder import Recorder
from assay.runs.run import Run
from assay.runs.schema import seal, unseal
from experiments.small import plan
from runs.worlds import IDS, play


@pytest.fixture
def threads():
    """Sets torch's threads, and puts them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def influence(run, **how):
    (values,) = score(run, "sgd_influence:target=validation", **how).values()
    return values


class Stop(Exception):
    """Ends a recording in the middle."""


class StopAfter(Progress):
    def __init__(self, epochs):
        self.epochs = epochs

    def advance(self, task, done, total, words=""):
        if done == self.epochs:
            raise Stop


def begun(folder, epochs):
    """A recording of three epochs that was stopped after so many; its plan."""
    whole = plan(recipe={"epochs": 3}, validation=0.2)
    with pytest.raises(Stop):
        record(whole, folder, execution=Execution(progress=StopAfter(epochs)))
    return whole


def test_threads_of_a_resumed_recording_are_told_and_its_training_is_taken_again(tmp_path, threads):
    threads(1)
    whole = begun(tmp_path / "run", 1)
    threads(2)
    with pytest.warns(UserWarning, match="was recorded with threads 1, now 2"):
        record(whole, tmp_path / "run", resume=True)
    run = Run(tmp_path / "run")
    assert run.header.threads == 1 and [run.condition("threads", epoch) for epoch in range(3)] == [1, 2, 2]
    assert run.elsewhere == ("epochs 1, 2 by threads 2",)
    threads(1)
    assert len(influence(run)) == len(run.ids)


def test_the_same_conditions_leave_no_word(tmp_path):
    record(begun(tmp_path / "run", 1), tmp_path / "run", resume=True)
    assert Run(tmp_path / "run").elsewhere == () and "elsewhere" not in (tmp_path / "run/commits.jsonl").read_text()


def test_another_torch_is_named_as_the_cause_where_the_numbers_differ(tmp_path):
    record(plan(validation=0.2), tmp_path / "run")
    header = tmp_path / "run/run.json"
    header.write_bytes(seal("run", {**unseal("run", header.read_bytes(), ""), "torch": "1.0"}))
    run = Run(tmp_path / "run")
    assert len(influence(run)) == len(run.ids), "the numbers agree, whatever the header says"
    # The model at the end of the first epoch as another torch might have left it.
    first = run.commits[0].checkpoint
    name = next(name for name in first.sums if name.startswith("model."))
    forged = run.commits[0].model_copy(
        update={"checkpoint": first.model_copy(update={"sums": {**first.sums, name: first.sums[name] ^ 1}})}
    )
    lines = (tmp_path / "run/commits.jsonl").read_text().splitlines()[1:]
    (tmp_path / "run/commits.jsonl").write_text("".join(f"{line}\n" for line in [forged.line(), *lines]))
    with pytest.raises(Mismatch, match=rf"recorded by torch 1\.0, here is {re.escape(torch.__version__)}: take it again there"):
        influence(Run(tmp_path / "run"), replay_config=ReplayConfig(tolerance=0))


@pytest.mark.parametrize("how", ["renamed", "another run in its place", "lock deleted", "lock replaced"])
def test_a_folder_that_moved_is_not_written_on(tmp_path, how):
    recorder = Recorder(tmp_path / "run", IDS)
    play(recorder, 1)
    if how in ("renamed", "another run in its place"):
        (tmp_path / "run").rename(tmp_path / "moved")
    if how == "another run in its place":
        with Recorder(tmp_path / "run", IDS) as other:
            play(other, 1)
    if how.startswith("lock"):
        (tmp_path / "run/writer.lock").unlink()
    if how == "lock replaced":
        (tmp_path / "run/writer.lock").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"is no longer the folder that is being recorded.* move it back and resume"):
        play(recorder, 2)
    recorder.close()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert Run(tmp_path / ("moved" if (tmp_path / "moved").exists() else "run")).epochs == 1
    if how == "renamed":
        os.rename(tmp_path / "moved", tmp_path / "run")
    if how != "another run in its place":
        with Recorder(tmp_path / "run", IDS, resume=True) as again:
            play(again, 2)
        assert Run(tmp_path / "run").epochs == 2


def test_a_header_of_a_hundred_thousand_threads_is_refused(tmp_path):
    record(plan(), tmp_path / "run")
    header = tmp_path / "run/run.json"
    header.write_bytes(seal("run", {**unseal("run", header.read_bytes(), ""), "threads": 100_000}))
    with pytest.raises(RunError, match=r"run\.json is damaged \(threads: "):
        Run(tmp_path / "run")
