import dataclasses
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from assay import methods
from assay.core.errors import OutputExists, UnknownName, UsageError
from assay.core.ids import Ids
from assay.experiments.plan import load_data, plan_of
from assay.experiments.score import score
from assay.experiments.trials import Arm, train_arm
from assay.maths import draws
from assay.runs.artefacts import load_outcome, load_scores
from assay.runs.paths import StudyPaths
from assay.runs.run import Run
from assay.studies import liveval, trainings
from assay.studies.liveval import AFTER, EARLY, EVAL, FLIP, PUBLISHED, SCALES, SWEEPS, LiveValGrid, study_liveval

SMALL = {
    "data": "digits:test=1500",
    "net": "logistic",
    "seed": 3,
    "validation": 0.2,
    "recipe": {"epochs": 2, "batch": 32, "lr": 0.1, "momentum": 0.0},
}
LOO = "loo:target=test,form=renormalised"
GRID = LiveValGrid(
    methods=("oti", "liveval", "tracin", "loo:form=renormalised"), num_flip=(5,), num_corrupt=(4,), num_boundary=(4,), num_scores=12, n_epochs=(1, 2), seeds=2,
    delta_min=(1, 3), delta_max=(2, 3), delta_step=(1,), eps_min=(0.2,), eps_max=(0.1, 0.3),
)  # fmt: skip


QUICK = {**SMALL, "recipe": {**SMALL["recipe"], "epochs": 1}}
FEW = LiveValGrid(
    modes=("flip", "early_detection", "train_and_eval"), methods=("oti", "loo:form=renormalised"), num_flip=(5,), num_scores=12, n_epochs=(1,), seeds=1
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of one repetition and epoch, and its folder, which tests only look at."""
    folder = tmp_path_factory.mktemp("study") / "liveval"
    return study_liveval(folder, QUICK, scale="tiny", grid=FEW), folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of all experiments, and its folder."""
    folder = tmp_path_factory.mktemp("study") / "whole"
    return study_liveval(folder, SMALL, scale="tiny", grid=GRID), folder


def base(seed):
    """The data of one repetition, as the plan gives them."""
    return load_data(liveval.Plan.make({**SMALL, "seed": seed}))


def run_of(folder, name, epochs, seed):
    """One recording on altered data."""
    for path in StudyPaths(folder).probes.iterdir():
        run = Run(path)
        if (run.header.seed, run.epochs) == (seed, epochs) and f"{name}-{seed}-record" in plan_of(run).data:
            return run
    raise AssertionError(name)


def flipped(run, seed):
    """Which recorded labels are not those of the data, by the ids of the run."""
    clean = base(seed).train
    return (run.labels != clean.labels[clean.ids.positions(run.ids, "the data")]).numpy()


def test_examples_are_selected_after_epochs_of_their_own(made, tmp_path):
    grid = dataclasses.replace(FEW, modes=("flip", "train_and_eval"), methods=("oti",), n_epochs=None, selection_epochs=1)
    found = study_liveval(tmp_path, SMALL, scale="tiny", grid=grid)
    assert {Run(path).epochs for path in StudyPaths(tmp_path).probes.iterdir()} == {1}
    steps = {load_outcome(path).steps for path in StudyPaths(tmp_path).trial("x", 0).parent.glob("*.json")}
    # Half of 237 examples, and all of them, in batches of 32, for the plan's 2 epochs.
    assert steps == {2 * 4, 2 * 8} and found.settings["selection_epochs"] == 1
    # Flips are found in the training of one epoch, as they were by the plan of one.
    assert found.values(FLIP, "oti", "5") == made[0].values(FLIP, "oti", "5") and "selection_epochs" not in made[0].settings


def test_labels_of_one_class_are_flipped_and_seen_by_what_is_recorded(made):
    seed, (_, folder) = 3, made
    run, clean = run_of(folder, "flip-5-0", 1, seed), base(seed).train
    wrong = flipped(run, seed)
    assert wrong.sum() == 5 and set(run.labels[torch.from_numpy(wrong)].tolist()) == {7}
    assert set(clean.labels[clean.ids.positions(run.ids.take(torch.from_numpy(wrong)), "the data")].tolist()) == {1}
    # Scores are made by what the plan holds out, and new nets are judged by the test part.
    assert load_data(plan_of(run)).test.ids == base(seed).validation.ids


def test_detection_is_among_the_tracked_and_by_the_direction_of_the_score(made):
    study, folder = made
    run = run_of(folder, "flip-5-0", 1, 3)
    wrong = flipped(run, 3)
    order = draws.permutation(run.ids.keys, 3, "study altered")
    rest = [place for place in order.tolist() if not wrong[place]][:7]
    tracked = np.sort([*np.flatnonzero(wrong), *rest])
    values = load_scores(run.paths.scores("oti")).of(run.ids).numpy()[tracked]
    found = np.isin(tracked[np.argsort(values)[:5]], np.flatnonzero(wrong)).mean()
    assert study.values(FLIP, "oti", "5")[3] == study.values(EARLY, "oti", "1")[3] == pytest.approx(found)
    area = study.values(f"{FLIP}: area under the ROC curve", "oti", "5")[3]
    assert area == pytest.approx(roc_auc_score(wrong[tracked], -values))
    # Precision where each flipped label is found, and the mean of these.
    hits = wrong[tracked][np.argsort(values)]
    precision = (hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean()
    for section in (FLIP, EARLY):
        row = study.values(f"{section}: average precision", "oti", "5" if section == FLIP else "1")
        assert row[3] == pytest.approx(precision) == pytest.approx(average_precision_score(wrong[tracked], -values))
    (line,) = (
        line for line in StudyPaths(folder).summary.read_text().splitlines() if line.startswith(f"{FLIP}: average precision,oti")
    )
    assert float(line.rsplit(",", 1)[1]) == pytest.approx(precision)


def test_average_precision_by_hand():
    ids = Ids(range(5))
    case = dataclasses.make_dataclass("Case", ["tracked", "altered", "count"])(ids, ids.take([0, 3]), 2)
    # The first and the fourth of the ranking are altered: 1 of 1 and 2 of 4; of the six pairs four are in order.
    found = liveval.detected(torch.tensor([9.0, 8.0, 1.0, 4.0, 7.0]), case)
    assert found == (0.5, pytest.approx(2 / 3), pytest.approx(3 / 4))


def test_leave_one_out_of_the_tracked_is_that_of_the_method(made, monkeypatch):
    _, folder = made
    run = run_of(folder, "flip-5-0", 1, 3)
    exact = score(run, LOO, strict=True)[LOO].of(run.ids)
    wrong = flipped(run, 3)
    order = draws.permutation(run.ids.keys, 3, "study altered")
    rest = [place for place in order.tolist() if not wrong[place]][:7]
    tracked = torch.from_numpy(np.sort([*np.flatnonzero(wrong), *rest]))
    case = dataclasses.make_dataclass("Case", ["tracked", "seed", "mode", "epochs"])(run.ids.take(tracked), 3, "flip", 1)
    monkeypatch.setattr(liveval, "Retraining", None)  # every one of these trainings was kept
    values = liveval.left_out_values(run, case, methods.parse(LOO), StudyPaths(folder), None, liveval.Progress())
    torch.testing.assert_close(values, exact[tracked], rtol=1e-9, atol=1e-12)


def test_new_nets_are_trained_on_flipped_labels_without_what_was_found(made):
    study, folder = made
    run = run_of(folder, "flip-5-0", 1, 3)
    final = plan_of(run).plain()
    final["data"] = final["data"].replace("record", "final")
    del final["record"]
    loaded = load_data(liveval.Plan.make(final))
    assert loaded.test.ids == base(3).test.ids
    wrong = torch.from_numpy(flipped(run, 3))
    seed = draws.integer(3, "study final")
    for row, stays in (("all", torch.ones_like(wrong)), ("the altered themselves", ~wrong)):
        train = loaded.train.take(loaded.train.ids.positions(run.ids.take(stays), "the data"))
        arm = Arm("kept", train.ids, train.labels, torch.ones(len(train), dtype=torch.float64))
        assert study.values(AFTER, row, "1")[3] == train_arm(final, arm, seed).accuracy


def test_train_and_eval_keeps_the_largest_values(made):
    study, folder = made
    run = run_of(folder, "clean-0-0", 1, 3)
    plain = {**plan_of(run).plain(), "data": plan_of(run).data.replace("record", "final")}
    del plain["record"]
    loaded = load_data(liveval.Plan.make(plain))
    scores = load_scores(run.paths.scores("oti"))
    best = scores.ids.take(torch.from_numpy(np.argsort(-scores.values.numpy(), kind="stable")[: round(len(scores) / 2)].copy()))
    train = loaded.train.take(loaded.train.ids.positions(best, "the data").sort().values)
    arm = Arm("kept", train.ids, train.labels, torch.ones(len(train), dtype=torch.float64))
    value = study.values(EVAL, "oti", "0.5")[3]
    assert value == train_arm(plain, arm, draws.integer(3, "study final")).accuracy
    assert LOO not in study.rows(EVAL) and any(one.row == LOO for one in study.left_out)


@pytest.mark.slow
def test_the_sweep_has_every_window_that_there_can_be(whole):
    study, _ = whole
    steps, largest, thresholds = SWEEPS.values()
    assert study.rows(steps) == ("delta_min=1", "delta_min=3") and study.columns(steps) == ("delta_step=1",)
    # A smallest window of 3 has no largest one of 2, and a lower threshold of 0.2 no upper one of 0.1.
    assert {(one.row, one.column) for one in study.left_out if one.section == largest} == {("delta_min=3", "delta_max=2")}
    assert study.columns(thresholds) == ("eps_max=0.3",)
    stored = study.values("OTI's modes", "stored: the stored training scored again", "largest difference from full")
    assert list(stored.values()) == [0.0, 0.0]


@pytest.mark.slow
def test_corrupted_and_transformed_inputs_are_the_only_ones_that_change(whole):
    _, folder = whole
    for name in ("corrupt-4-0", "boundary-4-1"):
        run, clean = run_of(folder, name, 2, 3), base(3).train
        altered = load_data(plan_of(run)).train
        changed = (altered.inputs != clean.inputs[clean.ids.positions(altered.ids, "the data")]).flatten(1).any(1)
        assert int(changed.sum()) == 4 and torch.equal(altered.labels, clean.labels[clean.ids.positions(altered.ids, "the data")])


@pytest.mark.slow
def test_the_same_command_trains_nothing_and_other_settings_are_refused(whole, monkeypatch):
    study, folder = whole
    for module, name in ((trainings, "probe"), (trainings, "train_arm"), (liveval, "Retraining")):
        monkeypatch.setattr(module, name, None)
    assert study_liveval(folder, SMALL, scale="tiny", grid=GRID).fingerprint == study.fingerprint
    with pytest.raises(OutputExists, match="num_scores was 12 and is 13"):
        study_liveval(folder, SMALL, scale="tiny", grid=dataclasses.replace(GRID, num_scores=13))


@pytest.mark.slow
def test_the_plan_says_how_many_trainings_it_is(whole):
    study, folder = whole
    line = StudyPaths(folder).plan.read_text().splitlines()[1]
    # Flips after 1 and 2 epochs, blur, transforms after 1 and 2, and clean data, in two repetitions.
    counts = [int(one) for one in re.findall(r"(\d+) recorded", line)], [int(one) for one in re.findall(r"(\d+) repeated", line)]
    assert sum(counts[0]) == 12 and sum(counts[1]) == 130
    assert len(list(StudyPaths(folder).probes.iterdir())) == 12
    assert study.published and all(one.known == "not obtainable" for one in study.published)


def test_published_results_of_the_sweep():
    cells = {(one.section, one.row, one.column): one.value for one in PUBLISHED}
    assert cells[SWEEPS["eps_min", "eps_max"], "eps_min=0.0032", "eps_max=0.32"] == 0.856
    assert cells[SWEEPS["delta_min", "delta_step"], "delta_min=6", "delta_step=2"] == 0.328
    assert len(cells) == 30 + 12 + 25 and {one.known for one in PUBLISHED} == {"exact"}


@pytest.mark.parametrize(
    ("scale", "settings", "grid", "error", "words"),
    [
        ("tine", {}, {}, UnknownName, "tiny"),
        ("paper", {}, {}, UsageError, "needs a value for data"),
        ("tiny", {"validation": 0.0}, {}, UsageError, "give validation"),
        ("tiny", {}, {"num_scores": 12}, UsageError, "num_scores=12 is not above 12"),
        ("tiny", {}, {"methods": ("oti", "oti")}, UsageError, "each once"),
        ("tiny", {}, {"flip_from": "1", "flip_to": "1"}, UsageError, "are both '1', which makes no label wrong"),
        ("tiny", {}, {"intensity": (0.5, 0.0)}, UsageError, "at 0 an image stays as it is"),
        ("tiny", {}, {"methods": ("loo:window=last",)}, UsageError, "leave window out"),
        ("tiny", {}, {"methods": ("el2n:at=1",)}, UsageError, "reads at least 2 epochs, and the recordings have 1"),
        ("tiny", {}, {"flip_to": "ten"}, UnknownName, "ten"),
        ("tiny", {}, {"num_flip": (400,), "num_scores": 500}, UsageError, "fewer than 400 and 500"),
    ],
)
def test_what_cannot_be_studied_is_refused(scale, settings, grid, error, words, tmp_path):
    with pytest.raises(error, match=words):
        study_liveval(tmp_path / "x", settings, scale=scale, grid=LiveValGrid(**grid))


def test_a_folder_that_a_plan_cannot_name_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="name a folder without one"):
        study_liveval(tmp_path / "a,b", QUICK, scale="tiny", grid=FEW)
    assert not (tmp_path / "a,b").exists()


@pytest.mark.parametrize(
    ("grid", "words"),
    [({"modes": ("flop",)}, "flip"), ({"n_epochs": (0,)}, "n_epochs: 0 is no whole number"), ({"num_flip": ("a",)}, "num_flip: 'a'"), ({"intensity": (True,)}, "intensity: True"), ({"fraction": (1.0,)}, "fraction: 1"), ({"eps_min": (-1.0,)}, r"eps_min: -1\.0 is no number")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(grid, words):
    with pytest.raises(UsageError, match=words):
        LiveValGrid(**grid)


@pytest.mark.slow
def test_the_scale_tiny_on_real_digits(tmp_path):
    found = study_liveval(tmp_path, scale="tiny")
    section = next(one for one in found.sections if one.name == FLIP)
    # By chance 12 of 30 are found, 40 %.
    assert found.spread(section, "grand", "12").mean > 0.8 and found.spread(section, LOO, "12").mean > 0.6
    assert set(SCALES) == {"tiny", "small", "paper"} and not found.notes


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"modes": "corrupt", "num_flip": (5,)}, "num_flip is read by flip and early_detection and sweep only"),
        ({"modes": ("flip", "corrupt"), "n_epochs": (1,)}, "n_epochs is read by early_detection and boundary_detection only"),
        ({"modes": "flip", "delta_min": (1,)}, "delta_min is read by sweep only"),
        ({"modes": "corrupt", "flip_from": "3"}, "flip_from is read by flip and early_detection and sweep only"),
        ({"modes": "early_detection", "selection_epochs": 2}, "selection_epochs is read by"),
    ],
)
def test_what_no_experiment_reads_is_refused(grid, words):
    with pytest.raises(UsageError, match=words):
        LiveValGrid(**grid)
