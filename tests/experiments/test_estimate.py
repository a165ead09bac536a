"""What trainings will cost: numbers of trainings, steps and bytes against what recordings come to; times only by what they are multiplied with."""

import pytest

from assay.core.errors import UsageError
from assay.experiments import estimate
from assay.experiments.estimate import Cost, _bytes, estimate_recording, estimate_retraining
from assay.experiments.lds import LeaveOutGrid
from assay.experiments.trials import arms, train_arm
from experiments import small
from experiments.test_verify import decided


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(estimate, "MEASURED", 2)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"recipe": {"epochs": 5, "batch": 50, "optimizer": "adam"}, "record": {"checkpoints": "every", "keep_logits": True}},
        {"models": 2, "record": {"mean_probs": False, "checkpoints": "none"}},
        {"record": {"checkpoints": [0, 1, 2]}},
    ],
)
def test_a_recording_comes_to_the_bytes_and_steps_that_were_said(changed, quick, tmp_path):
    cost = estimate_recording(small.plan(**changed))
    made = small.recorded(tmp_path / "run", **changed)
    assert cost.trainings == changed.get("models", 1)
    assert cost.steps == sum(commit.steps for commit in made.commits)
    # Heads of files, and that momentum is not there before the first step, are not in it.
    assert _bytes(made.folder) == pytest.approx(cost.bytes, rel=0.35)


def test_a_clean_pass_after_every_epoch_takes_longer(quick, monkeypatch):
    monkeypatch.setattr(estimate, "_measured", lambda plan, loaded: (2.0, train_state()))
    monkeypatch.setattr(estimate, "_pass", lambda plan, loaded: 14.0)
    steps = estimate_recording(small.plan()).steps
    assert estimate_recording(small.plan()).seconds_per_step == 2
    assert estimate_recording(small.plan(record={"view": "eval"})).seconds_per_step == 2 + 14 * 3 / steps


def train_state():
    from assay.training.state import TrainingState

    return TrainingState(0, 0, {}, "", "")


def test_what_commands_train_on_a_run(run, quick):
    found = {
        one.what.split()[0].strip(","): one
        for one in estimate_retraining(run, seeds=4, draws=3, grid=LeaveOutGrid(10, other_seeds=2))
    }
    counts = {name: one.trainings for name, one in found.items()}
    # Counts of half of 397 examples: 1, 3, 10, 30, 100, 198.
    assert counts == {"verify": 12, "cleanse": 1 + 6 * 4, "lds": 30, "leave-one-out": 1 + 397, "probe": 1}
    everything = arms(decided(run), run.labels, 1)[2]
    assert {one.steps for one in found.values()} == {train_arm(small.plan().plain(), everything, 1).steps}
    assert all(one.seconds_per_step > 0 for one in found.values())
    with pytest.raises(UsageError, match="seeds=0 and draws=5 must be"):
        estimate_retraining(run, seeds=0)


def test_side_by_side_the_last_round_may_be_half_empty():
    cost = Cost("x", 5, 10, 2.0, 0)
    assert (cost.seconds(), cost.seconds(2), cost.seconds(5), cost.seconds(256)) == (100, 60, 20, 20)
