import csv
import dataclasses
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ttest_rel

from assay import methods
from assay.cli.study import show_cleansing
from assay.core.cleansing import NO_REMOVAL, SUMMARY, Cleansed, CleansingStudy, chosen_count
from assay.core.errors import MissingEvidence, OutputExists, RunError, TrialFailed, UnknownName, UsageError
from assay.core.selection import worst
from assay.data import parse
from assay.experiments.plan import load_data, plan_of
from assay.experiments.score import score
from assay.maths import draws
from assay.maths.statistics import holm
from assay.replay.replay import Replay
from assay.runs.artefacts import load_scores, load_study
from assay.runs.paths import StudyPaths
from assay.runs.run import Run
from assay.studies import trainings
from assay.studies.cleansing import OF_DATA, PUBLISHED, SCALES, CleansingGrid, _setup, study_cleansing
from data.test_mnist import idx, write

SMALL = {"data": "digits:test=1400", "net": "logistic", "seed": 3, "recipe": {"epochs": 3, "batch": 50}}
HOW = {"methods": ("sgd_influence", "sgd_influence:form=last_parameters", "random"), "remove": (0, 20, 60, 5000), "trials": 3}
EXACT, LAST = "sgd_influence:window=last", "sgd_influence:window=last,form=last_parameters"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small study and its folder, which tests only look at."""
    folder = tmp_path_factory.mktemp("study") / "cleansing"
    return study_cleansing(folder, SMALL, scale="tiny", grid=CleansingGrid(**HOW)), folder


def run_of(folder, seed):
    return next(run for path in StudyPaths(folder).probes.iterdir() if (run := Run(path)).header.seed == seed)


def by_hand(run, group):
    """Validation and test results of the last epoch once more, without a group: the mean over who is left, times the part that is left."""
    plan = plan_of(run)
    loaded = load_data(plan)
    last = run.epochs - 1
    weight, bias = (run.model(last - 1)[name].clone().requires_grad_() for name in ("1.weight", "1.bias"))

    def logits(examples, rows):
        return F.linear(examples.prepared(examples.inputs[rows]).flatten(1), weight, bias)

    for batch in run.order(last):
        stay = batch[~torch.isin(batch, group)]
        if len(stay):
            loss = F.cross_entropy(logits(loaded.train, stay), loaded.train.labels[stay]) * len(stay) / len(batch)
            for value, slope in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True):
                value.data -= plan.training.lr * slope
    found = []
    for part in (loaded.validation, loaded.test):
        seen = logits(part, slice(None)).detach()
        found += [float(F.cross_entropy(seen, part.labels)), float((seen.argmax(1) == part.labels).double().mean())]
    return found


@pytest.mark.parametrize("method", [EXACT, LAST, "random", NO_REMOVAL])
@pytest.mark.parametrize("seed", [3, 5])
def test_each_training_is_the_last_epoch_without_the_worst(made, method, seed):
    study, folder = made
    run = run_of(folder, seed)
    if method == "random":
        order = draws.permutation(run.ids.keys, seed, "cleanse")
    elif method == NO_REMOVAL:
        order = torch.arange(0)
    else:
        scores = load_scores(run.paths.scores(method))
        assert scores.ids == run.ids
        # The smallest predicted change is the worst.
        order = torch.from_numpy(np.argsort(scores.values.numpy(), kind="stable"))
        assert torch.equal(order[:60], worst(scores, 60))
    for count in (0,) if method == NO_REMOVAL else (20, 60):
        (found,) = (one for one in study.trained if (one.method, one.removed, one.seed) == (method, count, seed))
        values = (found.validation_loss, found.validation_accuracy, found.test_loss, found.test_accuracy)
        assert values == pytest.approx(by_hand(run, order[:count]), abs=2e-6)


def test_no_removal_is_there_once_in_each_trial_and_counts_that_do_not_fit_are_said(made):
    study, _ = made
    assert len(study.of(NO_REMOVAL, 0)) == 3 and study.counts == (20, 60) and study.methods == (EXACT, LAST)
    assert len(study.trained) == 3 * (1 + 3 * 2)
    assert [note for note in study.notes if note.startswith("5,000 were not removed: there are 318 training examples.")]


def test_the_trials_differ_in_split_and_start(made):
    _, folder = made
    runs = [run_of(folder, seed) for seed in (3, 4, 5)]
    assert len({run.ids.fingerprint for run in runs}) == 3
    assert len({run.model(-1)["1.weight"].numpy().tobytes() for run in runs}) == 3


def test_the_table_has_the_columns_of_the_example_and_means_over_trials(made):
    study, folder = made
    with StudyPaths(folder).summary.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(SUMMARY)
    assert SUMMARY[:7] == ("val_loss", "test_loss", "val_accuracy", "test_accuracy", "method", "seed", "n_drops")
    single = [row for row in rows if row["seed"]]
    assert len(single) == len(study.trained) and not [row for row in single if row["mean"] or row["std"]]
    for what, function in (("mean", np.mean), ("std", lambda values: np.std(values, ddof=1))):
        group = [row for row in rows if row[what] == what]
        assert len(group) == 7 and not [row for row in group if row["seed"]]
        for row in group:
            found = [
                float(one["test_loss"]) for one in single if (one["method"], one["n_drops"]) == (row["method"], row["n_drops"])
            ]
            assert len(found) == 3 and float(row["test_loss"]) == pytest.approx(function(found))


def trained(count, loss, accuracy=0.5):
    return Cleansed("m" if count else NO_REMOVAL, count, 0, loss, 9.0, accuracy, 0.0, 1.0)


@pytest.mark.parametrize(
    ("by", "harmful", "count"),
    [("loss", None, 100), ("loss", 99, 10), ("loss", 9, 0), ("accuracy", None, 10), ("accuracy", 9, 0)],
)
def test_a_count_is_chosen_by_validation_among_those_predicted_harmful(by, harmful, count):
    strayed = trained(5, float("nan"), 0.0)
    rows = [strayed, trained(0, 1.0, 0.5), trained(10, 0.8, 0.9), trained(30, 0.8, 0.9), trained(100, 0.5, 0.1)]
    assert chosen_count(rows, by, harmful) == count


def test_choices_and_what_they_are_worth(made):
    study, folder = made
    for one in study.chosen:
        rows = [each for each in study.trained if each.seed == one.seed and each.method in (NO_REMOVAL, one.method)]
        scores = load_scores(run_of(folder, one.seed).paths.scores(one.method))
        limit = None if one.harmful is None else one.harmful
        assert limit == (int((scores.values < 0).sum()) if one.method == EXACT else None)
        allowed = [each for each in rows if limit is None or each.removed <= limit]
        assert one.removed == min(allowed, key=lambda each: (each.validation_loss, each.removed)).removed
        (at,) = (each for each in study.at_choice(one.method) if each.seed == one.seed)
        assert at.removed == one.removed


def test_comparisons_are_paired_and_corrected_together(made):
    study, _ = made
    # Words that are for live selectors alone.
    assert any(NO_REMOVAL in words for words in study.sentences) and not any(
        "anew for every epoch" in words for words in study.sentences
    )
    assert study.claims == len(study.contests) == 2 * (1 + 2 * 2)
    ps = []
    for one in study.contests:
        arm = study.at_choice(one.method) if one.removed is None else study.of(one.method, one.removed)
        other = study.of(NO_REMOVAL, 0) if one.comparison.baseline == NO_REMOVAL else study.of("random", one.removed)
        a, b = ([each.test_accuracy for each in row] for row in (arm, other))
        assert one.comparison.effect == pytest.approx(np.mean(a) - np.mean(b))
        if np.ptp(np.subtract(a, b)) > 1e-12:
            assert one.comparison.p == pytest.approx(ttest_rel(a, b).pvalue)
            low, high = ttest_rel(a, b).confidence_interval(0.95)
            assert (one.comparison.low, one.comparison.high) == pytest.approx((low, high))
        ps.append(one.comparison.p)
    assert [one.comparison.adjusted for one in study.contests] == holm(ps)


def test_bytes_are_those_of_the_files(made):
    study, folder = made
    paths = run_of(folder, 3).paths
    sizes = [paths.checkpoint(epoch).stat().st_size for epoch in (1, 2)]
    assert {one.method: (one.states, one.bytes, one.measured) for one in study.storage} == {
        EXACT: (2, sum(sizes), True),
        LAST: (1, sizes[1], True),
        # 318 examples in batches of 50, and 650 numbers of 4 bytes.
        "Hara et al., last epoch": (7, 7 * 2600, False),
        "Hara et al., all epochs": (21, 21 * 2600, False),
    }


def test_published_bytes_stand_beside_those_of_the_same_data(tmp_path, capsys):
    images, labels = np.random.default_rng(0).integers(0, 256, (80, 5, 6), dtype=np.uint8), (np.arange(80) % 10).astype(np.uint8)
    write(
        tmp_path,
        train_images_idx3_ubyte=idx(images[:60]),
        train_labels_idx1_ubyte=idx(labels[:60]),
        t10k_images_idx3_ubyte=idx(images[60:]),
        t10k_labels_idx1_ubyte=idx(labels[60:]),
    )
    settings = {"data": f"mnist:path={tmp_path}", "net": "logistic", "recipe": {"epochs": 2, "batch": 16}}
    grid = CleansingGrid(methods="sgd_influence:form=last_parameters", remove=(1,), trials=1)
    found = study_cleansing(tmp_path / "x", settings, scale="tiny", grid=grid)
    ours, *_, theirs, hara = found.storage
    assert ours.known == "measured" and ours.source is None
    assert (theirs.states, theirs.bytes, hara.states, hara.bytes) == (1, 1_236_000, 1563, 1_932_000_000)
    assert theirs.known == hara.known == "published, abstract of Suzuki et al. 2021"
    assert load_study(tmp_path / "x").storage == found.storage
    show_cleansing(found)
    said = " ".join(capsys.readouterr().out.split())
    assert "Suzuki et al., last epoch the last parameters 1 1.24 MB published" in said


def test_those_two_states_are_enough_and_one_is_not(made, tmp_path):
    _, folder = made
    run = run_of(folder, 3)
    assert run.checkpoints() == [1, 2]
    shutil.copytree(run.folder, tmp_path / "run")
    copy = Run(tmp_path / "run").paths
    copy.start.unlink()
    assert torch.equal(score(copy.folder, EXACT)[EXACT].values, load_scores(run.paths.scores(EXACT)).values)
    copy.checkpoint(1).unlink()
    # The last parameters alone serve the approximation only.
    assert torch.equal(score(copy.folder, LAST)[LAST].values, load_scores(run.paths.scores(LAST)).values)
    with pytest.raises(MissingEvidence):
        score(copy.folder, EXACT)


def test_the_same_command_goes_on_where_it_was_stopped(made, tmp_path, monkeypatch):
    study, folder = made
    shutil.copytree(folder, tmp_path / "x")
    # As if it had been stopped in the middle: no result, one training of the last trial lost, another damaged.
    paths = StudyPaths(tmp_path / "x")
    paths.results.unlink()
    paths.summary.unlink()
    finished = sorted((run_of(tmp_path / "x", 5).folder / "trials").rglob("*-5.json"))
    assert len(finished) == 7
    finished[0].unlink()
    finished[1].write_text("{}")
    again, trains = [], Replay.retrained
    monkeypatch.setattr(Replay, "retrained", lambda self, *args, **how: again.append(1) or trains(self, *args, **how))
    monkeypatch.setattr(trainings, "probe", None)
    found = study_cleansing(tmp_path / "x", SMALL, scale="tiny", grid=CleansingGrid(**HOW))
    assert len(again) == 2 and found.fingerprint == study.fingerprint and paths.summary.exists()
    with pytest.raises(OutputExists, match="trials was 3 and is 2"):
        study_cleansing(tmp_path / "x", SMALL, scale="tiny", grid=CleansingGrid(**{**HOW, "trials": 2}))


def test_all_of_training_can_be_repeated(tmp_path):
    how = {"methods": "sgd_influence", "remove": (30,), "trials": 1, "retrain": "all", "chosen_by": "accuracy"}
    found = study_cleansing(tmp_path, {**SMALL, "recipe": {"epochs": 2, "batch": 50}}, scale="tiny", grid=CleansingGrid(**how))
    assert found.methods == ("sgd_influence",) and found.contests == ()
    assert "One trial cannot tell a difference from chance; give at least 3." in found.notes
    run = run_of(tmp_path, 3)
    (exact, *_), start = found.storage, run.paths.start.stat().st_size
    assert (exact.states, exact.bytes) == (2, start + run.paths.checkpoint(1).stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        # The last of one epoch begins at the start of training.
        ({"epochs": 1, "batch": 50}, 30),
        # Of batches of two many lose both.
        ({"epochs": 2, "batch": 2}, 200),
    ],
)
def test_a_single_epoch_and_batches_of_which_nothing_is_left(tmp_path, recipe, count):
    how = {"methods": "sgd_influence", "remove": (count,), "trials": 1}
    study = study_cleansing(tmp_path, {**SMALL, "recipe": recipe}, scale="tiny", grid=CleansingGrid(**how))
    run = run_of(tmp_path, 3)
    removed = worst(load_scores(run.paths.scores(EXACT)), count)
    emptied = sum(bool(torch.isin(batch, removed).all()) for batch in run.order(run.epochs - 1))
    assert emptied > 20 if recipe["batch"] == 2 else emptied == 0
    (found,) = (one for one in study.trained if (one.method, one.removed) == (study.methods[0], count))
    values = (found.validation_loss, found.validation_accuracy, found.test_loss, found.test_accuracy)
    assert values == pytest.approx(by_hand(run, removed), abs=2e-6)


def test_a_saved_study_is_read_as_it_was_and_damage_is_noticed(made, tmp_path):
    study, folder = made
    old = load_study(folder)
    assert isinstance(old, CleansingStudy) and dataclasses.asdict(old) == dataclasses.asdict(study)
    path = tmp_path / "study.json"
    changed = re.sub(rb'("removed": ?)20', rb"\g<1>21", text := StudyPaths(folder).results.read_bytes(), count=1)
    assert changed != text
    path.write_bytes(changed)
    with pytest.raises(RunError):
        load_study(path)


def test_a_study_with_a_hole_is_refused(made):
    study, _ = made
    with pytest.raises(UsageError, match="without 20 examples is missing in trial 3"):
        dataclasses.replace(study, trained=tuple(one for one in study.trained if (one.removed, one.seed) != (20, 3)))
    with pytest.raises(UsageError, match="a count without a training"):
        dataclasses.replace(study, chosen=(dataclasses.replace(study.chosen[0], removed=7),))
    with pytest.raises(UsageError, match="twice"):
        dataclasses.replace(study, trained=(*study.trained, study.trained[0]))


def test_the_page_shows_what_the_study_says(made):
    _, folder = made
    page = StudyPaths(folder).page.read_text()
    assert "Cleansing: digits:test=1400" in page and "as chosen" in page and '"type":"log"' in page
    assert "no removal" in page and "5,000 were not removed" in page and "worked out" in page


def test_the_scales_are_the_protocols(tmp_path):
    write(tmp_path)
    small = _setup({"data": f"mnist:path={tmp_path}"}, "small", CleansingGrid())
    assert SCALES["small"].limit == 10000
    assert (small.trials, len(small.remove), small.plan.net) == (3, 6, "six_conv")
    paper = _setup({"data": "mnist:path=somewhere"}, "paper", CleansingGrid())
    recipe = paper.plan.training
    assert (recipe.epochs, recipe.batch, recipe.lr, recipe.momentum, recipe.weight_decay) == (20, 64, 0.05, 0.0, 0.0)
    assert (recipe.crop, recipe.flip, recipe.last_batch) == (2, False, "even") and round(60000 * paper.plan.validation) == 10000
    assert paper.remove == (1, 10, 40, 100, 200, 600, 1000, 3000, 5000, 10000, 30000) and paper.trials == 6
    assert paper.plan.data == "mnist:path=somewhere"
    cifar = _setup({"data": "cifar10:path=somewhere", "recipe": {"flip": False}}, "paper", CleansingGrid()).plan
    assert (cifar.validation, cifar.training.crop, cifar.training.flip) == (0.2, 4, False)
    for name in SCALES:
        assert all(methods.parse(one).direction.ranks_suspects for one in SCALES[name].methods)
    assert PUBLISHED.keys() <= {parse(f"{name}:path=x").name for name in ("mnist", "cifar10")} & OF_DATA.keys()


def test_small_takes_the_first_rows_of_larger_files_and_all_of_smaller_ones(tmp_path, monkeypatch):
    write(tmp_path)
    for most, data in ((5, f"mnist:path={tmp_path},limit=5"), (7, f"mnist:path={tmp_path}"), (9, f"mnist:path={tmp_path}")):
        monkeypatch.setitem(SCALES, "small", dataclasses.replace(SCALES["small"], limit=most))
        assert _setup({"data": f"mnist:path={tmp_path}"}, "small", CleansingGrid()).plan.data == data


def test_a_method_that_gives_no_score_is_left_out_with_the_reason_and_costs_the_others_nothing(tmp_path):
    failing = "influence:iterations=2"
    how = {"methods": ("aum", failing), "remove": (20,), "trials": 2}
    found = study_cleansing(tmp_path / "x", SMALL, scale="tiny", grid=CleansingGrid(**how))
    assert found.methods == ("aum",) and {one.method for one in found.trained} == {"aum", "random", NO_REMOVAL}
    said = next(note for note in found.notes if failing in note)
    assert said.startswith(f"{failing} is left out: no score in trial-3: conjugate gradients came to a residual of ")
    with pytest.raises(TrialFailed, match="conjugate gradients came to a residual of"):
        study_cleansing(tmp_path / "y", SMALL, scale="tiny", grid=CleansingGrid(**{**how, "methods": (failing,)}))


def test_a_window_that_was_named_stays():
    spec = "sgd_influence:window=all", "sgd_influence:window=1-2", "sgd_influence", "influence", "tracin"
    asked = CleansingGrid(methods=spec, retrain="last")
    assert _setup(SMALL, "tiny", asked).methods == ("sgd_influence", "sgd_influence:window=1-2", EXACT, "influence", "tracin")


@pytest.mark.parametrize(
    ("settings", "grid", "words"),
    [
        ({}, {"methods": ("vog",)}, "vog ranks difficulty"),
        ({}, {"methods": ("random",)}, "methods: none but random"),
        ({}, {"methods": ("aum", "aum")}, "methods: aum, aum; give at least one, and each once"),
        ({}, {"remove": (400, 500)}, "remove: none of 400, 500 is below 318, the training examples"),
        ({"validation": 0.0}, {}, "holds out no validation examples"),
        ({"models": 2}, {}, "leave models, member and record out"),
        ({"record": {"checkpoints": "every"}}, {}, "leave models, member and record out"),
        ({"recipe": {"epochs": 3, "last_batch": "drop", "batch": 50}}, {}, "leaves 18 of 318 examples out of the last epoch"),
    ],
)
def test_what_cannot_be_studied_is_refused(settings, grid, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        study_cleansing(tmp_path / "x", {**SMALL, **settings}, scale="tiny", grid=CleansingGrid(**{**HOW, "trials": 1, **grid}))


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"remove": (-1,)}, "remove=\\[-1\\]"),
        ({"remove": (0,)}, "remove=\\[0\\]"),
        ({"trials": 0}, "trials=0"),
        ({"retrain": "first"}, "retrain"),
        ({"chosen_by": "luck"}, "chosen_by"),
        ({"remove": (1.5,)}, "remove"),
    ],
)
def test_settings_out_of_range_are_refused(grid, words):
    with pytest.raises(UsageError, match=words):
        CleansingGrid(**grid)


def test_an_unknown_scale_names_the_nearest_and_large_ones_want_data(tmp_path):
    with pytest.raises(UnknownName, match="paper"):
        study_cleansing(tmp_path, SMALL, scale="papers")
    with pytest.raises(UsageError, match="needs a value for data"):
        study_cleansing(tmp_path, scale="small")
    (tmp_path / "summary.csv").write_text("mine")
    with pytest.raises(OutputExists, match="is of no study"):
        study_cleansing(tmp_path, SMALL, scale="tiny")


@pytest.mark.slow
def test_the_scale_tiny_on_real_digits(tmp_path):
    found = study_cleansing(tmp_path, scale="tiny")
    assert len(found.methods) == 3 and found.counts == (1, 10, 40, 100, 200) and len(found.seeds) == 3
    none = np.mean([one.test_accuracy for one in found.of(NO_REMOVAL, 0)])
    assert none > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["paper", "small"])
def test_cleansing_by_name_of_stl10(tmp_path, scale):
    draw = np.random.default_rng(0)
    for part, rows in (("train", 40), ("test", 20)):
        draw.integers(0, 256, (rows, 3, 96, 96)).astype(np.uint8).tofile(tmp_path / f"{part}_X.bin")
        (np.arange(rows) % 10 + 1).astype(np.uint8).tofile(tmp_path / f"{part}_y.bin")
    (tmp_path / "class_names.txt").write_text("\n".join("abcdefghij"))
    how = CleansingGrid(methods="sgd_influence:form=last_parameters", remove=(1, 4, 30000), trials=1)
    settings = {"data": f"stl10:path={tmp_path}", "net": "logistic", "recipe": {"epochs": 2, "batch": 16}}
    found = study_cleansing(tmp_path / "x", settings, scale=scale, grid=how)
    assert found.counts == (1, 4) and found.settings["plan"]["recipe"]["crop"] == 4 and len(found.trained) == 5
