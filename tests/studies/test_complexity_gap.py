import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from assay.core.errors import OutputExists, UnknownName, UsageError
from assay.experiments.plan import load_data, plan_of
from assay.runs.artefacts import load_outcome, load_scores, load_study
from assay.runs.paths import StudyPaths
from assay.runs.run import Run
from assay.studies import trainings
from assay.studies.complexity_gap import AUC, SCALES, ComplexityGapGrid, study_complexity_gap

SMALL = {"data": "digits:test=1600", "net": "logistic", "seed": 3, "recipe": {"epochs": 2, "batch": 32}}
GRID = ComplexityGapGrid(metrics=("aum",), fractions=(0.5,), seeds=2, probe_epochs=2, models=1, rep_num=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small study and its folder, which tests only look at."""
    folder = tmp_path_factory.mktemp("study") / "gap"
    return study_complexity_gap(folder, SMALL, scale="tiny", grid=GRID), folder


def run_of(folder, seed, *, planted):
    """The recording of one repetition, with wrong labels or without."""
    runs = [Run(path) for path in StudyPaths(folder).probes.iterdir()]
    return next(run for run in runs if run.header.seed == seed and (plan_of(run).plant is not None) == planted)


@pytest.mark.parametrize("seed", [3, 4])
def test_detection_and_terms_are_those_of_the_scores_on_planted_labels(made, seed):
    study, folder = made
    run = run_of(folder, seed, planted=True)
    loaded = load_data(plan_of(run))
    wrong = (loaded.train.labels != loaded.true_labels).numpy()
    assert wrong.mean() == pytest.approx(0.2, abs=0.01)
    for section, row, title in (
        ("Mislabel detection", "aum", "aum"),
        ("Mislabel detection", "cg_score:repeats=1", "cg_score:repeats=1"),
        ("Sub-terms", "ab", "cg_score:repeats=1,term=ab"),
    ):
        scores = load_scores(run.paths.scores(title))
        assert scores.ids == loaded.train.ids
        assert study.values(section, row, AUC)[seed] == pytest.approx(roc_auc_score(wrong, scores.suspicion()))
    ab, cg = (load_scores(run.paths.scores(f"cg_score:repeats=1{term}")).values for term in (",term=ab", ""))
    assert study.values("Sub-terms", "ab", "Spearman with cg")[seed] == pytest.approx(spearmanr(ab, cg).statistic)


def test_correlations_are_those_of_the_recording_with_the_given_labels(made):
    study, folder = made
    run = run_of(folder, 4, planted=False)
    aum, cg = (load_scores(run.paths.scores(title)) for title in ("aum", "cg_score:repeats=1"))
    # Low margins and high gaps are hard.
    expected = spearmanr(-aum.values, cg.values).statistic
    assert study.values("Correlation", "aum", "cg_score:repeats=1")[4] == pytest.approx(expected)
    assert study.values("Correlation", "cg_score:repeats=1", "cg_score:repeats=1")[4] == 1


def test_the_curve_is_of_trainings_on_what_is_kept(made):
    study, folder = made
    found = {load_outcome(path).accuracy for path in StudyPaths(folder).trials.glob("*-3.json")}
    rows = study.rows("Pruning")
    assert set(rows) == {
        "all",
        "random",
        *(f"{end} by {title}" for end in ("highest", "lowest") for title in ("aum", "cg_score:repeats=1")),
    }
    assert {study.values("Pruning", row, "1" if row == "all" else "0.5")[3] for row in rows} == found
    outcomes = [load_outcome(path) for path in StudyPaths(folder).trials.iterdir()]
    assert len(outcomes) == 12 and {one.steps for one in outcomes} == {2 * math.ceil(197 / 32)}


def test_the_same_command_trains_nothing_and_other_settings_are_refused(made, monkeypatch):
    study, folder = made
    monkeypatch.setattr(trainings, "probe", None)
    monkeypatch.setattr(trainings, "train_arm", None)
    again = study_complexity_gap(folder, SMALL, scale="tiny", grid=GRID)
    assert again.fingerprint == study.fingerprint == load_study(folder).fingerprint
    with pytest.raises(OutputExists, match=r"plant\.kind was"):
        study_complexity_gap(folder, {**SMALL, "plant": {"kind": "pair", "rate": 0.1}}, scale="tiny", grid=GRID)


def test_the_plan_says_how_many_trainings_it_is_and_the_page_where_it_deviates(made):
    study, folder = made
    lines = StudyPaths(folder).plan.read_text().splitlines()
    # Two recordings of one model with wrong labels and two without, and all, random, and both ends of two scores, in two repetitions.
    assert lines[1].startswith("# 16 trainings at most: 4 recorded, 12 final models of as many steps as everything takes.")
    page = StudyPaths(folder).page.read_text()
    assert all(words in page for words in study.deviations[:1]) and "not obtainable" in page
    assert all(one.value is None for one in study.published)


@pytest.mark.slow
def test_known_wrong_labels_are_taken_and_none_are_planted(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    inputs = (rng.normal(size=(80, 4)) + 2 * labels[:, None]).astype(np.float32)
    given = np.where(np.arange(80) < 8, 1 - labels, labels)
    np.savez(tmp_path / "x.npz", inputs=inputs, labels=given, true_labels=labels, test_inputs=inputs, test_labels=labels)
    settings = {**SMALL, "data": f"arrays:path={tmp_path / 'x.npz'}"}
    grid = ComplexityGapGrid(metrics=("aum",), fractions=(0.5,), seeds=1, probe_epochs=2, models=1, rep_num=1)
    found = study_complexity_gap(tmp_path / "study", settings, scale="tiny", grid=grid)
    assert "own wrong labels" in found.sections[0].words and found.values("Mislabel detection", "aum", AUC)[3] > 0.5


@pytest.mark.parametrize(
    ("scale", "settings", "grid", "error", "words"),
    [
        ("tine", {}, {}, UnknownName, "tiny"),
        ("paper", {}, {}, UsageError, "needs a value for data"),
        ("tiny", {}, {"seeds": 0}, UsageError, "seeds=0"),
        ("tiny", {}, {"metrics": ("aum", "aum")}, UsageError, "each once"),
        ("tiny", {}, {"rep_num": 0}, UsageError, "repeats=0 is below 1"),
        ("tiny", {"models": 2}, {}, UsageError, "leave models"),
        ("tiny", {"plant": {"kind": "blur", "rate": 0.1}}, {}, UsageError, "0 of 797 labels are wrong, and this study detects"),
        ("tiny", {"plant": {"kind": "uniform", "rate": 0.0}}, {}, UsageError, "0 of 797 labels are wrong"),
        ("tiny", {"plant": {"kind": "uniform", "rate": 0.1}}, {"rate": 0.3}, UsageError, "beside which rate is not read"),
    ],
)
def test_what_cannot_be_studied_is_refused(scale, settings, grid, error, words, tmp_path):
    with pytest.raises(error, match=words):
        study_complexity_gap(tmp_path / "x", settings, scale=scale, grid=ComplexityGapGrid(**grid))
    assert not (tmp_path / "x" / "probes").exists()


@pytest.mark.parametrize(("grid", "words"), [({"rate": 0.0}, "rate=0"), ({"fractions": (1.5,)}, "fractions: 1.5")])
def test_settings_out_of_range_are_refused(grid, words):
    with pytest.raises(UsageError, match=words):
        ComplexityGapGrid(**grid)


@pytest.mark.slow
def test_the_scale_tiny_on_real_digits(tmp_path):
    found = study_complexity_gap(tmp_path, scale="tiny")
    section = next(one for one in found.sections if one.name == "Mislabel detection")
    assert found.spread(section, "cg_score", AUC).mean > 0.95
    # The signal is in the cross term.
    areas = {term: np.mean(list(found.values("Sub-terms", term, AUC).values())) for term in ("a2", "ab", "b2")}
    assert areas["ab"] > 0.9 and areas["b2"] < 0.7
    assert set(SCALES) == {"tiny", "small", "paper"}
