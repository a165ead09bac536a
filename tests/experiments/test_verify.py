import dataclasses
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.cluster import executor
from assay.core.decision import Action, Decision
from assay.core.errors import Mismatch, NotWritten, RunError, TrialFailed, UsageError
from assay.core.lineage import fingerprint
from assay.core.scores import Direction
from assay.core.trial import ALL, KEPT, RANDOM
from assay.experiments import claims, trials
from assay.experiments import plan as plans
from assay.experiments.choose import choose
from assay.experiments.claims import corrected
from assay.experiments.detection import check_dataset
from assay.experiments.plan import plan_of
from assay.experiments.power import seeds_needed
from assay.experiments.progress import Progress
from assay.experiments.report_data import report_data
from assay.experiments.score import score
from assay.experiments.trials import arms, redrawn, train_arm
from assay.experiments.verify import verify
from assay.maths import draws
from assay.maths.statistics import holm, pairs_needed
from assay.runs.artefacts import (
    load_json,
    load_outcome,
    load_truth,
    load_verdict,
    save_json,
    save_outcome,
    save_scores,
    save_verdict,
)
from assay.runs.run import Run
from experiments import small


def decided(run, policy="top_k", by="aum", **options):
    return choose(score(run, by)[by], policy, **(options or {"keep": 0.9}))


def weighted(run):
    """The first ten examples count half."""
    actions = torch.full((len(run.ids),), int(Action.KEEP))
    actions[:10] = int(Action.WEIGHT)
    return Decision(
        ids=run.ids,
        actions=actions,
        labels=torch.full((len(run.ids),), -1),
        weights=torch.where(actions == Action.WEIGHT, 0.5, 1.0).to(torch.float64),
        reasons=("by hand",) * len(run.ids),
        policy="hand",
        options={},
        title="ten at half weight",
    )


def results(verdict):
    """What the retrainings found, without how long they took."""
    return [(one.arm, one.seed, one.accuracy, one.loss, one.examples, one.steps) for one in verdict.outcomes]


class Told(Progress):
    def __init__(self):
        self.words = []

    def advance(self, task, done, total, words=""):
        self.words.append((done, total, words))


def test_the_random_arm_drops_as_many_as_the_decision_touches(run):
    decision = decided(run)
    kept, random, everything = arms(decision, run.labels, seed=1)
    assert [arm.name for arm in (kept, random, everything)] == [KEPT, RANDOM, ALL]
    assert kept.ids == decision.kept_ids and everything.ids == run.ids
    assert len(random.ids) == len(kept.ids) == 357 and random.ids != kept.ids
    assert torch.equal(random.labels, run.labels[run.ids.positions(random.ids)])
    assert arms(decision, run.labels, seed=1)[1].ids == random.ids != arms(decision, run.labels, seed=2)[1].ids


def test_relabelled_examples_stay_with_their_new_label(run):
    decision = decided(run, "relabel", count=30)
    kept, random, everything = arms(decision, run.labels, seed=1)
    touched = int(decision.touched.sum())
    assert kept.ids == run.ids == random.ids and touched > 0
    assert int((kept.labels != run.labels).sum()) == touched == int((random.labels != run.labels).sum())
    assert not torch.equal(kept.labels != run.labels, random.labels != run.labels)
    assert set(random.labels.tolist()) <= set(run.labels.tolist())
    assert torch.equal(everything.labels, run.labels) and bool((kept.weights == 1).all())
    other = arms(decision, run.labels, seed=2)[1]
    assert not torch.equal(random.labels, other.labels), "the control is drawn anew for each seed"


def mixed(run, **actions):
    """Some dropped, some relabelled, some weighted, in this order, by hand."""
    counts = {"drop": 0, "relabel": 0, "weight": 0, **actions}
    ends = np.cumsum(list(counts.values()))
    place = torch.arange(len(run.ids))
    drop, relabel, weight = (place < ends[0]), (place >= ends[0]) & (place < ends[1]), (place >= ends[1]) & (place < ends[2])
    actions = torch.full((len(run.ids),), int(Action.KEEP))
    for which, action in ((drop, Action.DROP), (relabel, Action.RELABEL), (weight, Action.WEIGHT)):
        actions[which] = int(action)
    weights = torch.where(weight, 1.5 + place / 1000, torch.where(drop, 0.0, 1.0)).to(torch.float64)
    return Decision(
        ids=run.ids,
        actions=actions,
        labels=torch.where(relabel, (run.labels + 1) % 10, -1),
        weights=weights,
        reasons=("by hand",) * len(run.ids),
        policy="hand",
        options={},
        title="mixed",
    )


@pytest.mark.parametrize(
    ("actions", "control"),
    [
        ({"drop": 40}, "random removal of equal size"),
        ({"relabel": 40}, "random relabelling of equal size"),
        ({"weight": 397}, "random weighting of equal size"),
        ({"drop": 30, "relabel": 20, "weight": 347}, "random removal and relabelling and weighting of equal size"),
    ],
)
def test_the_control_does_the_same_to_random_examples(run, actions, control):
    decision = mixed(run, **actions)
    kept, random, _ = arms(decision, run.labels, seed=1)
    assert len(random.ids) == len(kept.ids) == len(run.ids) - actions.get("drop", 0)
    assert sorted(random.weights.tolist()) == sorted(kept.weights.tolist()) and random.fingerprint != kept.fingerprint
    given = run.labels[run.ids.positions(random.ids)]
    assert int((random.labels != given).sum()) == actions.get("relabel", 0)
    assert random.fingerprint != arms(decision, run.labels, seed=2)[1].fingerprint
    seen = []
    verdict = verify(decision, run=run, seeds=3, retrain=lambda ids, labels, weights, seed: seen.append(seed) or 0.5)
    assert verdict.comparisons[0].control == control and f"The decision and {control}:" in verdict.comparisons[0].sentence
    assert len(seen) == 9 and verdict.comparisons[1].baseline == ALL


def test_a_whole_weighted_coreset_is_verified_by_the_runs_own_plan(run):
    """Every example that stays has another weight, as those of CRAIG and GradMatch have."""
    verdict = verify(mixed(run, drop=200, weight=197), run=run, seeds=2)
    assert {one.arm: one.examples for one in verdict.outcomes} == {KEPT: 197, RANDOM: 197, ALL: 397}
    assert len({one.accuracy for one in verdict.outcomes}) > 1


@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_arm_travels_between_processes_without_shared_memory(run, which):
    arm = arms(decided(run, "relabel", count=30), run.labels, seed=1)[which]
    arm.ids.positions(arm.ids)
    assert len(arm.ids.ranks) == len(arm.ids), "what ids remember for themselves are tensors too"
    body = ForkingPickler.dumps(arm)
    back = pickle.loads(body)
    assert b"rebuild_storage" not in bytes(body) and back.fingerprint == arm.fingerprint and back.name == arm.name


def test_weights_reach_the_training(run):
    decision = weighted(run)
    kept, random, everything = arms(decision, run.labels, seed=1)
    assert kept.weights[:10].tolist() == [0.5] * 10 and random.ids == run.ids
    assert sorted(random.weights.tolist()) == sorted(kept.weights.tolist())
    plain = small.plan().plain()
    assert train_arm(plain, kept, 1).loss != train_arm(plain, everything, 1).loss
    same = dataclasses.replace(kept, weights=torch.ones_like(kept.weights))
    assert train_arm(plain, same, 1).loss == train_arm(plain, everything, 1).loss


def test_a_decision_that_changes_nothing_is_refused(run):
    with pytest.raises(UsageError, match=r"top_k:keep=1\.0 by aum leaves all 397 examples as they are"):
        verify(decided(run, keep=1.0), run=run, seeds=2)
    same = mixed(run, relabel=5)
    same = dataclasses.replace(same, labels=torch.where(same.labels >= 0, run.labels, -1))
    with pytest.raises(UsageError, match="leaves all 397 examples as they are"):
        verify(same, run=run, seeds=2)


def test_arms_that_train_on_the_same_make_no_difference(run):
    """All get the same weight, so that a random choice of as many is the same choice."""
    verdict = verify(
        dataclasses.replace(mixed(run, weight=397), weights=torch.full((397,), 2.0, dtype=torch.float64)), run=run, seeds=3
    )
    by_arm = {arm: [row[1:] for row in results(verdict) if row[0] == arm] for arm in (KEPT, RANDOM, ALL)}
    assert by_arm[KEPT] == by_arm[RANDOM] != by_arm[ALL]
    comparison = verdict.comparisons[0]
    assert comparison.effect == 0 and comparison.p == 1 and not comparison.significant and comparison.low is None
    assert (
        "no significant difference (+0.00 points of test accuracy, no interval, because every seed shows the same"
        in comparison.sentence
    )


def test_seeds_are_fresh_and_paired(run):
    verdict = verify(decided(run), run=run, seeds=3)
    assert {(one.arm, one.seed) for one in verdict.outcomes} == {(arm, seed) for arm in (KEPT, RANDOM, ALL) for seed in (1, 2, 3)}
    by_seed = {(one.arm, one.seed): one.accuracy for one in verdict.outcomes}
    differences = [by_seed[KEPT, seed] - by_seed[RANDOM, seed] for seed in (1, 2, 3)]
    assert verdict.comparisons[0].effect == pytest.approx(np.mean(differences)) and verdict.comparisons[0].n == 3
    assert verdict.plan == small.plan().plain()
    assert verdict.lineage.parents == {"run": run.fingerprint, "decision": decided(run).fingerprint}


@pytest.mark.parametrize(("recipe", "room"), [({}, "model."), ({"clip": 0.3, "ema": 0.99}, "average.")])
def test_a_whole_retraining_is_the_recorded_training(run, recipe, room, tmp_path):
    plan = small.plan(recipe=recipe)
    run = small.recorded(tmp_path / "run", recipe=recipe) if recipe else run
    everything = arms(decided(run), run.labels, seed=0)[2]
    outcome = train_arm(plan.plain(), everything, 0)
    loaded = plan.load()
    model = plan.build(loaded, 0)
    state = run.checkpoint(run.epochs - 1).read_all()
    model.load_state_dict({name.removeprefix(room): value for name, value in state.items() if name.startswith(room)})
    with torch.no_grad():
        right = model(loaded.test.prepared(loaded.test.inputs)).argmax(1) == loaded.test.labels
    assert outcome.accuracy == pytest.approx(float(right.double().mean()), abs=1e-12) and outcome.steps == 21


@pytest.mark.slow
def test_where_trials_run_does_not_change_them(own):
    decision = decided(own)
    inline = verify(decision, run=own, seeds=2)
    with executor("processes", workers=1) as pool:
        assert results(verify(decision, run=own, seeds=2, execution=assay.Execution(pool=pool))) == results(inline)


def test_any_executor_will_do(tmp_path):
    run = small.recorded(tmp_path / "run", net="mlp:widths=16")
    decision = decided(run)
    inline = verify(decision, run=run, seeds=2)
    with ThreadPoolExecutor(4) as pool:
        assert results(verify(decision, run=run, seeds=2, execution=assay.Execution(pool=pool))) == results(inline)


def test_finished_trials_are_taken_from_disk(own, monkeypatch):
    decision = decided(own)
    first = verify(decision, run=own, seeds=2, save=True)
    ran = []
    original = train_arm
    monkeypatch.setattr(
        trials, "train_arm", lambda plain, arm, seed, *more: ran.append((arm.name, seed)) or original(plain, arm, seed, *more)
    )
    told = Told()
    assert verify(decision, run=own, seeds=2, save=True, execution=assay.Execution(progress=told)).outcomes == first.outcomes
    assert not ran and told.words == [(6, 6, "taken from an earlier verification")]
    (lost,) = own.paths.trials.glob("*/random-2.json")
    lost.unlink()
    (damaged,) = own.paths.trials.glob("*/kept-1.json")
    damaged.write_text(damaged.read_text()[:20])
    again = verify(decision, run=own, seeds=2, save=True)
    assert ran == [(KEPT, 1), (RANDOM, 2)] and results(again) == results(first)
    more = verify(decision, run=own, seeds=3, save=True)
    assert ran[2:] == [(KEPT, 3), (RANDOM, 3), (ALL, 3)] and results(first)[0] == results(more)[0]


def test_another_decision_shares_only_what_is_the_same(own, monkeypatch):
    verify(decided(own), run=own, seeds=2, save=True)
    ran = []
    original = train_arm
    monkeypatch.setattr(
        trials, "train_arm", lambda plain, arm, seed, *more: ran.append((arm.name, seed)) or original(plain, arm, seed, *more)
    )
    verify(decided(own, by="loss", policy="bottom_k", keep=0.9), run=own, seeds=2, save=True)
    assert (ALL, 1) not in ran and (RANDOM, 1) not in ran and (KEPT, 1) in ran


def test_nothing_is_kept_unless_asked(own):
    verify(decided(own), run=own, seeds=2)
    assert not list(own.paths.trials.glob("*/*.json"))


def test_detection_and_cleaning_are_held_against_the_truth(run):
    table, decision = score(run, ["aum", "variability"]), decided(run, "relabel", count=40)
    verdict = verify(decision, run=run, scores=table, seeds=2)
    ids, true = load_truth(run.paths.truth)
    wrong = run.labels != true
    found = {one.title: one for one in verdict.detections}
    for title, one in found.items():
        suspicion = table[title].hardness()
        pairs = suspicion[wrong][:, None] - suspicion[~wrong]
        assert one.auc == pytest.approx(float((pairs.sign() / 2 + 0.5).mean()), abs=1e-12)
        above = suspicion >= suspicion[wrong][:, None]
        assert one.average_precision == pytest.approx(float(((above & wrong).sum(1) / above.sum(1)).mean()), abs=1e-6)
    assert found["aum"].auc > 0.9 and found["aum"].claims_suspicion and not found["variability"].claims_suspicion
    cleaning = verdict.cleaning
    assert cleaning.planted == int(wrong.sum()) == 40 and cleaning.touched == int(decision.touched.sum())
    assert cleaning.hit == int((wrong & decision.touched).sum()) and cleaning.mended == int(
        (wrong & (decision.labels == true)).sum()
    )
    assert 0 < cleaning.mended <= cleaning.hit
    given = verify(decision, run=run, scores=table, seeds=2, truth=(ids, true))
    assert given.detections == verdict.detections


def test_without_a_truth_there_is_none_to_hold_against(own):
    own.paths.truth.unlink()
    verdict = verify(decided(own), run=own, scores=score(own, "aum"), seeds=2)
    assert verdict.detections == () and verdict.cleaning is None


def test_when_all_labels_are_right_there_is_nothing_to_detect(tmp_path):
    run = small.recorded(tmp_path / "run", plant={"rate": 0.0})
    verdict = verify(decided(run), run=run, scores=score(run, "aum"), seeds=2)
    assert verdict.detections == () and verdict.cleaning.planted == 0 == verdict.cleaning.hit


def test_scores_of_right_labels_only_detect_nothing(run):
    """A window may hold some examples only."""
    table = score(run, ["aum", "loss"])
    ids, true = load_truth(run.paths.truth)
    right = (run.labels == true[ids.positions(run.ids)]).nonzero().flatten()
    some = {
        "right": dataclasses.replace(
            table["aum"], ids=run.ids.take(right), values=table["aum"].of(run.ids.take(right)), title="right"
        ),
        "loss": table["loss"],
    }
    verdict = verify(decided(run), run=run, scores=some, seeds=2)
    assert [one.title for one in verdict.detections] == ["loss"] and verdict.cleaning.planted == 40


def test_a_decision_made_by_the_test_examples_is_not_judged_by_them(tmp_path):
    run = small.recorded(tmp_path / "run", validation=0.2)
    title = "sgd_influence:target=test"
    decision = decided(run, by=title)
    with pytest.raises(UsageError, match=f"by {title} was made by target test, which are the test examples"):
        verify(decision, run=run, seeds=2)
    again = decided(run, by="sgd_influence")
    assert len(verify(again, run=run, seeds=2).outcomes) == 6
    # What a function of one's own judges by is its own.
    assert len(verify(decision, run=run, seeds=2, retrain=lambda *given: 0.5).outcomes) == 6


def test_the_verdict_survives_the_disk(run, tmp_path):
    verdict = verify(decided(run), run=run, scores=score(run, "aum"), seeds=2)
    save_verdict(verdict, tmp_path / "verdict.json")
    assert load_verdict(tmp_path / "verdict.json") == verdict


def test_a_trial_that_fails_names_its_log(tmp_path):
    changed = {"record": {"view": "eval"}, "recipe": {"last_batch": "drop", "batch": 390}}
    run = small.recorded(tmp_path / "run", **changed)
    with pytest.raises(TrialFailed, match="Trial kept-1 failed") as caught:
        verify(decided(run), run=run, seeds=2, save=True)
    log = run.paths.trials / "logs" / "kept-1.log"
    assert str(log) in str(caught.value) and "357 examples do not fill one batch of 390" in log.read_text()
    assert "do not fill one batch" in str(caught.value)


def looped(folder, labels=None, **about):
    """A run of somebody's own loop."""
    loaded = small.plan().load()
    inputs, labels = loaded.train.prepared(loaded.train.inputs), loaded.train.labels if labels is None else labels
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=64, shuffle=True)
    with assay.record(folder, model, optimizer, loader, seed=5, about=about or None) as recorder:
        for _ in range(3):
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    return Run(folder)


def test_a_loop_of_ones_own_is_verified_by_a_function_of_ones_own(tmp_path):
    run = looped(tmp_path / "run")
    decision = decided(run)
    with pytest.raises(UsageError, match=r"give verify\(\.\.\., retrain=FUNCTION\)"):
        verify(decision, run=run)
    calls = []

    def retrain(ids, labels, weights, seed):
        calls.append((len(ids), len(labels), float(weights.sum()), seed))
        return 0.5 + len(ids) / 1000 + seed / 10000

    told = Told()
    verdict = verify(decision, run=run, retrain=retrain, seeds=2, execution=assay.Execution(progress=told))
    assert calls == [(*sizes, seed) for seed in (6, 7) for sizes in [(357, 357, 357.0)] * 2 + [(397, 397, 397.0)]]
    assert verdict.plan == {"retrain": "retrain"} and verdict.comparisons[1].effect == pytest.approx(-0.04)
    assert verdict.outcomes[0].loss is None and len(told.words) == 7
    with pytest.raises(UsageError, match="save=True does not go with retrain="):
        verify(decision, run=run, retrain=retrain, seeds=2, save=True)


@pytest.mark.parametrize(
    "answer", [float("nan"), 93.2, "well", "0.5", True, np.bool_(True), None, (0.5, 0.1), 1j, torch.zeros(2)]
)
def test_an_answer_that_is_no_accuracy_is_refused(run, answer):
    with pytest.raises(
        TrialFailed, match=r"kept-1 .*NumericalError: retrain returned .* seed 1; return an accuracy in 0\.\.1; its log"
    ):
        verify(decided(run), run=run, retrain=lambda *_: answer, seeds=2)


def test_what_a_loop_says_of_itself_is_no_plan(tmp_path):
    run = looped(tmp_path / "run", plan="as in the paper", net="mine", recipe={"lr": 1})
    with pytest.raises(UsageError, match="your own loop"):
        plan_of(run)


def test_one_seed_is_refused_before_any_training(run):
    with pytest.raises(UsageError, match="seeds=1"):
        verify(decided(run), run=run, seeds=1)


@pytest.mark.parametrize("keep", [0.0, 0.001])
def test_a_decision_that_keeps_nothing_is_refused(run, keep):
    with pytest.raises(UsageError, match="keeps none of 397 examples, so that there is nothing to train on"):
        verify(decided(run, keep=keep), run=run, seeds=2)


def test_parts_of_other_datasets_are_refused(run, tmp_path):
    other = small.recorded(tmp_path / "other", plant={"seed": 9})
    with pytest.raises(Mismatch, match=f"decision top_k:keep=0.9 by aum is on dataset {other.dataset}"):
        verify(decided(other), run=run, seeds=2)
    with pytest.raises(Mismatch, match=f"scores loss are of dataset {other.dataset}"):
        verify(decided(run), run=run, scores=score(other, "loss"), seeds=2)


def test_what_was_chosen_from_the_run_alone_is_verified_and_drawn_anew(run):
    drawn = redrawn(choose(run, "random:keep=0.9,seed=4"), run)
    assert drawn is not None and len({drawn(seed).fingerprint for seed in range(3)}) == 3
    decision = choose(run, "k_center:keep=0.2")
    assert redrawn(decision, run) is None
    verdict = verify(decision, run=run, seeds=2)
    assert {one.examples for one in verdict.outcomes if one.arm != "all"} == {79} and verdict.decision == "k_center:keep=0.2"
    other = dataclasses.replace(decision.lineage, parents={**decision.lineage.parents, "run": "another"})
    with pytest.raises(Mismatch, match="was made from recording another"):
        verify(dataclasses.replace(decision, lineage=other), run=run, seeds=2)


def test_a_decision_that_an_earlier_assay_made_by_these_scores_is_theirs(run):
    by = score(run, "aum")
    decision = choose(by["aum"], "random:keep=0.9,seed=4", run=run)
    earlier = fingerprint(*by["aum"]._content)
    assert decision.lineage.parents["scores"] == by["aum"].fingerprint != earlier

    def made_by(parent):
        return dataclasses.replace(
            decision, lineage=dataclasses.replace(decision.lineage, parents={**decision.lineage.parents, "scores": parent})
        )

    check_dataset(run, by.values(), made_by(earlier))
    assert redrawn(made_by(earlier), run, by.values()) is not None
    turned = dataclasses.replace(by["aum"], direction=Direction.HIGH_IS_SUSPECT)
    for other, parent in ((turned, by["aum"].fingerprint), (dataclasses.replace(turned, values=-turned.values), earlier)):
        with pytest.raises(Mismatch, match="was made by scores"):
            check_dataset(run, [other], made_by(parent))
        assert redrawn(made_by(parent), run, [other]) is None


def test_a_decision_without_a_run_needs_one(run):
    bare = dataclasses.replace(decided(run), lineage=None)
    with pytest.raises(UsageError, match="give run=PATH"):
        verify(bare, seeds=2)
    assert results(verify(bare, run=run, seeds=2)) == results(verify(decided(run), seeds=2))


def test_data_that_changed_since_are_noticed(tmp_path):
    path = tmp_path / "d.npz"
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(60, 3)), np.arange(60) % 2
    np.savez(path, inputs=rows, labels=labels)
    run = small.recorded(tmp_path / "run", data=f"arrays:path={path},test=0.5", plant=None)
    first = verify(decided(run), run=run, seeds=2, save=True)
    np.savez(path, inputs=rows + 1, labels=labels)
    plans._loaded.cache_clear()
    with pytest.raises(Mismatch, match="restore the data or record again"):
        verify(decided(run), run=run, seeds=2, save=True)
    np.savez(path, inputs=rows, labels=labels)
    assert verify(decided(run), run=run, seeds=2, save=True).outcomes == first.outcomes
    assert json.loads(run.paths.header.read_text())["about"]["content"] == plan_of(run).load().train.content


def test_a_trial_does_not_depend_on_whose_executor_it_ran_in(tmp_path):
    """Nor on the threads that torch happens to have there."""
    run = small.recorded(tmp_path / "run")
    decision = assay.choose(assay.score(run, ["aum"])["aum"], policy="top_k", keep=0.8)
    here = assay.verify(decision, run=run, seeds=2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as pool:
            there = assay.verify(decision, run=run, seeds=2, execution=assay.Execution(pool=pool))
    finally:
        torch.set_num_threads(before)
    assert [(one.accuracy, one.loss) for one in there.outcomes] == [(one.accuracy, one.loss) for one in here.outcomes]


def test_a_verdict_has_a_fingerprint_of_what_was_measured(tmp_path):
    verdict = assay.verify(decided(small.recorded(tmp_path / "run")), run=tmp_path / "run", seeds=2)
    slower = [dataclasses.replace(one, seconds=one.seconds + 1) for one in verdict.outcomes]
    other = [dataclasses.replace(one, accuracy=0.0) for one in verdict.outcomes]
    assert dataclasses.replace(verdict, outcomes=tuple(slower)).fingerprint == verdict.fingerprint
    assert dataclasses.replace(verdict, outcomes=tuple(other)).fingerprint != verdict.fingerprint
    save_verdict(verdict, tmp_path / "verdict.json")
    assert load_verdict(tmp_path / "verdict.json").fingerprint == verdict.fingerprint


def invented(noise=0.01, examples=0.0):
    """A training of no net at all: accuracy is chance by arm and seed, and what each example adds to it whatever the seed."""

    def retrain(ids, labels, weights, seed):
        shared = draws.uniform(np.array([0], dtype=np.uint64), seed, "shared").item()
        own = draws.uniform(ids.keys[:1] ^ np.bitwise_xor.reduce(ids.keys), seed, "own").item()
        worth = (draws.uniform(ids.keys, 7, "worth") - 0.5).sum().item() / len(ids) ** 0.5
        return 0.5 + 0.1 * (shared - 0.5) + noise * (own - 0.5) + examples * worth

    return retrain


def asked_anew(run):
    shutil.rmtree(run.paths.claims, ignore_errors=True)


def test_two_seeds_cannot_tell(run):
    better = lambda ids, labels, weights, seed: 0.9 if len(ids) == 357 and seed < 0 else 0.5 + len(ids) / 1000  # noqa: E731
    verdict = verify(decided(run), run=run, seeds=2, retrain=better)
    for comparison in verdict.comparisons:
        assert comparison.low is None and not comparison.significant and comparison.adjusted is None
        assert "2 seeds cannot tell" in comparison.sentence and "verify with at least 3" in comparison.sentence
        assert " p = " not in comparison.sentence


def test_each_decision_of_a_run_is_corrected_for_its_turn_and_stays_as_it_was_printed(own):
    retrain = invented()
    alone = verify(decided(own), run=own, seeds=4, retrain=retrain)
    assert alone.decisions == 1 and [one.family for one in alone.comparisons] == [2, 2]
    assert [one.adjusted for one in alone.comparisons] == [min(1.0, 2 * p) for p in holm([one.p for one in alone.comparisons])]
    second = verify(decided(own, keep=0.8), run=own, seeds=4, retrain=retrain)
    assert [one.adjusted for one in second.comparisons] == pytest.approx(
        [min(1.0, 6 * p) for p in holm([one.p for one in second.comparisons])]
    )
    assert second.decisions == 2 and [(one.place, one.family) for one in second.comparisons] == [(2, 2)] * 2
    assert "decision 2 of 2 verified on this run so far" in second.scope[2] and "multiplied by 6" in second.scope[2]
    # A verdict that was kept says what it said, and how many were verified since.
    later = corrected(alone, own)
    assert later.comparisons == alone.comparisons and later.decisions == 2
    assert report_data(own, score(own, "aum"), decision=decided(own), verdict=alone).verdict == later
    # The same verification again is the same claim.
    again = verify(decided(own), run=own, seeds=4, retrain=retrain)
    assert again.comparisons == later.comparisons and again.decisions == 2


def test_a_decision_that_is_significant_throughout_passes_its_share_on(own):
    decisions = [decided(own), decided(own, keep=0.8), decided(own, keep=0.7)]
    best = {len(one.kept_ids): one.kept_ids for one in decisions[:2]}

    def retrain(ids, labels, weights, seed):
        return 0.9 + seed / 1e4 + 1e-7 * len(ids) if best.get(len(ids)) == ids else 0.5

    found = [verify(one, run=own, seeds=4, retrain=retrain) for one in decisions]
    assert all(one.significant for verdict in found[:2] for one in verdict.comparisons)
    assert [one.comparisons[0].share for one in found] == pytest.approx([1 / 2, 2 / 3, 3 / 4])
    assert "multiplied by 1.5, its turn, with what decision 1 passed on" in found[1].scope[2]
    # What the first looks passed on stays, whatever later looks find.
    verify(decisions[0], run=own, seeds=6, retrain=lambda ids, labels, weights, seed: 0.5 + seed / 1e4 * (len(ids) % 3))
    assert [corrected(one, own).comparisons for one in found[1:]] == [one.comparisons for one in found[1:]]


def test_claims_of_an_older_assay_have_the_first_turns(own):
    for keep in (0.9, 0.8):
        verify(decided(own, keep=keep), run=own, seeds=3, retrain=invented())
    for path in own.paths.claims.glob("*.json"):
        body = load_json("claim", path)
        del body["place"]
        save_json("claim", body, path)
    third = verify(decided(own, keep=0.7), run=own, seeds=3, retrain=invented())
    assert third.comparisons[0].place == third.decisions == 3
    (path,) = [path for path in own.paths.claims.glob("*.json") if load_json("claim", path).get("place") == 3]
    for place in (-1, 10**400, 2.5):
        save_json("claim", {**load_json("claim", path), "place": place}, path)
        with pytest.raises(RunError, match="is damaged"):
            verify(decided(own, keep=0.7), run=own, seeds=3, retrain=invented())


@pytest.mark.slow
@pytest.mark.parametrize("runs", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_of_ten_random_decisions_of_a_run_none_is_called_anything(own, runs):
    """But in 5 % of runs; uncorrected some decision of ten is, in about a third."""
    claimed = naive = 0
    bound = 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    scores = score(own, "aum")["aum"]
    for number in range(runs):
        asked_anew(own)
        verdicts = []
        for seed in range(10):
            decision = choose(scores, "random", keep=0.5, seed=100 * number + seed)
            verdicts.append(verify(decision, run=own, seeds=assay.Seeds(5, after=5 * number), retrain=invented(0.1)))
        # As they were printed, one after the other; printed again they say the same.
        assert [corrected(one, own).comparisons for one in verdicts] == [one.comparisons for one in verdicts]
        claimed += any(one.comparisons[0].significant or one.comparisons[1].significant for one in verdicts)
        naive += any(comparison.p < 0.05 for one in verdicts for comparison in one.comparisons)
    print(f"{runs} runs: {100 * claimed / runs:.1f} % call something significant, uncorrected {100 * naive / runs:.0f} %")
    assert claimed / runs < bound < naive / runs


def test_seeds_added_until_it_is_significant_find_nothing_more(own):
    """Significant is only what was so at every look; fresh seeds are a claim of their own."""
    answers = {}
    first, then = [0.501, 0.499, 0.500, 0.5005], [0.6, 0.61, 0.605, 0.6, 0.61, 0.605, 0.6, 0.61]

    def retrain(ids, labels, weights, seed):
        return ([*first, *then][seed - 1] if len(ids) == 357 and answers["kept"] == ids else 0.5 + seed / 1e4) - 1e-9 * len(ids)

    decision = decided(own)
    answers["kept"] = decision.kept_ids
    look = verify(decision, run=own, seeds=4, retrain=retrain)
    assert not look.comparisons[0].significant and look.comparisons[0].looks == ()
    more = verify(decision, run=own, seeds=12, retrain=retrain)
    comparison = more.comparisons[0]
    assert comparison.p < 0.001 and comparison.adjusted > 0.05 and not comparison.significant and comparison.looks == (4,)
    assert "corrected for 2 comparisons of decision 1 on this run and earlier looks with 4 seeds" in comparison.sentence
    assert "It was looked at with 4 seeds before" in more.scope[-1] and "--after 4" in more.scope[-1]
    fresh = verify(decision, run=own, seeds=assay.Seeds(8, after=4), retrain=retrain)
    assert {one.seed for one in fresh.outcomes} == set(range(5, 13))
    assert fresh.comparisons[0].significant and fresh.comparisons[0].place == 2 and fresh.comparisons[0].looks == ()


@pytest.mark.slow
@pytest.mark.parametrize("runs", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_a_difference_that_is_none_is_not_found_by_looking_often(own, runs):
    claimed = naive = 0
    bound = 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    scores = score(own, "aum")["aum"]
    for number in range(runs):
        asked_anew(own)
        found = []
        for seeds in (3, 4, 5, 7, 10, 15):
            decision = choose(scores, "random", keep=0.5, seed=number)
            found += verify(decision, run=own, seeds=assay.Seeds(seeds, after=20 * number), retrain=invented(0.1)).comparisons
        claimed += any(one.significant for one in found)
        naive += any(one.p < 0.05 for one in found)
    print(f"{runs} runs: {100 * claimed / runs:.1f} % call something significant, uncorrected {100 * naive / runs:.0f} %")
    assert claimed / runs < bound < naive / runs


@pytest.mark.slow
@pytest.mark.parametrize("runs", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_a_random_removal_is_no_better_than_another(own, runs):
    """Where the choice of examples matters more than the seed: each seed has its own draw, so that no draw's luck is called a finding."""
    bound = 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    scores, found, fixed = score(own, "aum")["aum"], 0, 0
    for number in range(runs):
        decision = choose(scores, "random", keep=0.3, seed=number)
        for lineage in (decision.lineage, dataclasses.replace(decision.lineage, parents={})):
            asked_anew(own)
            one = dataclasses.replace(decision, lineage=lineage)
            verdict = verify(
                one, run=own, scores={"aum": scores}, retrain=invented(0.02, examples=0.05), seeds=assay.Seeds(after=5 * number)
            )
            assert verdict.redrawn == bool(lineage.parents)
            if verdict.redrawn:
                found += verdict.comparisons[0].p < 0.05
            else:
                fixed += verdict.comparisons[0].p < 0.05
    print(
        f"{runs} removals: {100 * found / runs:.1f} % at p < .05 with a draw for each seed, one draw for all {100 * fixed / runs:.0f} %"
    )
    assert found / runs < bound < fixed / runs


def test_a_policy_with_a_seed_is_drawn_anew_for_each_seed(own):
    scores = score(own, "aum")["aum"]
    decision = choose(scores, "ccs", keep=0.5, cutoff=0.1, seed=3)
    draw = redrawn(decision, own, [scores])
    assert draw(1).fingerprint == draw(1).fingerprint != draw(2).fingerprint != decision.fingerprint
    assert draw(1).budget == decision.budget
    assert redrawn(decision, own) is None, "its scores are nowhere"
    save_scores(scores, own.paths.scores("aum"))
    assert redrawn(decision, own)(1).fingerprint == draw(1).fingerprint
    # By hand changed, or made by no draw.
    other = choose(scores, "ccs", keep=0.5, cutoff=0.1, seed=4)
    assert redrawn(dataclasses.replace(decision, actions=other.actions, weights=other.weights), own) is None
    assert redrawn(decided(own), own) is None
    verdict = verify(decision, run=own, seeds=3)
    assert verdict.redrawn and verdict.scope[0].startswith("Each seed had its own draw of the decision")
    assert (
        verify(decided(own), run=own, seeds=3).scope[0].startswith("This speaks of these very examples and of this very test set")
    )


@pytest.mark.parametrize(("source", "copy"), [("kept-1", "kept-2"), ("random-1", "kept-1"), ("all-2", "all-1")])
def test_a_copied_trial_counts_for_nothing(own, source, copy, monkeypatch):
    first = verify(decided(own), run=own, seeds=2, save=True)
    (source,), (copy,) = own.paths.trials.glob(f"*/{source}.json"), own.paths.trials.glob(f"*/{copy}.json")
    copy.write_bytes(source.read_bytes())
    ran = []
    original = train_arm
    monkeypatch.setattr(
        trials, "train_arm", lambda plain, arm, seed, *more: ran.append(f"{arm.name}-{seed}") or original(plain, arm, seed, *more)
    )
    assert results(verify(decided(own), run=own, seeds=2, save=True)) == results(first) and ran == [copy.stem]


def test_a_trial_of_another_decision_counts_for_nothing(own, monkeypatch):
    """Arm and seed fit, what was trained does not."""
    first = verify(decided(own), run=own, seeds=2, save=True)
    verify(decided(own, keep=0.5), run=own, seeds=2, save=True)
    (mine, other) = sorted(own.paths.trials.glob("*/kept-1.json"), key=lambda path: load_outcome(path).examples, reverse=True)
    mine.write_bytes(other.read_bytes())
    assert results(verify(decided(own), run=own, seeds=2, save=True)) == results(first)


def test_a_damaged_or_copied_claim_is_refused(own):
    verify(decided(own), run=own, seeds=3, retrain=invented())
    (path,) = own.paths.claims.glob("*.json")
    copy = path.with_name("0123456789abcdef.json")
    copy.write_bytes(path.read_bytes())
    with pytest.raises(RunError, match="its name says 0123456789abcdef"):
        verify(decided(own), run=own, seeds=3, retrain=invented())
    copy.write_text("{")
    with pytest.raises(RunError, match="0123456789abcdef"):
        verify(decided(own), run=own, seeds=3, retrain=invented())


def test_how_many_seeds_a_difference_takes(own):
    decision = decided(own)
    nothing = seeds_needed(decision, 0.5, run=own)
    assert nothing.seeds is None and "nothing was retrained on this run yet" in nothing.sentence
    verdict = verify(decision, run=own, seeds=4, save=True)
    found = seeds_needed(decision, 0.5, run=own)
    kept, random, everything = (
        np.array([one.accuracy for one in verdict.outcomes if one.arm == arm]) for arm in (KEPT, RANDOM, ALL)
    )
    spread = max((kept - random).std(ddof=1), (kept - everything).std(ddof=1))
    assert found.spread == pytest.approx(100 * spread) and found.pilot == 4
    # The first step of Holm's correction for two comparisons, of the first decision.
    assert found.seeds == pairs_needed(0.005, spread, 0.05 / 2 / 2)
    assert f"A difference of 0.5 points of test accuracy takes about {found.seeds:,} seeds" in found.sentence
    assert seeds_needed(decision, 5.0, run=own).seeds < found.seeds
    # Of another decision that was verified before, where this one was not.
    save_verdict(verdict, own.paths.verdict("x"))
    other = seeds_needed(decided(own, keep=0.7), 0.5, run=own)
    assert other.spread == pytest.approx(100 * spread) and other.seeds == pairs_needed(0.005, spread, 0.05 / 2 / 6)
    with pytest.warns(UserWarning, match=r"A difference of 0\.1 points .* This verification has 3"):
        told = verify(decision, run=own, seeds=assay.Seeds(3, detect=0.1), save=True)
    assert told.power.startswith("A difference of 0.1 points")
    for wrong in (0, -1, float("nan"), True, "one"):
        with pytest.raises(UsageError, match=r"is no difference in percentage points|points= is"):
            seeds_needed(decision, wrong, run=own)


@pytest.mark.parametrize("after", [-1, 1.5, True, "two"])
def test_seeds_to_leave_out_are_a_number(run, after):
    with pytest.raises(UsageError, match="leaves out less than no seed" if after == -1 else "after= is .*; give a whole number"):
        verify(decided(run), run=run, seeds=assay.Seeds(after=after))


def test_a_number_of_seeds_alone_says_so_and_saving_is_one_of_three(run):
    given = {"run": run, "retrain": invented(0.1)}
    decision = decided(run)
    plain, named = (verify(decision, **given, seeds=seeds) for seeds in (3, assay.Seeds(3)))
    assert [one.accuracy for one in plain.outcomes] == [one.accuracy for one in named.outcomes]
    for save, words in (("anew", "save='anew' is no way of saving"), ("recompute", "save='recompute' does not go with retrain=")):
        with pytest.raises(UsageError, match=words):
            verify(decision, **given, save=save)


def test_forged_trials_are_believed_unless_everything_is_trained_again(own):
    decision = decided(own)
    honest = verify(decision, run=own, seeds=2, save=True)
    (path,) = own.paths.trials.glob("*/kept-1.json")
    made_of = json.loads(path.read_text())["made_of"]
    # With its checksum made anew, nobody can tell it from a real one.
    save_outcome(dataclasses.replace(load_outcome(path), accuracy=1.0), path, made_of)
    assert results(verify(decision, run=own, seeds=2, save=True)) != results(honest)
    again = verify(decision, run=own, seeds=2, save="recompute")
    assert results(again) == results(honest) and load_outcome(path).accuracy < 1


def test_a_verdict_is_not_lost_with_a_claim_that_cannot_be_kept(own, monkeypatch):
    def refuse(*_):
        raise NotWritten("claims were not written: the file system is read-only.")

    kept = verify(decided(own), run=own, seeds=3, retrain=invented())
    shutil.rmtree(own.paths.claims)
    monkeypatch.setattr(claims, "save_claim", refuse)
    with pytest.warns(UserWarning, match=r"read-only\. So later verifications of this run are not corrected for this one"):
        verdict = verify(decided(own), run=own, seeds=3, retrain=invented())
    assert verdict.comparisons == kept.comparisons


def test_damaged_claims_are_refused_before_anything_is_trained(own):
    verify(decided(own), run=own, seeds=3, retrain=invented())
    (path,) = own.paths.claims.glob("*.json")
    path.write_text("{")
    calls = []
    with pytest.raises(RunError, match=path.name):
        verify(decided(own), run=own, seeds=3, retrain=lambda *given: calls.append(given) or 0.5)
    assert not calls
