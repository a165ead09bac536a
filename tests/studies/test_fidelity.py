import codecs
import dataclasses
import importlib.util
import pathlib
import pickle
import shutil
import sys

import numpy as np
import pytest
from sklearn.utils import Bunch

from assay.cluster.ledger import read_ledgers
from assay.core.errors import OutputExists, RunError, UnknownName, UsageError
from assay.core.fidelity import Agreement, FidelityStudy, Refused, SeedResult, spread
from assay.data.newsgroups import CACHE
from assay.experiments import retraining
from assay.experiments.trials import TURN
from assay.maths.statistics import student_interval
from assay.methods import parse
from assay.reports.fidelity import agreements, render_fidelity
from assay.runs.artefacts import load_study
from assay.runs.paths import StudyPaths
from assay.studies import fidelity
from assay.studies.fidelity import (
    FORMS,
    INFLUENCE,
    PUBLISHED,
    SCALES,
    SETTINGS,
    FidelityGrid,
    drawn,
    ends,
    loaded,
    one_seed,
    study_fidelity,
)

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
UNDAMPED = "influence:curvature=hessian,damping=0.0,solver=cholesky"
GRID = FidelityGrid(nets=("dnn",), methods=("sgd_influence", "aum", UNDAMPED), seeds=2, examples=24)


@pytest.fixture(scope="module")
def reference():
    """The benchmark that works the figures out without the library's replay, adjoints and leave-one-out."""
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("fidelity_reference", BENCHMARKS / "fidelity_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small study and its folder, which tests only look at."""
    folder = tmp_path_factory.mktemp("study") / "fidelity"
    return study_fidelity(folder, scale="tiny", grid=GRID), folder


@pytest.mark.slow
def test_a_seed_is_what_the_protocol_by_hand_gives(made, reference):
    study, _ = made
    by_hand = reference.one_seed(SETTINGS["digits-dnn"], loaded("digits", ""), 1, 24)
    (exact,) = (one for one in study.measured if (one.method, one.seed) == ("sgd_influence", 1))
    assert (exact.tau, exact.jaccard) == pytest.approx((by_hand["tau"], by_hand["jaccard"])) and exact.tau > 0.5


@pytest.mark.slow
def test_a_seed_of_logistic_regression_is_what_the_protocol_by_hand_gives(reference):
    (exact,) = one_seed("digits-logreg", "", 24, ("sgd_influence",), 1).agreements
    by_hand = reference.one_seed(SETTINGS["digits-logreg"], loaded("digits", ""), 1, 24)
    assert (exact.tau, exact.jaccard) == pytest.approx((by_hand["tau"], by_hand["jaccard"]))


@pytest.fixture
def texts(tmp_path):
    """Texts of two groups as scikit-learn keeps them; each group has words of its own."""
    names, draw = [*fidelity.GROUPS.split("+"), "sci.med"], np.random.default_rng(0)
    words = [[f"{letter}word{n}" for n in range(40)] for letter in "abc"]
    parts = {}
    for part, count in (("train", 90), ("test", 60)):
        target = np.arange(count) % 3
        bodies = [f"From: me\n\n{' '.join(draw.choice([*words[group], *words[(group + 1) % 3][:20]], 8))}\n" for group in target]
        parts[part] = Bunch(data=bodies, filenames=np.array(names)[target], target_names=names, target=target, DESCR=None)
    (tmp_path / CACHE).write_bytes(codecs.encode(pickle.dumps(parts), "zlib_codec"))
    return str(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["logreg", "dnn"])
def test_a_seed_of_texts_is_what_the_protocol_by_hand_gives(reference, texts, net):
    inputs, labels = loaded("newsgroups", texts)
    # Training texts of the two groups, then test texts; a word in more than a fifth of the training texts is left out.
    assert len(labels) == 100 and inputs.dtype == np.float64 and set(labels.tolist()) == {0, 1}
    found = one_seed(f"newsgroups-{net}", texts, 24, fidelity._titles(f"newsgroups-{net}", None), 1)
    by_hand = reference.one_seed(SETTINGS[f"newsgroups-{net}"], loaded("newsgroups", texts), 1, 24)
    (exact,) = (one for one in found.agreements if one.method == "sgd_influence")
    assert (exact.tau, exact.jaccard) == pytest.approx((by_hand["tau"], by_hand["jaccard"]))
    assert len(found.agreements) + len(found.refused) == 4


@pytest.mark.slow
def test_influence_in_the_convex_setting():
    found = one_seed("digits-logreg", "", 24, (parse(INFLUENCE["logreg"]).title,), 0)
    assert found.refused == () and found.agreements[0].tau > 0.2


@pytest.mark.slow
def test_a_seed_that_was_stopped_trains_the_rest(made, tmp_path, monkeypatch):
    train, trained = retraining._trained, []

    def counted(replay, place, *given):
        if len(trained) == 10:
            raise KeyboardInterrupt
        trained.append(place)
        return train(replay, place, *given)

    monkeypatch.setattr(retraining, "_trained", counted)
    grid = dataclasses.replace(GRID, seeds=1)
    with pytest.raises(KeyboardInterrupt):
        study_fidelity(tmp_path, scale="tiny", grid=grid)
    # Of 25 trainings, the first of them on all examples.
    (status,) = read_ledgers(StudyPaths(tmp_path).logs)
    assert (status.done, status.queued) == (10, 15)
    (kept,) = StudyPaths(tmp_path).trials.iterdir()
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExists, match="is a link"):
        study_fidelity(tmp_path, scale="tiny", grid=grid)
    kept.unlink()
    (tmp_path / "elsewhere").rename(kept)
    trained.clear()
    monkeypatch.setattr(retraining, "_trained", lambda *given: (trained.append(given[1]), train(*given))[1])
    found = study_fidelity(tmp_path, scale="tiny", grid=grid)
    assert sorted(trained) == list(range(10, 25))
    assert found.measured == tuple(one for one in made[0].measured if one.seed == 0)
    assert [path.suffix for path in StudyPaths(tmp_path).trials.iterdir()] == [".json"]
    (status,) = read_ledgers(StudyPaths(tmp_path).logs)
    assert (status.done, status.queued) == (25, 0)


def test_ends_are_the_smallest_and_the_largest_together():
    values = np.array([5.0, *range(100, 125), -7.0])
    assert ends(values) == {0, 26, *range(1, 9), *range(16, 26)}


def test_parts_are_those_of_the_released_code():
    from sklearn.model_selection import train_test_split

    inputs, labels = np.arange(1200.0)[:, None] % 997, np.arange(1200) % 2
    x, y, held, held_labels = drawn(inputs, labels, 3)
    one, rest, own, rest_labels = train_test_split(inputs, labels, train_size=200, test_size=400, random_state=3)
    other, _, others, _ = train_test_split(rest, rest_labels, train_size=200, test_size=200, random_state=4)
    mean, std = one.mean(), one.std()
    np.testing.assert_allclose(x, (one - mean) / std)
    np.testing.assert_allclose(held, (other - mean) / std)
    assert (y == own).all() and (held_labels == others).all()


def test_means_are_over_seeds_with_published_ones_beside(made):
    study, folder = made
    assert study.cells == ("digits-dnn",) and study.methods == ("sgd_influence", "aum")
    taus = [one.tau for one in study.measured if one.method == "sgd_influence"]
    found = study.spread("digits-dnn", "sgd_influence", "tau")
    assert (found.mean, found.std, found.n) == (pytest.approx(np.mean(taus)), pytest.approx(np.std(taus, ddof=1)), 2)
    # Nothing was published of these data.
    assert "Published numbers stand below" not in render_fidelity(study)
    assert study.published == () and f"sgd_influence {found.mean:.3f}" in study.sentences[0]
    page = StudyPaths(folder).page.read_text()
    assert f"{found.mean:.3f} ({found.std:.3f})" in page and "Fidelity: digits" in page


def test_the_figure_has_a_row_for_each_method_of_each_setting_and_no_bar_beyond_the_measure(made):
    study, _ = made
    slides = tuple(one for one in PUBLISHED if one.setting == "adult-dnn" and "slides" in one.source)
    measured = [
        Agreement(setting, f"influence:at={at}", seed, 0.9 - 0.01 * at, 0.98 if seed else 0.7, 0.5)
        for setting in ("digits-dnn", "adult-dnn")
        for at in range(12)
        for seed in (0, 1)
    ]
    truths = tuple(dataclasses.replace(one, setting=setting) for setting in ("digits-dnn", "adult-dnn") for one in study.truths)
    whole = dataclasses.replace(study, truths=truths, measured=tuple(measured), published=slides)
    rows = agreements(whole, "spearman")["data"]["values"]
    assert len({row["row"] for row in rows}) == len(rows) == 24
    assert all(row["high"] == 1.0 and row["low"] < 0.7 and row["whose"] == "measured" for row in rows)
    rows = agreements(whole, "tau")["data"]["values"]
    assert len({row["row"] for row in rows}) == len(rows) == 26 and [row["value"] for row in rows[24:]] == [0.75, 0.54]
    assert rows[24]["row"] == "adult-dnn · SGD-influence, slides of Hara et al. 2019, 100 seeds"


def test_the_published_table():
    cells = {(one.setting, one.what, one.measure): (one.mean, one.std) for one in PUBLISHED if "slides" in one.source}
    assert cells["adult-logreg", "SGD-influence", "tau"] == (0.93, 0.02)
    assert cells["adult-logreg", "influence function", "tau"] == (0.85, 0.07)
    assert cells["adult-dnn", "SGD-influence", "jaccard"] == (0.59, 0.16)
    assert cells["mnist-dnn", "influence function", "jaccard"] == (0.27, 0.12)
    assert cells["newsgroups-logreg", "influence function", "jaccard"] == (0.52, 0.19)
    assert cells["newsgroups-dnn", "SGD-influence", "tau"] == (0.45, 0.12)
    assert len(cells) == 24 and len(PUBLISHED) == 30


def test_an_interval_is_widened_and_stays_in_its_range():
    values = [0.8, 0.9, 0.95]
    found = spread(values, -1.0)
    low, _ = student_interval(values)
    assert found.low == pytest.approx(np.mean(values) - (np.mean(values) - low) * (1 + 4 / 5)) and found.high == 1.0
    assert spread([0.5], 0.0).std is None and spread([0.5, 0.5, 0.5], 0.0).low is None


def test_the_same_command_goes_on_where_it_was_stopped(made, tmp_path, monkeypatch):
    study, folder = made
    shutil.copytree(folder, tmp_path / "x")
    paths = StudyPaths(tmp_path / "x")
    paths.results.unlink()
    first, second = sorted(paths.trials.iterdir(), key=lambda path: path.stem.rpartition("-")[2])
    # Under another's name a result is none.
    second.write_bytes(first.read_bytes())
    again = []

    def measured(*args):
        again.append(args[4])
        truth, rows = study.truths[1], tuple(one for one in study.measured if one.seed == 1)
        return SeedResult(truth, rows, tuple(one for one in study.refused if one.seed == 1))

    monkeypatch.setattr(fidelity, "one_seed", measured)
    found = study_fidelity(tmp_path / "x", scale="tiny", grid=GRID)
    assert again == [1] and found.fingerprint == study.fingerprint
    with pytest.raises(OutputExists, match="seeds was 2 and is 1"):
        study_fidelity(tmp_path / "x", scale="tiny", grid=dataclasses.replace(GRID, seeds=1))


def test_a_saved_study_is_read_as_it_was_and_damage_is_noticed(made, tmp_path):
    study, folder = made
    old = load_study(folder)
    assert isinstance(old, FidelityStudy) and dataclasses.asdict(old) == dataclasses.asdict(study)
    text = StudyPaths(folder).results.read_bytes()
    (tmp_path / "study.json").write_bytes(text.replace(b"digits-dnn", b"digits-dnm", 1))
    with pytest.raises(RunError):
        load_study(tmp_path)


def test_a_method_that_gives_no_score_is_told_and_has_no_number(made):
    study, _ = made
    # Undamped, the Hessian of a net is indefinite.
    assert [(one.method, one.seed) for one in study.refused] == [(UNDAMPED, 0), (UNDAMPED, 1)]
    assert all("positive definite" in one.why for one in study.refused) and study.spread("digits-dnn", UNDAMPED, "tau") is None
    assert study.notes[0].startswith(f"{UNDAMPED} gave no score in digits-dnn, seed 0: ")
    with pytest.raises(UsageError, match="sgd_influence has no result in digits-dnn, seed 1"):
        dataclasses.replace(
            study, measured=tuple(one for one in study.measured if (one.method, one.seed) != ("sgd_influence", 1))
        )
    rest = tuple(one for one in study.measured if (one.method, one.seed) != ("aum", 1))
    told = dataclasses.replace(study, measured=rest, refused=(*study.refused, Refused("digits-dnn", "aum", 1, "why")))
    assert told.spread("digits-dnn", "aum", "tau").n == 1


def test_the_scales_and_the_default_methods(monkeypatch, tmp_path):
    assert (SCALES["small"].examples, SCALES["paper"].examples, SCALES["paper"].seeds) == (200, 200, 100)
    whole = np.random.default_rng(0).normal(size=(500, 4)), np.arange(500) % 2
    monkeypatch.setattr(fidelity, "loaded", lambda data, path: whole)
    asked = {}

    def fake(wanted, sources, examples, seeds, *_):
        asked.update(wanted=wanted, sources=sources, examples=examples, seeds=seeds)
        truth = fidelity.Truth("adult-dnn", 0, 0.1, 0.1, 0.9, 1.0)
        return [fidelity.SeedResult(truth, (Agreement("adult-dnn", "aum", 0, 0.1, 0.1, 0.1),))]

    monkeypatch.setattr(fidelity, "_measured", fake)
    found = study_fidelity(tmp_path, scale="paper", grid=FidelityGrid(adult="a", mnist="b"))
    assert list(asked["wanted"]) == ["adult-logreg", "adult-dnn", "mnist-logreg", "mnist-dnn"] and asked["seeds"] == 100
    assert all(len(titles) == 4 and titles[:3] == FORMS for titles in asked["wanted"].values())
    page = StudyPaths(tmp_path).page.read_text()
    assert len(found.published) == 22 and "published: SGD-influence" in page
    # Of Spearman's rho none was published.
    assert page.count("Published numbers stand below") == 2


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"scale": "small"}, UsageError, "needs data"),
        ({"scale": "tine"}, UnknownName, "tiny"),
        ({"scale": "tiny", "grid": {"examples": 300}}, UsageError, "digits has 361 examples, fewer than 300 to train on"),
        ({"scale": "tiny", "grid": {"methods": ()}}, UsageError, "methods: none"),
        ({"scale": "tiny", "grid": {"methods": ("aum", "aum")}}, UsageError, "each once"),
        ({"scale": "tiny", "grid": {"methods": "aim"}}, UnknownName, "aum"),
        ({"scale": "tiny", "grid": {"adult": "nowhere"}}, UsageError, "nowhere is absent"),
    ],
)
def test_what_cannot_be_measured_is_refused(how, error, words, tmp_path):
    with pytest.raises(error, match=words):
        study_fidelity(tmp_path / "x", scale=how["scale"], grid=FidelityGrid(**how.get("grid", {})))
    assert not (tmp_path / "x").exists()


NEWTON = "influence:damping=0.1,solver=cholesky,form=newton_step"
EKFAC = "influence:damping=0.1,solver=ekfac"


@pytest.mark.slow
def test_methods_that_need_losses_of_the_outputs_give_scores_where_the_optimizer_has_the_regulariser(tmp_path):
    methods = ("sgd_influence", "sgd_influence:form=gauss_newton", NEWTON, EKFAC)
    grid = FidelityGrid(nets=("logreg",), methods=methods, seeds=1, examples=24)
    by_losses = study_fidelity(tmp_path / "losses", scale="tiny", grid=grid)
    # Options that do not go with the protocol cost the method its numbers, and no other method.
    assert [parse(one.method).title for one in by_losses.refused] == [parse(one).title for one in methods[1:]]
    assert all("leave that part to the optimizer's weight_decay" in one.why for one in by_losses.refused)
    by_decay = study_fidelity(tmp_path / "decay", scale="tiny", grid=dataclasses.replace(grid, regulariser="optimizer"))
    assert not by_decay.refused and "weight decay" in by_decay.deviations[-1] and "weight decay" not in by_losses.deviations[-1]
    # The same net.
    (one,), (other,) = by_losses.truths, by_decay.truths
    assert other.validation_loss == pytest.approx(one.validation_loss, rel=1e-12)
    for found in by_decay.measured:
        assert found.tau > 0.5, found
    # Of logistic regression the Gauss-Newton matrix is the Hessian.
    exact, near = (by_decay.spread("digits-logreg", one, "tau").mean for one in methods[:2])
    assert near == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"nets": "dmn"}, "dnn"),
        ({"nets": ()}, "nets: none"),
        ({"seeds": 0}, "seeds=0"),
        ({"examples": 20}, "examples=20 is not above 20"),
        ({"regulariser": "loss"}, "regulariser"),
    ],
)
def test_settings_out_of_range_are_refused(grid, words):
    with pytest.raises(UsageError, match=words):
        FidelityGrid(**grid)


@pytest.mark.slow
def test_the_scale_tiny_on_real_digits(tmp_path):
    found = study_fidelity(tmp_path, scale="tiny")
    for setting in found.cells:
        exact, *others = (found.spread(setting, method, "tau") for method in FORMS)
        assert exact.mean > 0.6 and exact.mean > max(one.mean for one in others)


def test_a_trial_may_train_again_within_its_turn():
    # Leave-one-out takes its turn once more where a study has taken it already.
    with TURN:
        assert TURN.acquire(blocking=False)
        TURN.release()
