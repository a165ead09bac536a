"""A retraining that is stopped in the middle goes on from the state that it kept, to the same numbers."""

import dataclasses

import pytest

from assay.experiments import kept_state
from assay.experiments.trials import arms, train_arm
from experiments import small
from experiments.test_verify import decided


class Stopped(Exception):
    pass


@pytest.mark.parametrize("steps", [None, 17])
@pytest.mark.parametrize("state", ["whole", "damaged", "of nobody"])
def test_a_stopped_training_goes_on_to_the_same_numbers(steps, state, run, tmp_path, monkeypatch):
    plan, arm, path = small.plan().plain(), arms(decided(run), run.labels, 1)[0], tmp_path / "trials" / "kept-1.state"
    whole = train_arm(plan, arm, 1, steps)
    monkeypatch.setattr(kept_state, "EVERY", 0.0)
    began, ends = [], kept_state.StateKeeper.epoch_ends

    def stop(self, epoch, model, state):
        ends(self, epoch, model, state)
        began.append(epoch)
        if len(began) == 2:
            raise Stopped

    monkeypatch.setattr(kept_state.StateKeeper, "epoch_ends", stop)
    with pytest.raises(Stopped):
        train_arm(plan, arm, 1, steps, str(path))
    assert path.exists()
    if state == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif state == "of nobody":
        path.write_text("{}")
    again = train_arm(plan, arm, 1, steps, str(path))
    assert began[2] == (2 if state == "whole" else 0)
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(whole, seconds=0)
    assert not path.exists()


def test_a_short_training_writes_no_state(run, tmp_path):
    plan, arm = small.plan().plain(), arms(decided(run), run.labels, 1)[0]
    assert train_arm(plan, arm, 1, None, str(tmp_path / "a" / "b.state"))
    assert not list(tmp_path.iterdir())
