"""The losses of validation examples per class and epoch: of plans, and of a user's loop."""

import pytest
import torch
import torch.nn.functional as F

import assay
from assay.cli.app import run_app
from assay.core.errors import NumericalError, UsageError
from assay.experiments.plan import Plan, load_data
from assay.runs.recorder import Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run
from experiments.small import recorded
from golden import kept_runs
from runs.worlds import EXAMPLES, IDS, LABELS, logits_of

HELD = {"validation": 0.2, "recipe": {"epochs": 2}, "record": {"checkpoints": "every"}}


def by_class(logits, labels, classes):
    losses = F.cross_entropy(logits.double(), labels, reduction="none")
    return [float(losses[labels == c].mean()) if bool((labels == c).any()) else float("nan") for c in range(classes)]


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_plan_measures_what_it_holds_out(tmp_path, ema):
    changed = {**HELD, "recipe": {"epochs": 2, **({"ema": ema} if ema else {})}}
    run = recorded(tmp_path / "run", **changed)
    plan = Plan.make(run.header.about["plan"])
    held, net = load_data(plan).validation, plan.build(load_data(plan), 0).eval()
    for epoch in range(2):
        losses, counts = run.validation(epoch)
        net.load_state_dict({**run.model(epoch), **run.averages(epoch)})
        with torch.no_grad():
            want = by_class(net(held.prepared(held.inputs)), held.labels, run.classes)
        torch.testing.assert_close(losses, torch.tensor(want, dtype=torch.float64), rtol=1e-5, atol=0)
        assert counts.tolist() == torch.bincount(held.labels, minlength=run.classes).tolist()


def test_the_training_is_the_same_with_and_without(tmp_path):
    net = {"net": "mlp:widths=8"}
    measured, bare = (
        recorded(tmp_path / "a", **HELD, **net),
        recorded(tmp_path / "b", **{**HELD, **net, "record": {"checkpoints": "every", "validation": False}}),
    )
    assert bare.validation(0) is None and measured.validation(0) is not None
    for with_, without in zip(measured.commits, bare.commits, strict=True):
        assert with_.checkpoint == without.checkpoint
        assert {name: value for name, value in with_.shard.sums.items() if "validation" not in name} == without.shard.sums
    assert recorded(tmp_path / "c", **{**HELD, "validation": None}).validation(0) is None


def test_the_command_line_leaves_it_out_and_asks_for_it(tmp_path):
    small = ("--data", "digits:test=1400", "--net", "logistic", "--subset", "0.3", "--epochs", "1", "--validation", "0.2")
    for name, flags, there in (("a", (), True), ("b", ("--validation-losses",), True), ("c", ("--no-validation-losses",), False)):
        assert run_app(["record", str(tmp_path / name), *small, *flags]) == 0
        assert (Run(tmp_path / name).validation(0) is not None) == there
    # What is the default anyway is no other plan.
    assert Run(tmp_path / "a").header.about["plan"] == Run(tmp_path / "b").header.about["plan"]
    (tmp_path / "plan.toml").write_text("[record]\nvalidation = false\n")
    for name, flags, there in (("d", (), False), ("e", ("--validation-losses",), True)):
        assert run_app(["record", str(tmp_path / name), "--plan", str(tmp_path / "plan.toml"), *small, *flags]) == 0
        assert (Run(tmp_path / name).validation(0) is not None) == there


def test_what_is_measured_must_be_held_out(tmp_path, capsys):
    assert run_app(["record", str(tmp_path / "run"), "--data", "digits", "--validation-losses"]) == 2
    assert "holds none out; give validation" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_batches_are_folded_and_an_absent_class_has_no_mean(tmp_path):
    logits, labels = logits_of(9)[:6], torch.tensor([0, 0, 1, 1, 1, 3])
    with Recorder(tmp_path, IDS, Recording(checkpoints="none")) as recorder:
        for epoch in range(2):
            recorder.begin()
            recorder.observe(torch.arange(EXAMPLES), logits_of(epoch), LABELS)
            for part in torch.arange(6).split(4) if epoch == 0 else ():
                recorder.validation(logits[part], labels[part])
            recorder.commit()
    losses, counts = Run(tmp_path).validation(0)
    torch.testing.assert_close(losses, torch.tensor(by_class(logits, labels, 4), dtype=torch.float64), equal_nan=True)
    assert counts.tolist() == [2, 3, 0, 1] and losses[2].isnan() and Run(tmp_path).validation(1) is None


@pytest.mark.parametrize(
    ("logits", "labels", "kind", "words"),
    [
        (torch.zeros(2, 4), torch.tensor([0, 4]), UsageError, r"outside 0\.\.3 \(4\)"),
        (torch.zeros(2, 4), torch.tensor([0]), UsageError, "one class for each"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), UsageError, "has 3 outputs, it had 4"),
        (torch.zeros(2, 4), torch.tensor([0.0, 1.0]), UsageError, "float32 labels"),
        (torch.tensor([[0.0, torch.nan, 0.0, 0.0]]), torch.tensor([0]), NumericalError, "1 validation examples are NaN"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, logits, labels, kind, words):
    with Recorder(tmp_path, IDS, Recording(checkpoints="none")) as recorder:
        recorder.begin()
        recorder.observe(torch.arange(EXAMPLES), logits_of(0), LABELS)
        with pytest.raises(kind, match=words):
            recorder.validation(logits, labels)


def test_a_loop_tells_it_after_the_batches_of_an_epoch(tmp_path):
    net, optimizer, loader = kept_runs.parts()
    held = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3
    want = []
    with assay.record(tmp_path / "run", net, optimizer, loader, seed=0) as recorder:
        with pytest.raises(UsageError, match="call it after the loop"):
            recorder.validation(net(held[0]), held[1])
        for _ in range(2):
            for x, y in recorder.epoch():
                logits = net(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
            recorder.validation(net(held[0]), held[1])
            want.append(by_class(net(held[0]).detach(), held[1], 3))
    run = assay.Run(tmp_path / "run")
    for epoch in range(2):
        torch.testing.assert_close(run.validation(epoch)[0], torch.tensor(want[epoch], dtype=torch.float64))
