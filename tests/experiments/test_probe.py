import dataclasses
import pickle
import shutil
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest
import torch

import assay
from assay.core.errors import Mismatch, MissingEvidence, RunError, UsageError
from assay.core.ids import Ids
from assay.core.probe import Probe, ProbedMethod
from assay.core.wrong_labels import count_of_margins
from assay.data.corruption import flipped_labels
from assay.experiments import probe as probing
from assay.experiments.plan import plan_of
from assay.experiments.probe import Flips, confusions, probe
from assay.maths.planted_counts import PlantedCount
from assay.methods.loss import Loss
from assay.runs.artefacts import load_probe, load_truth, save_json
from assay.runs.run import Run
from experiments import small
from experiments.test_verify import looped

FEW = Flips(rate=0.06)


class Unregistered(Loss):
    """A method that no catalogue has."""

    name = "unregistered"


@pytest.fixture(scope="module")
def probed(run, tmp_path_factory):
    """A run of its own that was probed."""
    own = small.copied(run, tmp_path_factory.mktemp("probe") / "run")
    return own, probe(own, flips=FEW)


def test_methods_that_find_the_flipped_labels_are_told(probed):
    _, found = probed
    assert {one.title for one in found.methods} >= {"aum", "loss", "confidence", "correctness"}
    assert found.examples == 397 and 15 <= found.flipped <= 34 and found.inspected >= found.flipped
    first = found.methods[0]
    assert first.adjusted is None and first.title == found.best and all(one.adjusted is not None for one in found.methods[1:])
    assert max(one.auc for one in found.methods) == first.auc > 0.85 and first.low < first.auc < first.high
    assert f"Of {found.flipped} labels flipped among 397" in found.sentence and (found.recall is None or 0 < found.recall <= 1)


def test_the_flipped_recording_is_of_the_same_training_under_other_labels(probed):
    run, found = probed
    again = Run(next(path for path in (run.folder / "probes").iterdir() if path.is_dir()))
    assert int((again.labels != run.labels).sum()) == found.flipped and again.ids == run.ids
    kept, made = plan_of(run).plain(), plan_of(again).plain()
    assert {name: value for name, value in made.items() if name != "probe"} == kept
    assert torch.equal(again.labels, flipped_labels(run.labels, 10, run.ids.keys, **{"rate": None, **made["probe"]}))


def test_the_flipped_recording_is_the_same_wherever_it_is_made(probed, tmp_path):
    run, found = probed
    own = small.copied(Run(run.folder), tmp_path / "run")
    shutil.rmtree(own.folder / "probes")
    # As any executor that is not of this process: what it is given must be sent.
    with ThreadPoolExecutor(1) as pool:
        made = probe(own, flips=FEW, execution=assay.Execution(Sending(pool)))
    assert made.methods == found.methods
    first, again = (Run(next(path for path in (one.folder / "probes").iterdir() if path.is_dir())) for one in (run, own))
    assert first.fingerprint == again.fingerprint


class Sending(Executor):
    """Gives calls to another executor as they arrive elsewhere."""

    def __init__(self, pool):
        self._pool = pool

    def submit(self, fn, /, *args, **kwargs):
        return self._pool.submit(*pickle.loads(pickle.dumps((fn, *args))), **kwargs)


def test_a_finished_probe_is_taken_from_the_folder_and_other_methods_cost_no_training(probed):
    run, found = probed
    again = probe(run, flips=FEW)
    assert again == dataclasses.replace(found, lineage=again.lineage) and again.fingerprint == found.fingerprint
    folder = next(path for path in (run.folder / "probes").iterdir() if path.is_dir())
    commits = (folder / "commits.jsonl").read_bytes()
    less = probe(run, ["loss"], flips=FEW)
    assert [one.title for one in less.methods] == ["loss"] and (folder / "commits.jsonl").read_bytes() == commits
    assert load_probe(run.paths.probe("confusion-0.06-0")).methods == less.methods
    assert less.methods[0].auc == next(one.auc for one in found.methods if one.title == "loss")
    own = probe(run, ["all", "loss", Unregistered()], flips=FEW)
    assert {one.title for one in own.methods} == {one.title for one in found.methods} | {"unregistered"}


def test_confusions_go_where_the_model_does():
    probs = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0]])
    made = confusions(probs, torch.tensor([0, 1, 1]), 0.1)
    assert made.sum(1).tolist() == pytest.approx([1, 1, 1]) and made.diag().tolist() == pytest.approx([0.9] * 3)
    assert made[0].tolist() == pytest.approx([0.9, 0.1, 0]) and made[2].tolist() == pytest.approx([0.05, 0.05, 0.9])


def test_a_loop_of_ones_own_is_recorded_by_its_function(tmp_path):
    run = looped(tmp_path / "mine")

    def again(labels, folder):
        looped(folder, labels=labels)

    with pytest.raises(UsageError, match="record=FUNCTION"):
        probe(run, flips=Flips(0.3, "uniform"))
    found = probe(run, "loss", flips=Flips(0.3, "uniform"), record=again)
    assert [one.title for one in found.methods] == ["loss"] and found.kind == "uniform"
    other = looped(tmp_path / "other")
    with pytest.raises(Mismatch, match="other ids or labels"):
        probe(other, "loss", flips=Flips(0.3, "uniform"), record=lambda labels, folder: looped(folder))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"methods": "entropy"}, "ranks difficulty"),
        ({"flips": Flips(0.01)}, "flip at least 10"),
        ({"methods": []}, "name at least one"),
        ({"record": print}, "leave record= out"),
    ],
)
def test_what_cannot_be_probed_is_refused(run, given, words):
    with pytest.raises(UsageError, match=words):
        probe(run, **given)


def test_where_flipped_labels_rank_says_how_many_others_are_wrong(probed):
    run, found = probed
    wrong = int((run.labels != load_truth(run.paths.truth)[1]).sum())
    best = found.methods[0].counted
    assert (
        best.holds == "count"
        and best.low <= wrong == 40 <= best.high < 120
        and "rank like the flipped ones" in found.count_sentence
    )
    assert all(one.counted.low <= one.counted.high for one in found.methods) and found.threshold is None


def test_a_result_of_before_labels_were_counted_is_made_again_from_its_recording(probed):
    run, _ = probed
    path, loss = run.paths.probe("confusion-0.06-0"), probe(run, ["loss"], flips=FEW)
    body = dataclasses.asdict(loss)
    del body["threshold"], body["methods"][0]["counted"]
    save_json("probe", body, path)
    old = load_probe(path)
    assert old.methods[0].auc == loss.methods[0].auc and old.count_sentence == "" == old.methods[0].wrong
    assert probe(run, ["loss"], flips=FEW).methods == loss.methods == load_probe(path).methods


@pytest.fixture(scope="module")
def extra(run, tmp_path_factory):
    """A run of its own whose probe has an extra class."""
    own = small.copied(run, tmp_path_factory.mktemp("extra") / "run")
    return own, probe(own, ["loss"], flips=Flips(kind="extra_class"))


def test_threshold_examples_have_a_class_that_none_truly_has(extra):
    run, found = extra
    folder = next(path for path in (run.folder / "probes").iterdir() if path.is_dir())
    again = Run(folder)
    assert again.classes == 11 and again.ids == run.ids and found.flipped == int((again.labels == 10).sum()) == round(397 / 11)
    assert torch.equal(again.labels[again.labels < 10], run.labels[again.labels < 10])
    wrong = int((run.labels != load_truth(run.paths.truth)[1]).sum())
    counted = found.methods[0].counted
    assert counted.holds == "upper end" and counted.low == 0 and wrong <= counted.high < 120
    assert "given an extra class" in found.sentence and "no wrong label is harder to find" in found.count_sentence


def test_aums_threshold_is_read_off_the_margins_of_the_threshold_examples(extra):
    run, found = extra
    again = Run(next(path for path in (run.folder / "probes").iterdir() if path.is_dir()))
    margins, planted = assay.score(again, "aum")["aum"].of(again.ids), again.labels == 10
    one = found.threshold
    assert one.margin == pytest.approx(float(margins[planted].quantile(0.99))) and one.low < one.count < one.high
    below = sum(
        int((margins[~planted & (run.labels == at)] <= one.margin).sum())
        * int((run.labels == at).sum())
        / int((~planted & (run.labels == at)).sum())
        for at in range(10)
    )
    assert one.count == pytest.approx(below) == pytest.approx(sum(row.count for row in one.by_class))
    assert load_probe(run.paths.probe("extra_class-0.0909091-0")) == dataclasses.replace(found, lineage=found.lineage)
    assert f"{round(one.count)} labels" in found.threshold_sentence


def test_flips_of_labels_that_a_plan_planted_are_other_ones_than_the_plans(run, tmp_path):
    # Under one seed the same ids would flip again, and none of the others be wrong.
    own = small.copied(run, tmp_path / "run")
    planned = plan_of(own).plant
    planted = probing._planted(own, Flips(0.1, planned.kind, plan_of(own).seed if planned.seed is None else planned.seed))
    flipped = probing._planted_labels(own, planted) != own.labels
    wrong = own.labels != load_truth(own.paths.truth)[1]
    assert int((flipped & wrong).sum()) < 0.5 * int(flipped.sum())


def test_a_count_that_the_margins_rule_out_is_not_told():
    ids = Ids(range(600))
    draw = np.random.default_rng(0)
    # 60 planted labels stand first, and 120 that the margins resist stand behind them: errors that are harder to find.
    suspicion = torch.from_numpy(np.concatenate([draw.normal(9, 1, 60), draw.normal(4, 1, 120), draw.normal(0, 1, 420)]))
    known = count_of_margins(ids, torch.from_numpy(np.concatenate([draw.normal(-4, 1, 120), draw.normal(4, 1, 480)])), None)
    assert known.clear and known.low > 90
    flipped = torch.arange(600) < 60
    made = probing._Counting(1 / 9, False, known, 0)
    assert made.of(suspicion, flipped).holds == "contradicted" and made.of(suspicion, flipped).high == 600
    none = count_of_margins(ids, torch.from_numpy(draw.normal(0, 1, 600)), None)
    blind = dataclasses.replace(made, by_margins=none)
    assert not none.clear and blind.of(suspicion, flipped).holds == "unchecked" and blind.of(suspicion, flipped).count == 0
    assert dataclasses.replace(blind, easier=True).of(suspicion, flipped).holds == "unchecked"


def test_each_reason_not_to_count_is_said_in_its_own_words():
    def said(holds, kind="confusion"):
        counted = PlantedCount(40.0, 30.0, 60.0, 0.1, 0.95, holds)
        return Probe(kind, 20, 20, 397, 0, (ProbedMethod("loss", 0.9, 0.8, 0.95, 0.5, 1.0, None, counted),))

    texts = {holds: said(holds).count_sentence for holds in ("count", "upper end", "overlap", "contradicted", "unchecked")}
    assert len(set(texts.values())) == 5 and "about 40 of 397" in texts["count"] and "At most 60" in texts["upper end"]
    assert all("cannot tell" in texts[one] and said(one).methods[0].wrong == "cannot be told" for one in list(texts)[2:])
    assert "cannot be told" in texts["unchecked"] and "at most 60 of 397" in said("upper end", "extra_class").count_sentence


def test_a_wrong_label_is_flipped_to_its_true_class_as_often_as_flips_go_there(run):
    matrix = torch.full((10, 10), 0.02 / 9, dtype=torch.float64).fill_diagonal_(0.98)
    planted = {"kind": "class", "rate": None, "seed": 0, "matrix": matrix.tolist()}
    assert (
        probing.mended_chance(planted, run)
        == pytest.approx(1 / 9)
        == probing.mended_chance({"kind": "uniform", "matrix": None}, run)
    )
    pair = torch.eye(10).roll(1, 1) * 0.02 + torch.eye(10) * 0.98
    assert probing.mended_chance({**planted, "matrix": pair.tolist()}, run) == pytest.approx(1)


def test_a_loop_of_ones_own_gets_labels_of_one_class_more(tmp_path):
    run = looped(tmp_path / "mine")
    seen = []

    def again(labels, folder):
        seen.append(int(labels.max()))
        looped(folder, labels=labels.clamp(max=run.classes - 1))

    with pytest.raises(Mismatch, match="other ids or labels"):
        probe(run, "loss", flips=Flips(0.3, "extra_class"), record=again)
    assert seen == [run.classes]


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": 0.6}, {"kind": "pair"}, {"seed": -1}])
def test_flips_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        Flips(**wrong)


def test_a_run_without_probabilities_flips_by_uniform_only(tmp_path):
    run = small.recorded(tmp_path / "run", record={"mean_probs": False})
    with pytest.raises(MissingEvidence, match="kind='uniform'"):
        assay.probe(run, flips=FEW)


def test_a_probe_of_a_run_without_checkpoints_scores_again_what_is_whole_and_refuses_what_was_stopped(tmp_path):
    run = small.recorded(tmp_path / "run", record={"checkpoints": "none"}, recipe={"epochs": 2})
    first = probe(run, "loss", flips=FEW)
    assert probe(run, ["loss", "confidence"], flips=FEW).flipped == first.flipped
    commits = run.paths.probe_run("confusion-0.06-0") / "commits.jsonl"
    commits.write_bytes(commits.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(RunError, match="remove it, and probe again"):
        probe(run, "correctness", flips=FEW)


def test_a_method_that_cannot_value_the_extra_class_is_left_out_in_words(tmp_path):
    run = small.recorded(tmp_path / "run", validation=0.2)
    with pytest.warns(UserWarning, match="cld is not probed: it does not score all 318 examples"):
        found = probe(run, ["loss", "cld"], flips=Flips(kind="extra_class"))
    assert [one.title for one in found.methods] == ["loss"]
    with pytest.raises(MissingEvidence, match="cld does not score all 318"):
        probe(run, "cld", flips=Flips(kind="extra_class"))
