import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assay.core.errors import Mismatch, NumericalError, OutputExists, UsageError
from assay.core.needs import Need
from assay.experiments.evidence import gather
from assay.experiments.execution import Execution
from assay.experiments.progress import Progress
from assay.experiments.record import record
from assay.experiments.score import score
from assay.runs.artefacts import load_truth
from assay.runs.run import Run
from assay.training.loop import predict
from experiments import small


class Stops(Progress):
    """Presses Ctrl-C when some epochs are done."""

    def __init__(self, after):
        self.after, self.told = after, []

    def advance(self, task, done, total, words=""):
        self.told.append((task, done, total))
        if done == self.after:
            raise KeyboardInterrupt


def test_the_same_plan_gives_the_same_numbers_to_the_bit(run, tmp_path):
    again = small.recorded(tmp_path / "again")
    assert again.fingerprint == run.fingerprint
    assert small.contents(again) == small.contents(run) and len(small.contents(run)) == 8


def test_another_seed_gives_another_run(run, tmp_path):
    assert small.recorded(tmp_path / "other", seed=1).fingerprint != run.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {
            "data": "digits:test=1600",
            "net": "block_conv:widths=2-2-2",
            "recipe": {"crop": 1, "flip": True, "schedule": "one_cycle"},
        },
        {"recipe": {"optimizer": "adam", "lr": 0.01}, "record": {"view": "eval", "keep_logits": True, "live": ["tdds:window=3"]}},
        {"recipe": {"clip": 0.5, "ema": 0.9}, "record": {"view": "eval"}},
    ],
    ids=["plain", "augmented", "adam-eval-live", "clipped-averaged"],
)
def test_a_run_that_was_stopped_ends_in_the_same_numbers_to_the_bit(tmp_path, changed):
    plan = small.plan(**changed)
    whole = record(plan, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        record(plan, tmp_path / "parts", execution=Execution(progress=Stops(1)))
    assert Run(tmp_path / "parts").epochs == 1
    parts = record(plan, tmp_path / "parts", resume=True)
    assert parts.fingerprint == whole.fingerprint
    assert small.contents(parts) == small.contents(whole)
    assert any(name.startswith("live/") for name in small.contents(whole)) == bool(plan.live)


def test_resuming_a_finished_run_changes_nothing(own):
    before = small.files(own.folder, "checkpoints", "epochs")
    assert record(small.plan(), own.folder, resume=True).fingerprint == own.fingerprint
    assert small.files(own.folder, "checkpoints", "epochs") == before


def test_resume_in_a_new_folder_starts_a_run(tmp_path, run):
    assert record(small.plan(), tmp_path / "new", resume=True).fingerprint == run.fingerprint


def test_progress_is_told_of_every_epoch(tmp_path):
    told = Stops(None)
    record(small.plan(), tmp_path / "run", execution=Execution(progress=told))
    assert told.told == [("record", 0, 3), ("record", 1, 3), ("record", 2, 3), ("record", 3, 3)]


@pytest.mark.parametrize("recipe", [{"flip": True}, {"ema": 0.95}])
def test_the_clean_pass_is_what_the_net_says_after_each_epoch(tmp_path, recipe):
    plan = small.plan(record={"view": "eval", "keep_logits": True, "checkpoints": "every"}, recipe=recipe)
    run, loaded = record(plan, tmp_path / "run"), plan.load()
    model = plan.build(loaded, plan.seed)
    for epoch in range(run.epochs):
        state = run.checkpoint(epoch).read_all()
        room = "average." if "ema" in recipe else "model."
        model.load_state_dict({name.removeprefix(room): value for name, value in state.items() if name.startswith(room)})
        logits = predict(model, loaded.train.inputs, prepare=loaded.train.prepared)
        assert torch.equal(run.shard(epoch).read("logits"), logits)
        losses = F.cross_entropy(logits.double(), loaded.train.labels, reduction="none")
        assert torch.allclose(gather(run).epoch(epoch).losses, losses, atol=1e-5)


def test_the_training_pass_is_seen_before_each_update(tmp_path):
    plan = small.plan(record={"keep_logits": True})
    run, loaded = record(plan, tmp_path / "run"), plan.load()
    first = run.order(0)[0]
    model = plan.build(loaded, plan.seed)
    with torch.no_grad():
        fresh = model(loaded.train.prepared(loaded.train.inputs[first]))
    assert torch.allclose(run.shard(0).read("logits")[first], fresh, atol=1e-6)
    assert run.rates(0).unique().tolist() == [plan.training.lr]


def test_augmentation_changes_what_is_recorded(run, tmp_path):
    flipped = small.recorded(tmp_path / "flipped", recipe={"flip": True})
    cropped = small.recorded(tmp_path / "cropped", recipe={"crop": 2})
    resized = small.recorded(tmp_path / "resized", recipe={"resized_crop": 0.3}, record={"checkpoints": "every"}, validation=0.1)
    assert len({run.fingerprint, flipped.fingerprint, cropped.fingerprint, resized.fingerprint}) == 4
    assert [batch.tolist() for batch in flipped.order(0)] == [batch.tolist() for batch in run.order(0)]
    # Its steps are taken again with the same windows, or there would be no score.
    assert float(score(resized, "sgd_influence:window=last")["sgd_influence:window=last"].values.std()) > 0


def test_a_live_method_says_what_stored_logits_say(tmp_path):
    both = {"keep_logits": True, "live": ["tdds:window=3"]}
    kept = small.recorded(tmp_path / "kept", record=both)
    alone = small.recorded(tmp_path / "alone", record={**both, "keep_logits": False})
    assert Need.LOGITS in kept.holds and Need.LOGITS not in alone.holds
    stored, live = (score(run, "tdds:window=3")["tdds:window=3"].values for run in (kept, alone))
    assert torch.allclose(stored, live, rtol=0, atol=1e-12) and float(stored.std()) > 0


def test_the_truth_stands_beside_the_run_and_never_in_it(own):
    loaded = small.plan().load()
    ids, true = load_truth(own.paths.truth)
    assert ids == own.ids and torch.equal(true, loaded.true_labels)
    assert torch.equal(own.labels, loaded.train.labels) and not torch.equal(own.labels, true)
    before = score(own, ["aum", "loss"])
    own.paths.truth.unlink()
    after = score(Run(own.folder), ["aum", "loss"])
    assert all(before[name].fingerprint == after[name].fingerprint for name in before)
    assert Run(own.folder).fingerprint == own.fingerprint
    assert str(true.tolist())[1:-1] not in own.paths.header.read_text()


def test_the_header_tells_people_what_was_trained(run):
    about = run.header.about
    assert about["data"] == "digits:test=1400" and about["net"] == "logistic" and about["parameters"] == 650
    assert about["examples"] == 397 and about["test examples"] == 1400 and about["wrong labels"] == 40
    assert about["plan"] == small.plan().plain() and about["recipe"]["epochs"] == 3


def test_what_the_reader_of_the_data_decided_is_kept(tmp_path):
    rows = [f"{i % 7},{'red' if i % 3 else 'blue'},{i % 2}" for i in range(30)]
    (tmp_path / "train.csv").write_text("\n".join(["size,colour,y", *rows]) + "\n")
    (tmp_path / "test.csv").write_text("size,colour,y\n1,green,0\n2,red,1\n")
    spec = f"table:path={tmp_path / 'train.csv'},test={tmp_path / 'test.csv'},label=y"
    run = small.recorded(tmp_path / "run", data=spec, plant=None)
    (note,) = run.header.about["notes"]
    assert "colour" in note


def test_a_run_is_not_overwritten_unasked(own, tmp_path):
    with pytest.raises(OutputExists, match="already holds a run"):
        record(small.plan(), own.folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="not empty"):
        record(small.plan(), tmp_path / "full")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"recipe": {"lr": 0.2}}, "recipe.lr was None and is 0.2"),
        ({"net": "mlp"}, "net was 'logistic' and is 'mlp'"),
        ({"record": {"keep_logits": True}}, "keep_logits=False"),
        ({"seed": 1}, "seed=0"),
        ({"plant": None}, "recorded from data"),
    ],
)
def test_a_run_is_resumed_by_its_own_plan_only(own, changed, words):
    with pytest.raises(Mismatch, match=words):
        record(small.plan(**changed), own.folder, resume=True)
    assert Run(own.folder).fingerprint == own.fingerprint


def test_changed_pixels_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(40, 3)), np.arange(40) % 2
    np.savez(tmp_path / "d.npz", inputs=rows, labels=labels)
    changed = {"data": f"arrays:path={tmp_path / 'd.npz'},test=0.2", "recipe": {"batch": 8}}
    small.recorded(tmp_path / "run", **changed)
    np.savez(tmp_path / "d.npz", inputs=rows + 1, labels=labels)
    with pytest.raises(Mismatch, match="recorded from data"):
        record(small.plan(**changed), tmp_path / "run", resume=True)


def test_a_recording_that_fails_at_once_leaves_its_folder_free(tmp_path):
    with pytest.raises(NumericalError, match=r"Epoch 0, step \d+: the loss of \d+ examples is not finite; ids \d+"):
        small.recorded(tmp_path / "run", recipe={"lr": 1e20, "momentum": 0.0})
    assert small.recorded(tmp_path / "run").epochs == 3


def test_a_recording_that_fails_later_keeps_what_was_committed(tmp_path):
    with pytest.raises(NumericalError, match=r"epoch 2"):
        small.recorded(tmp_path / "run", recipe={"schedule": "step", "milestones": [1], "batch": 397, "gamma": 1.0, "lr": 1e20})
    assert Run(tmp_path / "run").epochs == 2


@pytest.mark.parametrize(
    ("changed", "resume", "words"),
    [
        ({"recipe": {"last_batch": "drop"}}, False, "leaves 13 of 397 examples out"),
        ({"record": {"checkpoints": "none"}}, True, "without checkpoints cannot be resumed"),
        ({"recipe": {"device": "cuda"}}, False, "no CUDA device"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_written(tmp_path, changed, resume, words):
    if "device" in changed.get("recipe", {}) and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UsageError, match=words):
        record(small.plan(**changed), tmp_path / "run", resume=resume)
    assert not (tmp_path / "run").exists()


def test_dropped_batches_go_with_a_clean_pass(tmp_path):
    run = small.recorded(tmp_path / "run", recipe={"last_batch": "drop"}, record={"view": "eval"})
    assert sum(map(len, run.order(0))) == 384 and len(gather(run).epoch(0).losses) == 397


def test_checkpoints_are_kept_as_asked(tmp_path):
    run = small.recorded(tmp_path / "run", recipe={"epochs": 5}, record={"checkpoints": [0, 1]})
    assert run.checkpoints() == [0, 1, 3, 4], "the newest stay to resume from"
    assert json.loads(run.paths.header.read_text())["checkpoints"] == [0, 1]


def test_a_plan_that_clips_and_averages_is_taken_again(tmp_path):
    recipe = {"clip": 0.5, "ema": 0.95, "flip": True, "lr": 0.02}
    # A linear net, because finite differences do not see through the kinks of ReLU.
    run = small.recorded(tmp_path / "run", recipe=recipe, validation=0.2)
    assert run.header.about["recipe"]["clip"] == 0.5 and run.header.about["recipe"]["ema"] == 0.95
    (scores,) = score(run, "sgd_influence:checks=2,window=last").values()
    assert scores.diagnostics["relative error of the prediction"] < 0.05 and float(scores.values.std()) > 0
