"""A second control in `verify`: a live selector that trains every epoch on other examples, as many as the decision keeps."""

import shutil
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

import assay
from assay.cli.app import run_app
from assay.core.errors import TrialFailed, UnknownName, UsageError
from assay.core.trial import ALL, KEPT, RANDOM
from assay.experiments import trials
from assay.experiments.choose import choose
from assay.experiments.plan import load_data, plan_of
from assay.experiments.score import score
from assay.experiments.trials import arms, control_arm, train_arm, trial_file
from assay.experiments.verify import verify
from assay.maths.statistics import holm, paired
from assay.policies.rs2 import RS2
from assay.runs.artefacts import load_verdict, save_decision, save_verdict
from assay.training.batches import TrainingData
from assay.training.loop import Observer, train
from experiments import small


def decided(run, keep=0.3):
    return choose(score(run, "aum")["aum"], "top_k", keep=keep)


class Rates(Observer):
    """The rate and the examples of every step."""

    def __init__(self):
        self.steps = []

    def batch(self, positions, logits, labels, rate):
        self.steps.append((rate, len(positions)))

    def epoch_ends(self, epoch, model, state):
        pass


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle", "inverse_sqrt"])
@pytest.mark.parametrize("last_batch", ["keep", "drop", "even"])
def test_it_takes_the_steps_of_a_fixed_part_with_the_same_rates(run, schedule, last_batch):
    plan, decision = plan_of(run), decided(run)
    loaded = load_data(plan)
    recipe = small.plan(recipe={"schedule": schedule, "last_batch": last_batch, "batch": 16}).training
    kept, second = arms(decision, run.labels, 1)[0], control_arm(decision, run.labels, "rs2")
    found = []
    for arm in (kept, second):
        examples, seen = loaded.train.take(loaded.train.ids.positions(arm.ids)), Rates()
        data = TrainingData(examples.inputs, arm.labels, examples.ids, prepare=examples.prepared)
        train(plan.build(loaded, 1), data, recipe, observer=seen, selector=arm.selector)
        found.append(seen.steps)
    assert found[0] == found[1]


def test_its_arm_is_the_training_by_that_selector(run):
    plan, decision = plan_of(run), decided(run)
    loaded = load_data(plan)
    arm = control_arm(decision, run.labels, "rs2:replacement=true")
    assert arm.name == "rs2:replacement=True" and arm.ids == run.ids and arm.examples == decision.budget == 119
    outcome = train_arm(plan.plain(), arm, 3)
    model = plan.build(loaded, 3)
    examples = loaded.train
    data = TrainingData(examples.inputs, run.labels, examples.ids, prepare=examples.prepared)
    train(model, data, plan.recipe_with(3), selector=RS2(119, True))
    right = model(loaded.test.prepared(loaded.test.inputs)).argmax(1) == loaded.test.labels
    assert outcome.accuracy == pytest.approx(float(right.double().mean())) and outcome.examples == 119
    assert outcome.steps == train_arm(plan.plain(), arms(decision, run.labels, 3)[0], 3).steps
    back = ForkingPickler.loads(ForkingPickler.dumps(arm))
    assert back.selector == arm.selector and back.fingerprint == arm.fingerprint
    others = [
        control_arm(decision, run.labels, "rs2"),
        control_arm(decided(run, 0.4), run.labels, arm.name),
        arms(decision, run.labels, 3)[2],
    ]
    assert len({arm.fingerprint, *(one.fingerprint for one in others)}) == 4


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A run of its own, its decision, and the verdict with three seeds and a second control, with retrainings on disk."""
    run = small.recorded(tmp_path_factory.mktemp("judged") / "run")
    decision = decided(run)
    return run, decision, verify(decision, run=run, seeds=assay.Seeds(3, control="rs2"), save=True)


def test_every_comparison_is_corrected_together_and_said(judged):
    _, _, verdict = judged
    assert verdict.arms == (KEPT, RANDOM, "rs2", ALL) and [one.arm for one in verdict.outcomes[::3]] == list(verdict.arms)
    assert [one.baseline for one in verdict.comparisons] == [RANDOM, "rs2", ALL]
    by = {arm: [one.accuracy for one in verdict.outcomes if one.arm == arm] for arm in verdict.arms}
    ps = [paired(by[KEPT], by[other]).p for other in (RANDOM, "rs2", ALL)]
    first = verdict.comparisons[0]
    assert [one.p for one in verdict.comparisons] == ps and {one.family for one in verdict.comparisons} == {3}
    assert [one.adjusted for one in verdict.comparisons] == [min(1.0, p / first.share) for p in holm(ps)]
    assert "rs2, chosen anew for every epoch" in verdict.comparisons[1].sentence
    assert any(one.startswith("rs2 trained each epoch on as many examples as the decision keeps") for one in verdict.scope)
    assert any("Its 3 comparisons are corrected together" in one for one in verdict.scope)
    steps = {arm: {one.steps for one in verdict.outcomes if one.arm == arm} for arm in verdict.arms}
    assert steps["rs2"] == steps[KEPT] == steps[RANDOM] != steps[ALL]


def test_it_is_taken_from_disk_and_kept_there(judged, monkeypatch, tmp_path):
    run, decision, verdict = judged
    path = trial_file(run, plan_of(run), control_arm(decision, run.labels, "rs2"), 2)
    assert path.exists() and path.name == "rs2-2.json"
    save_verdict(verdict, tmp_path / "verdict.json")
    assert load_verdict(tmp_path / "verdict.json").arms == verdict.arms
    trained = []
    real = trials.train_arm
    monkeypatch.setattr(
        trials, "train_arm", lambda plain, arm, seed, *more: trained.append((arm.name, seed)) or real(plain, arm, seed, *more)
    )
    again = verify(decision, run=run, seeds=assay.Seeds(3, control="rs2"), save=True)
    assert not trained and again.fingerprint == verdict.fingerprint
    path.unlink()
    assert verify(decision, run=run, seeds=assay.Seeds(3, control="rs2"), save=True).fingerprint == verdict.fingerprint
    assert trained == [("rs2", 2)]


def test_without_it_nothing_changes_and_the_claim_is_another(tmp_path):
    run = small.recorded(tmp_path / "run")
    decision = decided(run)
    plain = verify(decision, run=run, seeds=3, save=True)
    assert plain.arms == (KEPT, RANDOM, ALL) and plain.control == "" and {one.place for one in plain.comparisons} == {1}
    both = verify(decision, run=run, seeds=assay.Seeds(3, control="rs2"), save=True)
    assert {one.place for one in both.comparisons} == {2} and both.comparisons[0].p == plain.comparisons[0].p
    later = verify(decision, run=run, seeds=3, save=True)
    assert [one.adjusted for one in later.comparisons] == [one.adjusted for one in plain.comparisons]
    needed = [assay.seeds_needed(decision, 0.5, run=run, control=control).seeds for control in ("", "rs2")]
    assert needed[0] < needed[1]


@pytest.mark.parametrize(
    ("control", "error", "words"),
    [
        ("infobatch", UsageError, r"does not train every epoch on a given number .* give one that does: rs2"),
        ("rs2:keep=0.5", UsageError, r"as many examples as the decision keeps; leave keep=0\.5 out"),
        ("rs3", UnknownName, "rs2"),
        ("top_k", UsageError, "top_k chooses once, by a score"),
    ],
)
def test_what_cannot_be_a_control_is_refused_before_anything_is_opened(control, error, words):
    with pytest.raises(error, match=words):
        assay.Seeds(3, control=control)


def test_a_decision_that_drops_nothing_has_no_such_control(run):
    relabelled = choose(score(run, "aum")["aum"], "relabel", run=run, count=20)
    with pytest.raises(UsageError, match=r"control=rs2 would train every epoch on all 397 examples.* leave control= out"):
        verify(relabelled, run=run, seeds=assay.Seeds(2, control="rs2"))


def test_a_run_whose_epochs_were_chosen_already_is_refused(tmp_path):
    run = small.recorded(tmp_path / "run", select="infobatch")
    with pytest.raises(UsageError, match=r"recorded with select=infobatch.*differ from these in two things"):
        verify(choose(run, "random", keep=0.5, seed=0), run=run, seeds=assay.Seeds(2, control="rs2"))


def test_a_training_of_your_own_is_told_which_examples_an_epoch_has(run):
    decision, calls = decided(run), []

    def retrain(ids, labels, weights, seed, each_epoch=None):
        calls.append((len(ids), None if each_epoch is None else torch.stack([each_epoch(epoch) for epoch in range(4)])))
        return 0.5 + 0.01 * seed + 0.1 * (each_epoch is None)

    verdict = verify(decision, run=run, seeds=assay.Seeds(2, control="rs2"), retrain=retrain)
    given = [(n, rows) for n, rows in calls if rows is not None]
    assert len(calls) == 8 and len(given) == 2 and verdict.comparisons[1].effect == pytest.approx(0.1)
    assert all(n == 397 and rows.shape == (4, 119) for n, rows in given) and not torch.equal(given[0][1], given[1][1])
    want = [RS2(119).select_epoch({}, run.ids, epoch, 4, 1).kept.nonzero().flatten() for epoch in range(4)]
    assert torch.equal(given[0][1], torch.stack(want))
    again = verify(decision, run=run, seeds=assay.Seeds(2, control="rs2:replacement=true"), retrain=retrain)
    assert again.control == "rs2:replacement=True" and again.arms[2] == again.control
    with pytest.raises(UsageError, match=r"takes no each_epoch; write retrain\(ids, labels, weights, seed, each_epoch=None\)"):
        verify(decision, run=run, seeds=assay.Seeds(2, control="rs2"), retrain=lambda ids, labels, weights, seed: 0.5)
    with pytest.raises(TrialFailed, match="epochs are whole numbers"):
        verify(
            decision, run=run, seeds=assay.Seeds(2, control="rs2"),
            retrain=lambda ids, labels, weights, seed, each_epoch=None: 0.5 if each_epoch is None else each_epoch(-1),
        )  # fmt: skip


def test_the_command_shows_it(judged, capsys):
    run, decision, _ = judged
    save_decision(decision, run.paths.decision("top"))
    assert run_app(["verify", str(run.folder), "--seeds", "3", "--control", "rs2", "--executor", "inline"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "rs2 119" in told and "rs2, chosen anew for every epoch" in told
    assert run_app(["verify", str(run.folder), "--control", "infobatch"]) == 2


@pytest.mark.slow
def test_the_page_shows_it(judged, tmp_path):
    run, decision, _ = judged
    save_decision(decision, run.paths.decision("top"))
    score(run, "aum", save=True)
    assert run_app(["verify", str(run.folder), "--seeds", "3", "--control", "rs2", "--executor", "inline"]) == 0
    assert run_app(["report", str(run.folder), "--out", str(tmp_path / "page.html"), "--decision", "top"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<td>rs2</td>" in page and "rs2, chosen anew for every epoch" in page


@pytest.mark.slow
def test_where_nothing_differs_at_most_one_run_in_20_hears_of_a_difference(tmp_path):
    run = small.recorded(tmp_path / "run")
    draw, runs = np.random.default_rng(0), 200
    asked = [(decided(run, keep), control) for keep, control in ((0.3, "rs2"), (0.5, None), (0.5, "rs2:replacement=true"))]
    told = {"corrected": 0, "not corrected": 0}
    for _ in range(runs):
        shutil.rmtree(run.paths.claims, ignore_errors=True)
        found = []
        for decision, control in asked:
            # As many test examples as a small test set has, of which every arm gets nine tenths right.
            verdict = verify(
                decision, run=run, seeds=assay.Seeds(5, control=control),
                retrain=lambda ids, labels, weights, seed, each_epoch=None: draw.binomial(500, 0.9) / 500,
            )  # fmt: skip
            found += verdict.comparisons
        assert len(found) == 8
        told["corrected"] += any(one.significant for one in found)
        told["not corrected"] += any(one.p < one.alpha for one in found)
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert told["corrected"] / runs < bound < told["not corrected"] / runs, told
