import dataclasses
import math

import numpy as np
import pytest
import torch

from assay.core.errors import OutputExists, UnknownName, UsageError
from assay.experiments.plan import Plan, load_data
from assay.experiments.trials import Arm, train_arm
from assay.maths import draws
from assay.policies import catalogue
from assay.runs.artefacts import load_outcome, load_scores
from assay.runs.paths import StudyPaths
from assay.runs.run import Run
from assay.studies import parts, trainings
from assay.studies.coresets import SCALES, CoresetsGrid, specs, study_coresets
from assay.studies.parts import SECTION, Choice, Protocol, budget_options

SMALL = {"data": "digits:test=1600", "net": "logistic", "seed": 3, "validation": 0.1, "recipe": {"epochs": 2, "batch": 32}}
GRID = CoresetsGrid(
    methods=("aum",), selectors=("top_k", "craig", "window:start=0.9"), fractions=(0.5, 0.25), seeds=1, batches={0.25: 16}
)
ROWS = ("all", "random", "top_k by aum", "craig", "rs2, anew every epoch")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small study and its folder, which tests only look at."""
    folder = tmp_path_factory.mktemp("study") / "coresets"
    return study_coresets(folder, SMALL, scale="tiny", grid=GRID), folder


def run_of(folder, seed):
    return next(run for path in StudyPaths(folder).probes.iterdir() if (run := Run(path)).header.seed == seed)


def test_each_number_is_the_accuracy_of_a_net_on_what_the_choice_keeps(made):
    study, folder = made
    assert study.rows(SECTION) == ROWS and study.columns(SECTION) == ("0.5", "0.25")
    run = run_of(folder, 3)
    scores = load_scores(run.paths.scores("aum"))
    plain = Plan.make({**SMALL, "seed": 3, "recipe": {"epochs": 2, "batch": 16}}).plain()
    train = load_data(Plan.make(plain)).train
    kept = scores.ids.take(torch.from_numpy(np.argsort(-scores.values.numpy(), kind="stable")[: len(scores) // 4].copy()))
    train = train.take(train.ids.positions(kept, "the data").sort().values)
    arm = Arm("kept", train.ids, train.labels, torch.ones(len(train), dtype=torch.float64))
    outcome = train_arm(plain, arm, draws.integer(3, "study final"))
    assert study.values(SECTION, "top_k by aum", "0.25")[3] == outcome.accuracy
    # The same nets on everything stand in every column.
    assert study.values(SECTION, "all", "0.25") == study.values(SECTION, "all", "0.5")


def test_what_cannot_choose_is_told_with_the_reason(made):
    study, _ = made
    # A window that starts at 0.9 has no half of the data, and no quarter.
    told = {(one.row, one.column) for one in study.left_out}
    assert told == {("window:start=0.9 by aum", "0.5"), ("window:start=0.9 by aum", "0.25")}


def test_the_same_command_trains_nothing_and_other_settings_are_refused(made, monkeypatch):
    study, folder = made
    monkeypatch.setattr(trainings, "probe", None)
    monkeypatch.setattr(trainings, "train_arm", None)
    monkeypatch.setattr(parts, "save_decision", None)
    assert study_coresets(folder, SMALL, scale="tiny", grid=GRID).fingerprint == study.fingerprint
    with pytest.raises(OutputExists, match="budget was 'epochs' and is 'steps'"):
        study_coresets(folder, SMALL, scale="tiny", grid=dataclasses.replace(GRID, budget="steps"))


def test_one_seed_compares_nothing_and_says_so(made):
    study, folder = made
    words = "1 seed cannot tell a difference from chance: nothing is compared; give at least 3."
    assert study.sentences == () and study.contests == () and words in study.notes
    page = StudyPaths(folder).page.read_text()
    assert words in page and "Nothing can be said beyond what the figures show." in page


def test_the_plan_says_how_many_trainings_it_is(made):
    _, folder = made
    lines = StudyPaths(folder).plan.read_text().splitlines()
    # One recording, and nets on everything, and by random, three choices and RS2 at two fractions; one of the choices refuses.
    assert lines[1].startswith(
        "# 12 trainings at most: 1 recorded, 1 final model on everything, 5 final models on 50 %, 5 final models on 25 %."
    )
    assert len(list(StudyPaths(folder).trials.iterdir())) == 11 - 2
    assert 'batches = {"0.25" = 16}' in lines


@pytest.mark.slow
def test_steps_are_those_of_everything(tmp_path):
    grid = CoresetsGrid(methods=("aum",), selectors=("top_k",), fractions=(0.3,), seeds=1, budget="steps")
    study_coresets(tmp_path / "x", SMALL, scale="tiny", grid=grid)
    outcomes = [load_outcome(path) for path in StudyPaths(tmp_path / "x").trials.iterdir()]
    n = max(one.examples for one in outcomes)
    whole = 2 * math.ceil(n / 32)
    by_epochs = math.ceil(int(0.3 * n) / 32)
    assert sorted(one.steps for one in outcomes) == sorted([whole] * 3 + [by_epochs * math.ceil(whole / by_epochs)])


def test_every_policy_with_a_budget_is_there_or_told():
    found, absent = specs()
    names = {spec.split(":")[0] for spec in found}
    assert names | set(absent) == set(catalogue()) and not names & set(absent)
    assert {"craig", "herding", "k_center", "gradmatch", "ccs", "beta"} <= names and found["top_k"] and not found["random"]
    # A seed that would be refused is not given, one that is needed or stands for a score is.
    assert "seed" not in budget_options("craig", 0.5, 1) and budget_options("random", 0.5, 1)["seed"] == 1
    assert budget_options("metriq", 0.5, 1)["seed"] == 1


def test_choices_are_named_once_and_batches_of_fractions_that_there_are():
    plan = Plan.make(SMALL)
    with pytest.raises(UsageError, match=r"random is named twice at 0\.5"):
        Protocol(plan, {0.5: (Choice("random", "random"), Choice("random", "random"))}, (), 1)
    with pytest.raises(UsageError, match=r"batches: 0\.4 is none of the fractions 0\.5"):
        Protocol(plan, {0.5: (Choice("random", "random"),)}, (), 1, batches={0.4: 32})


@pytest.mark.parametrize(
    ("scale", "settings", "grid", "error", "words"),
    [
        ("tine", {}, {}, UnknownName, "tiny"),
        ("paper", {}, {}, UsageError, "needs a value for data"),
        ("tiny", {}, {"methods": ("aim",)}, UnknownName, "aum"),
        ("tiny", {}, {"selectors": ("threshold",)}, UsageError, "no option keep"),
        ("tiny", {}, {"selectors": ("k_center:keep=0.5",)}, UsageError, "k_center:keep=0.5 gives keep, which the study gives"),
        ("tiny", {}, {"selectors": ("k_center", "zcore:seed=3")}, UsageError, "zcore:seed=3 gives seed"),
        ("tiny", {}, {"selectors": ("top",)}, UnknownName, "top_k"),
        ("tiny", {}, {"methods": ("el2n",)}, UsageError, "reads at least 11 epochs, and the recordings have 4"),
        ("tiny", {}, {"batches": {0.2: 0}}, UsageError, "batches: 0"),
        ("tiny", {"select": "rs2:keep=0.5"}, {}, UsageError, "select"),
    ],
)
def test_what_cannot_be_studied_is_refused(scale, settings, grid, error, words, tmp_path):
    with pytest.raises(error, match=words):
        study_coresets(tmp_path / "x", settings, scale=scale, grid=CoresetsGrid(**grid))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_scale_tiny_on_real_digits(tmp_path):
    found = study_coresets(tmp_path, scale="tiny")
    told = {row: found.told(SECTION, row, "0.2") for row in found.rows(SECTION)}
    # What keeps the undecided after four epochs is far below random, and is called so only where the test says it.
    means = {row: np.mean(list(found.values(SECTION, row, "0.2").values())) for row in told}
    assert means["top_k by dual:window=3"] < means["random"] - 0.2
    assert all(means[row] < means["random"] for row in told if told[row] == "below")
    assert set(SCALES) == {"tiny", "small", "paper"} and len(told) > 30
