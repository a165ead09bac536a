"""The recorder around classifiers of tables, against classifiers that are fitted anew for every stage and against scikit-learn's own numbers."""

import contextlib
import warnings
import weakref

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, SGDClassifier
from sklearn.model_selection import GroupKFold, KFold, RepeatedStratifiedKFold, StratifiedKFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import assay
from assay.core.errors import MissingEvidence, NumericalError, OutputExists, UsageError
from assay.experiments.evidence import open_replay
from assay.sklearn import TableRecording, record
from groups import slow

pytestmark = [
    # LightGBM 4.6 says this of arrays that it was fitted with itself, beside a newer scikit-learn.
    pytest.mark.filterwarnings("ignore:X does not have valid feature names"),
    # scikit-learn 1.5 says this of its default AdaBoost, and SciPy the other of how scikit-learn before 1.7 calls it.
    pytest.mark.filterwarnings("ignore:The SAMME.R algorithm:FutureWarning"),
    pytest.mark.filterwarnings("ignore:scipy.optimize. The `disp` and `iprint` options:DeprecationWarning"),
]

KEEP = TableRecording(keep_logits=True)
HIST = {"min_samples_leaf": 3, "max_leaf_nodes": 5, "random_state": 0}


def table(classes=3, n=60, seed=0):
    """Rows and classes of which a quarter are wrong, so that no classifier is sure of them."""
    draw = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = draw.normal(size=(n, 4)) + 1.5 * np.eye(classes, 4)[y]
    return x, np.where(draw.random(n) < 0.25, (y + 1) % classes, y)


X3, Y3 = table()
X2, Y2 = table(2)


class Frame:
    """Rows with an index, as pandas has them."""

    def __init__(self, values, index):
        self.values, self.index = np.asarray(values), np.asarray(index)
        self.shape = self.values.shape

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)

    @property
    def iloc(self):
        values, index = self.values, self.index

        class At:
            def __getitem__(self, places):
                return Frame(values[places], index[places])

        return At()


def logits(run, epoch=-1):
    return run.shard(range(run.epochs)[epoch]).read("logits").numpy()


# ---------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    ("estimator", "size"),
    [
        (HistGradientBoostingClassifier(max_iter=4, **HIST), "max_iter"),
        (GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=0), "n_estimators"),
        (AdaBoostClassifier(DecisionTreeClassifier(max_depth=2), n_estimators=4, random_state=0), "n_estimators"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else "",
)
@pytest.mark.parametrize(("x", "y"), [(X2, Y2), (X3, Y3)], ids=["two", "three"])
def test_each_stage_has_the_probabilities_of_a_classifier_of_so_many_stages(estimator, size, x, y, tmp_path):
    run = record(clone(estimator), x, y, tmp_path / "run", recording=KEEP)
    assert run.epochs == 4 and run.header.view == "eval" and run.class_names == tuple("012"[: len(set(y))])
    for stage in range(4):
        alone = clone(estimator).set_params(**{size: stage + 1}).fit(x, y)
        np.testing.assert_allclose(softmax(logits(run, stage), axis=1), alone.predict_proba(x), atol=1e-6)


def test_a_column_of_decision_values_becomes_exactly_0_and_z(tmp_path):
    model = HistGradientBoostingClassifier(max_iter=2, **HIST)
    run = record(model, X2, Y2, tmp_path / "run", recording=KEEP)
    for epoch, z in enumerate(model.staged_decision_function(X2)):
        assert np.array_equal(logits(run, epoch), np.stack([np.zeros_like(z), z], 1).astype(np.float32))


def test_aum_over_stages_is_the_mean_margin_of_the_staged_decision_values(tmp_path):
    model = GradientBoostingClassifier(n_estimators=5, random_state=0)
    aum = assay.score(record(model, X3, Y3, tmp_path / "run"), "aum")["aum"]
    margins = []
    for z in model.staged_decision_function(X3):
        others = np.where(np.eye(3)[Y3] == 1, -np.inf, z).max(1)
        margins.append(z[np.arange(len(z)), Y3] - others)
    np.testing.assert_allclose(aum.values, np.mean(margins, 0), atol=1e-6)


@pytest.mark.parametrize("loss", ["log_loss", "exponential"])
def test_logits_are_scaled_until_their_softmax_is_the_estimators_own_probability(loss, tmp_path):
    model = GradientBoostingClassifier(n_estimators=3, loss=loss, random_state=0)
    run = record(model, X2, Y2, tmp_path / "run", recording=KEEP)
    for epoch, probs in enumerate(model.staged_predict_proba(X2)):
        np.testing.assert_allclose(softmax(logits(run, epoch), axis=1), probs, atol=1e-6)
    if loss == "exponential":
        np.testing.assert_allclose(logits(run)[:, 1], 2 * model.decision_function(X2), rtol=1e-6)


def test_the_estimator_is_fitted_as_fit_would_and_nothing_else_is_drawn(tmp_path):
    given = HistGradientBoostingClassifier(max_iter=3, **HIST)
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    record(given, X3, Y3, tmp_path / "run")
    assert before == (np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())
    assert np.array_equal(given.predict_proba(X3), clone(given).fit(X3, Y3).predict_proba(X3))


@pytest.mark.parametrize(("every", "stages_kept"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_every_kth_stage_and_the_last_are_kept(every, stages_kept, tmp_path):
    recording = TableRecording(every=every, keep_logits=True)
    model = GradientBoostingClassifier(n_estimators=5, random_state=0)
    run = record(model, X3, Y3, tmp_path / "run", recording=recording)
    staged = dict(enumerate(model.staged_decision_function(X3), 1))
    assert run.epochs == len(stages_kept)
    for epoch, stage in enumerate(stages_kept):
        assert np.array_equal(logits(run, epoch), staged[stage].astype(np.float32))


def test_stages_end_where_early_stopping_did_and_a_warning_tells_of_the_rows_held_back(tmp_path):
    model = HistGradientBoostingClassifier(max_iter=60, early_stopping=True, n_iter_no_change=2, **HIST)
    with pytest.warns(UserWarning, match=r"held 10% of the rows back .* Set early_stopping=False\.$") as said:
        run = record(model, X2, Y2, tmp_path / "run")
    assert said[0].filename == __file__ and run.epochs == model.n_iter_ < 60
    assert "held 10%" in run.header.about["caution"]
    with pytest.warns(UserWarning, match="n_iter_no_change=None"):
        record(GradientBoostingClassifier(n_estimators=4, n_iter_no_change=2), X2, Y2, tmp_path / "more")
    # Without rows held back there is nothing to be warned of.
    whole = clone(model).set_params(validation_fraction=None)
    assert "caution" not in record(whole, X2, Y2, tmp_path / "whole").header.about


class Tracked(ClassifierMixin, BaseEstimator):
    """A classifier that counts how many of its stages are held at once."""

    def fit(self, X, y):
        self.classes_, self.most_, self.made_ = np.unique(y), 0, []
        return self

    def staged_decision_function(self, X):
        for stage in range(30):
            values = np.full((len(X), 3), float(stage))
            self.made_.append(weakref.ref(values))
            self.most_ = max(self.most_, sum(made() is not None for made in self.made_))
            yield values
            del values

    def staged_predict_proba(self, X):
        for values in self.staged_decision_function(X):
            yield softmax(values, axis=1)


def test_no_more_than_three_stages_are_in_memory(tmp_path):
    model = Tracked()
    assert record(model, X3, Y3, tmp_path / "run", recording=TableRecording(every=4)).epochs == 8
    assert model.most_ <= 3
    # What the count would be if stages were collected.
    assert len(list(model.staged_decision_function(X3))) == 30 and model.most_ >= 30


@pytest.mark.parametrize("boosted", [True, False], ids=["stages", "epochs"])
def test_losses_on_validation_rows_are_the_mean_by_class_after_each_pass(boosted, tmp_path):
    model = GradientBoostingClassifier(n_estimators=3, random_state=0) if boosted else MLPClassifier((4,), random_state=0)
    held = table(seed=1, n=21)
    run = record(model, X3, Y3, tmp_path / "run", epochs=None if boosted else 3, validation=held)
    last = run.shard(2).read("validation_losses").numpy()
    losses = -np.log(model.predict_proba(held[0])[np.arange(21), held[1]])
    np.testing.assert_allclose(last, [losses[held[1] == label].mean() for label in range(3)], rtol=1e-6)
    assert run.shard(2).read("validation_counts").tolist() == np.bincount(held[1]).tolist()
    assert not np.allclose(run.shard(0).read("validation_losses"), last)


# ---------------------------------------------------------------------- epochs of partial_fit


def test_the_first_epoch_of_a_net_is_that_of_its_fit_and_others_follow_in_new_orders(tmp_path):
    settings = {"hidden_layer_sizes": (5,), "batch_size": 16, "learning_rate_init": 0.01}
    model = MLPClassifier(random_state=3, **settings)
    run = record(model, X3, Y3, tmp_path / "run", epochs=4, recording=KEEP)
    assert model.random_state == 3 and run.epochs == 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = MLPClassifier(max_iter=1, random_state=3, **settings).fit(X3, Y3)
    np.testing.assert_allclose(softmax(logits(run, 0), axis=1), first.predict_proba(X3), atol=1e-6)
    by_hand = MLPClassifier(random_state=np.random.RandomState(3), **settings)
    for _ in range(4):
        by_hand.partial_fit(X3, Y3, classes=[0, 1, 2])
    assert np.array_equal(model.predict_proba(X3), by_hand.predict_proba(X3))
    # With the seed itself every epoch would have the order of the first.
    again = MLPClassifier(random_state=3, **settings)
    for _ in range(4):
        again.partial_fit(X3, Y3, classes=[0, 1, 2])
    assert not np.array_equal(model.predict_proba(X3), again.predict_proba(X3))


def test_epochs_of_gradient_descent_go_on_from_each_other_in_new_orders(tmp_path):
    model = SGDClassifier(loss="log_loss", random_state=3)
    run = record(model, X2, Y2, tmp_path / "run", epochs=3, recording=KEEP)
    by_hand = SGDClassifier(loss="log_loss", random_state=np.random.RandomState(3))
    for epoch in range(3):
        z = by_hand.partial_fit(X2, Y2, classes=[0, 1]).decision_function(X2)
        assert np.array_equal(logits(run, epoch), np.stack([np.zeros_like(z), z], 1).astype(np.float32))
    assert np.array_equal(model.coef_, by_hand.coef_)


def test_without_probabilities_the_decision_values_are_the_logits(tmp_path):
    model = Perceptron(random_state=0)
    run = record(model, X3, Y3, tmp_path / "run", epochs=2, recording=KEEP)
    np.testing.assert_allclose(logits(run), model.decision_function(X3), rtol=1e-6)


def test_one_class_against_the_rest_is_recorded_by_its_probabilities(tmp_path):
    # The softmax of its decision values would be other ones.
    model = SGDClassifier(loss="log_loss", random_state=0)
    run = record(model, X3, Y3, tmp_path / "run", epochs=2, recording=KEEP)
    np.testing.assert_allclose(softmax(logits(run), axis=1), model.predict_proba(X3), atol=1e-6)
    assert not np.allclose(softmax(model.decision_function(X3), axis=1), model.predict_proba(X3), atol=1e-2)


# ---------------------------------------------------------------------- held out


def test_folds_are_those_of_cross_val_predict_and_the_estimator_stays_as_it_is(tmp_path):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    run = record(model, X3, Y3, tmp_path / "run", folds=4, recording=KEEP)
    splits = StratifiedKFold(4, shuffle=True, random_state=0)
    probs = cross_val_predict(model, X3, Y3, cv=splits, method="predict_proba")
    np.testing.assert_allclose(softmax(logits(run), axis=1), probs, atol=1e-6)
    assert run.epochs == 1 and not hasattr(model[-1], "coef_")
    confidence = assay.score(run, "confidence")["confidence"].values
    np.testing.assert_allclose(confidence, probs[np.arange(len(Y3)), Y3], atol=1e-6)


def test_repeated_splits_are_as_many_passes_and_any_splits_will_do(tmp_path):
    run = record(GaussianNB(), X3, Y3, tmp_path / "run", folds=RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=1))
    assert run.epochs == 2 and run.passes.repeats
    groups = np.arange(len(Y3)) // 6
    pairs = list(GroupKFold(5).split(X3, Y3, groups))
    run = record(GaussianNB(), X3, Y3, tmp_path / "pairs", folds=pairs, recording=KEEP)
    assert run.epochs == 1 and not run.passes.repeats
    probs = cross_val_predict(GaussianNB(), X3, Y3, cv=pairs, method="predict_proba")
    np.testing.assert_allclose(softmax(logits(run), axis=1), probs, atol=1e-6)


@pytest.mark.parametrize("loss", ["log_loss", "exponential"])
def test_boosting_is_recorded_by_folds_too(loss, tmp_path):
    model = GradientBoostingClassifier(n_estimators=3, loss=loss, random_state=0)
    run = record(model, X2, Y2, tmp_path / "run", folds=KFold(3), recording=KEEP)
    probs = cross_val_predict(model, X2, Y2, cv=KFold(3), method="predict_proba")
    np.testing.assert_allclose(softmax(logits(run), axis=1), probs, atol=1e-6)


@pytest.mark.parametrize("kind", [RandomForestClassifier, BaggingClassifier])
@pytest.mark.filterwarnings("ignore:.*there are probabilities of 0")
def test_out_of_bag_predictions_are_those_of_the_ensemble(kind, tmp_path):
    model = kind(n_estimators=40, oob_score=True, random_state=0)
    run = record(model, X3, Y3, tmp_path / "run", recording=KEEP)
    assert run.epochs == 1
    np.testing.assert_allclose(softmax(logits(run), axis=1), model.oob_decision_function_, atol=1e-6)


@pytest.mark.parametrize("kind", [RandomForestClassifier, BaggingClassifier])
@pytest.mark.filterwarnings("ignore:Some inputs do not have OOB", "ignore:invalid value encountered")
def test_rows_that_no_member_predicts_out_of_bag_are_named(kind, tmp_path):
    model = kind(n_estimators=2, oob_score=True, random_state=0)
    with pytest.raises(
        UsageError, match=r"\d+ of 60 rows were in the sample of every member.* ids \d.*Set a larger n_estimators\.$"
    ):
        record(model, X3, Y3, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (np.array(["no", "yes"])[Y2], ("no", "yes")),
        (np.array(["no", "yes"], dtype=object)[Y2], ("no", "yes")),
        (Y2 == 1, ("False", "True")),
        (2 * Y2 - 1, ("-1", "1")),
        (Y2.astype(np.float64), ("0", "1")),
        (Y2.tolist(), ("0", "1")),
        (torch.tensor(Y2), ("0", "1")),
    ],
    ids=["texts", "objects", "booleans", "signs", "floats", "list", "tensor"],
)
def test_classes_of_all_kinds(y, names, tmp_path):
    model = HistGradientBoostingClassifier(max_iter=2, **HIST)
    run = record(model, X2, y, tmp_path / "run", recording=KEEP, validation=(X2, y))
    assert run.class_names == names and run.labels.tolist() == Y2.tolist()
    plain = clone(model).fit(X2, Y2)
    np.testing.assert_allclose(softmax(logits(run), axis=1), plain.predict_proba(X2), atol=1e-6)


def test_names_ids_and_weights_may_be_given(tmp_path):
    weights = np.random.default_rng(0).uniform(0.1, 3, len(Y2))
    recording = TableRecording(
        ids=[f"r{row}" for row in range(60)], class_names=["low", "high"], sample_weight=weights, keep_logits=True
    )
    model = make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=3, random_state=0))
    run = record(model, X2, Y2, tmp_path / "run", recording=recording)
    alone = clone(model).fit(X2, Y2, gradientboostingclassifier__sample_weight=weights)
    np.testing.assert_allclose(softmax(logits(run), axis=1), alone.predict_proba(X2), atol=1e-6)
    assert run.class_names == ("low", "high") and run.ids[0] == "r0" and "weights" in run.header.about
    folded = record(model, X2, Y2, tmp_path / "folds", folds=KFold(2), recording=recording)
    half = clone(model).fit(X2[30:], Y2[30:], gradientboostingclassifier__sample_weight=weights[30:])
    np.testing.assert_allclose(softmax(logits(folded), axis=1)[:30], half.predict_proba(X2[:30]), atol=1e-6)
    by_epoch = record(SGDClassifier(random_state=0), X2, Y2, tmp_path / "epochs", epochs=1, recording=recording)
    plain = record(SGDClassifier(random_state=0), X2, Y2, tmp_path / "plain", epochs=1, recording=KEEP)
    assert not np.array_equal(logits(by_epoch), logits(plain))


@pytest.mark.parametrize("memory", [False, True], ids=["plain", "cached"])
@pytest.mark.parametrize("way", [{"epochs": 2}, {}], ids=["epochs", "stages"])
def test_a_pipeline_is_recorded_by_its_last_step_and_predicts_afterwards(way, memory, tmp_path):
    last = SGDClassifier(loss="log_loss", random_state=0) if way else GradientBoostingClassifier(n_estimators=2, random_state=0)
    model = make_pipeline(
        StandardScaler(), MinMaxScaler(), make_pipeline(StandardScaler(), last), memory=str(tmp_path) if memory else None
    )
    run = record(model, 9 * X2 + 5, Y2, tmp_path / "run", recording=KEEP, **way)
    np.testing.assert_allclose(softmax(logits(run), axis=1), model.predict_proba(9 * X2 + 5), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*there are probabilities of 0")
def test_sparse_rows(tmp_path):
    rows = coo_array(np.where(X2 > 0, X2, 0))
    for name, model, way in (
        ("stages", GradientBoostingClassifier(n_estimators=2, random_state=0), {}),
        ("epochs", SGDClassifier(random_state=0), {"epochs": 2}),
        ("folds", LogisticRegression(), {"folds": 3}),
        ("bags", RandomForestClassifier(30, oob_score=True, random_state=0), {}),
    ):
        sparse = record(model, rows, Y2, tmp_path / name, recording=KEEP, **way)
        if name == "epochs":
            # Its steps differ for sparse rows.
            np.testing.assert_allclose(logits(sparse)[:, 1], model.decision_function(rows), rtol=1e-6)
        else:
            dense = record(model, rows.toarray(), Y2, tmp_path / f"{name} dense", recording=KEEP, **way)
            np.testing.assert_allclose(logits(sparse), logits(dense), atol=1e-4)


def test_ids_are_the_index_where_it_names_rows(tmp_path):
    names = [f"row {row}" for row in range(60)]
    for number, (x, y) in enumerate(((Frame(X2, names), Y2), (X2, Frame(Y2, names)), (Frame(X2, names), Frame(Y2, range(60))))):
        assert list(record(GaussianNB(), x, y, tmp_path / str(number), folds=2).ids) == names
    for number, index in enumerate((np.zeros(60, np.int64), np.linspace(0, 1, 60))):
        with pytest.warns(UserWarning, match=r"index names no rows .* numbered 0 to 59") as said:
            run = record(GaussianNB(), Frame(X2, index), Y2, tmp_path / f"no {number}", folds=2)
        assert list(run.ids) == list(range(60)) and said[0].filename == __file__


def test_a_real_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(X2, columns=list("abcd"), index=[f"row {row}" for row in range(60)])
    y = pandas.Series(np.array(["no", "yes"])[Y2], index=rows.index, dtype="category")
    for name, model, way in (
        ("stages", HistGradientBoostingClassifier(max_iter=2, **HIST), {}),
        ("folds", LogisticRegression(), {"folds": 3}),
        ("epochs", make_pipeline(StandardScaler(), SGDClassifier()), {"epochs": 2}),
    ):
        run = record(model, rows, y, tmp_path / name, **way)
        assert list(run.ids) == list(rows.index) and run.class_names == ("no", "yes")
    y.iloc[3] = None
    with pytest.raises(UsageError, match="1 of 60 rows have no class in y: ids row 3"):
        record(LogisticRegression(), rows, y, tmp_path / "missing", folds=3)


# ---------------------------------------------------------------------- other libraries


def lightgbm(**settings):
    pytest.importorskip("lightgbm")
    from lightgbm import LGBMClassifier

    return LGBMClassifier(**{"n_estimators": 5, "num_leaves": 4, "min_child_samples": 3, "n_jobs": 1, "verbose": -1, **settings})


def xgboost(**settings):
    pytest.importorskip("xgboost")
    from xgboost import XGBClassifier

    return XGBClassifier(**{"n_estimators": 5, "max_depth": 2, "n_jobs": 1, **settings})


@pytest.mark.parametrize("made", [lightgbm, *slow(xgboost)])
@pytest.mark.parametrize(("x", "y"), [(X2, Y2), (X3, Y3)], ids=["two", "three"])
def test_other_libraries_stages_are_their_own_predictions_by_so_many_trees(made, x, y, tmp_path):
    model = made()
    run = record(model, x, y, tmp_path / "run", recording=TableRecording(every=2, keep_logits=True), validation=(x, y))
    assert run.epochs == 3
    for epoch, trees in enumerate((2, 4, 5)):
        part = {"num_iteration": trees} if made is lightgbm else {"iteration_range": (0, trees)}
        np.testing.assert_allclose(softmax(logits(run, epoch), axis=1), model.predict_proba(x, **part), atol=1e-6)


@pytest.mark.parametrize("made", [lightgbm, *slow(xgboost)])
def test_other_libraries_stop_early_by_the_validation_rows_and_stages_end_at_the_best(made, tmp_path):
    held = table(2, seed=1)
    stop = {"early_stopping_round" if made is lightgbm else "early_stopping_rounds": 2}
    model = made(n_estimators=80, learning_rate=0.8, **stop)
    run = record(model, X2, Y2, tmp_path / "run", validation=held, recording=KEEP)
    best = model.best_iteration_ if made is lightgbm else model.best_iteration + 1
    assert run.epochs == best < 80
    np.testing.assert_allclose(softmax(logits(run), axis=1), model.predict_proba(X2), atol=1e-6)


@pytest.mark.parametrize("made", [lightgbm, *slow(xgboost)])
def test_other_libraries_fits_are_their_own(made, tmp_path):
    model, alone = made(), made()
    record(model, X3, Y3, tmp_path / "run")
    assert np.array_equal(model.predict_proba(X3), alone.fit(X3, Y3).predict_proba(X3))


@pytest.mark.parametrize(
    ("made", "settings", "words"),
    [
        (lightgbm, {"boosting_type": "dart"}, "kind 'dart' .* take boosting_type='gbdt', or give folds=5"),
        (lightgbm, {"boosting": "rf"}, "kind 'rf'"),
        (xgboost, {"booster": "dart"}, "kind 'dart' .* take booster='gbtree'"),
        (xgboost, {"booster": "gblinear"}, "kind 'gblinear'"),
        (
            xgboost,
            {"early_stopping_rounds": 2},
            "XGBClassifier failed in fit: ValueError: Must have at least 1 validation dataset",
        ),
    ],
)
def test_other_libraries_without_stages_are_refused(made, settings, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        record(made(**settings), X2, Y2, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_classes_that_do_not_exclude_each_other_are_refused(tmp_path):
    with pytest.raises(NumericalError, match=r"predict_proba of row 0 is 0\.\d+, .* whose sum is not 1"):
        record(lightgbm(objective="multiclassova"), X3, Y3, tmp_path / "run")


# ---------------------------------------------------------------------- refusals


GB = GradientBoostingClassifier(n_estimators=2)


def fitted(model):
    with contextlib.suppress(AttributeError):
        return model.partial_fit(X3, Y3, classes=[0, 1, 2])
    return model.fit(X3, Y3)


REFUSED = {
    "a class": (GradientBoostingClassifier, {}, r"and no classifier; give GradientBoostingClassifier\(\.\.\.\)\."),
    "no estimator": (7, {}, "estimator= is 7 and no classifier, such as Hist"),
    "a regressor": (LinearRegression(), {}, "a LinearRegression and no classifier; give one"),
    "a pipeline of a regressor": (make_pipeline(StandardScaler(), LinearRegression()), {}, "ends in a LinearRegression"),
    "a pipeline of no estimator": (make_pipeline(StandardScaler(), "passthrough"), {}, "ends in 'passthrough'"),
    "no stages": (LogisticRegression(), {}, r"neither stages .* nor partial_fit nor out-of-bag predictions; give folds=5"),
    "no bags asked for": (
        RandomForestClassifier(),
        {},
        "without oob_score=True, out-of-bag .*; set oob_score=True, or give folds=5",
    ),
    "partial_fit without epochs": (SGDClassifier(), {}, "such as epochs=20"),
    "no epoch": (SGDClassifier(), {"epochs": 0}, "epochs=0 is below 1"),
    "epochs of stages": (GB, {"epochs": 3}, "epochs=3 is for partial_fit, .* by the stages of boosting; set n_estimators"),
    "epochs of folds": (SGDClassifier(), {"epochs": 3, "folds": 3}, "is recorded by folds; leave epochs= out"),
    "validation of folds": (LogisticRegression(), {"folds": 3, "validation": (X3, Y3)}, "validation= is for stages and epochs"),
    "every of folds": (
        LogisticRegression(),
        {"folds": 3, "recording": TableRecording(every=2)},
        "every=2 is for stages and epochs",
    ),
    "warm start": (
        fitted(clone(GB).set_params(warm_start=True)),
        {},
        r"fitted already, .* give sklearn\.base\.clone\(estimator\)",
    ),
    "an earlier training": (fitted(SGDClassifier()), {"epochs": 2}, "SGDClassifier is fitted already"),
    "early stopping by epoch": (SGDClassifier(early_stopping=True), {"epochs": 2}, "early_stopping should be False"),
    "a wrong setting": (
        clone(GB).set_params(n_estimators=-1),
        {},
        "GradientBoostingClassifier failed in fit: InvalidParameterError: .*n_estimators",
    ),
    "one class": (GB, {"y": np.zeros(60, np.int64)}, "All 60 rows are of class 0; valuing needs at least 2 classes"),
    "no class": (
        GB,
        {"y": np.where(Y3 == 1, np.nan, Y3)},
        r"\d+ of 60 rows have no class in y: ids 1,.* or leave these rows out",
    ),
    "None": (GB, {"y": np.where(Y3 == 1, None, Y3)}, "have no class in y"),
    "a regression": (GB, {"y": Y3 + 0.5}, r"numbers such as 0\.5, which are those of a regression"),
    "mixed kinds": (GB, {"y": np.where(Y3 == 1, "a", Y3.astype(object))}, "mixes kinds of values"),
    "dates": (GB, {"y": Y3.astype("datetime64[D]")}, r"holds datetime64\[D\]; give classes"),
    "several labels": (GB, {"y": np.eye(3)[Y3]}, r"shape \(60, 3\); only one class for each row"),
    "a column": (GB, {"y": Y3[:, None]}, r"give y\.ravel\(\)"),
    "no y": (GB, {"y": None}, "y= is None; give one class for each row"),
    "too few classes": (GB, {"y": Y3[:-1]}, "59 classes in y= do not fit 60 rows"),
    "no rows": (GB, {"X": None}, "X= is None; give an array, a DataFrame or a sparse matrix"),
    "a number": (GB, {"X": np.array(3.0)}, "X= is a single number"),
    "rows of texts": (
        GB,
        {"X": np.full((60, 2), "x")},
        "GradientBoostingClassifier failed in fit: ValueError: could not convert",
    ),
    "too few ids": (GB, {"recording": TableRecording(ids=range(3))}, "3 ids do not fit 60 rows"),
    "ids twice": (GB, {"recording": TableRecording(ids=[1] * 60)}, "1 ids occur more than once"),
    "too few names": (GB, {"recording": TableRecording(class_names=["a", "b"])}, "2 class names do not fit 3 classes"),
    "too few weights": (GB, {"recording": TableRecording(sample_weight=[1.0])}, "give one number for each of 60 rows"),
    "weights untaken": (
        OneVsRestClassifier(GB),
        {"folds": 2, "recording": TableRecording(sample_weight=np.ones(60))},
        "fit takes no sample_weight",
    ),
    "strange validation": (GB, {"validation": (X3[:2], np.array([1, 7]))}, "1 validation rows are of no class of y \\(7\\)"),
    "short validation": (GB, {"validation": (X3[:2], Y3[:1])}, "1 classes in validation= do not fit 2 rows"),
    "empty validation": (GB, {"validation": (X3[:0], Y3[:0])}, "validation= has no rows"),
    "narrow validation": (
        GB,
        {"validation": (X3[:, :2], Y3)},
        "failed in the passes that are recorded: ValueError: X has 2 features",
    ),
    "one fold": (LogisticRegression(), {"folds": 1}, "folds=1 is outside 2 to 60"),
    "too many folds": (LogisticRegression(), {"folds": 30}, r"class '\d' has \d+ rows, and each fold needs one"),
    "a class of rows": (GB, {"X": dict}, "X= is a type; give an array"),
    "a splitter's class": (LogisticRegression(), {"folds": KFold}, "folds= is .*; give a number of folds, a splitter"),
    "no folds": (LogisticRegression(), {"folds": "five"}, "folds= is 'five'; give a number of folds"),
    "folds that are none": (LogisticRegression(), {"folds": [3]}, "no pair of positions in 0 to 59"),
    "folds outside": (LogisticRegression(), {"folds": [([0, 1, 2], [99])]}, "no pair of positions in 0 to 59"),
    "folds that overlap": (LogisticRegression(), {"folds": [(range(60), [0])]}, "trains on rows that it holds out"),
    "folds that lack rows": (
        LogisticRegression(),
        {"folds": [(range(30), range(30, 60))]},
        "never holds out 30 of 60 rows; ids 0, 1",
    ),
    "folds that repeat rows": (
        LogisticRegression(),
        {"folds": [(range(30), range(30, 60))] * 2},
        "holds out 30 rows again before",
    ),
    "folds without a class": (
        LogisticRegression(),
        {"folds": [(np.flatnonzero(Y3), np.flatnonzero(Y3 == 0))]},
        "on no row of class '0'",
    ),
    "pairs of classes": (SVC(decision_function_shape="ovo"), {"folds": 3}, "set decision_function_shape='ovr'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded_is_one_sentence_and_leaves_nothing(name, tmp_path):
    estimator, given, words = REFUSED[name]
    given = {"X": X3, "y": Y3, **given}
    with pytest.raises(UsageError, match=words) as said:
        record(estimator, given.pop("X"), given.pop("y"), tmp_path / "run", **given)
    assert said.value.exit_code == 2 and "\n" not in str(said.value)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_recording_say_where_they_are_given():
    with pytest.raises(UsageError, match=r"every= is now given as recording=assay\.sklearn\.TableRecording\(every=\.\.\.\)"):
        record(GB, X3, Y3, "nowhere", every=2)
    with pytest.raises(UsageError, match="every=0 is below 1"):
        TableRecording(every=0)
    with pytest.raises(UsageError, match="keep_logits= is 'yes'"):
        TableRecording(keep_logits="yes")


def test_a_folder_that_is_taken_is_refused_before_anything_is_fitted(tmp_path):
    record(GaussianNB(), X3, Y3, tmp_path / "run", folds=2)
    model = clone(GB)
    with pytest.raises(OutputExists, match=r"already holds a run; name another folder\.$"):
        record(model, X3, Y3, tmp_path / "run")
    assert not hasattr(model, "classes_")


def test_a_probability_of_0_is_told_and_counts_the_same_in_every_fold(tmp_path):
    # Whole trees are sure of everything.
    with pytest.warns(
        UserWarning, match=r"probabilities of 0, which count as 1e-07: .* \(aum:form=probs\) do not feel it"
    ) as said:
        run = record(DecisionTreeClassifier(random_state=0), X3, Y3, tmp_path / "run", folds=3, recording=KEEP)
    assert said[0].filename == __file__
    np.testing.assert_allclose(np.unique(logits(run)), [np.log(1e-7), 0], rtol=1e-6)
    probs = cross_val_predict(
        DecisionTreeClassifier(random_state=0),
        X3,
        Y3,
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        method="predict_proba",
    )
    assert np.array_equal(logits(run) == 0, probs == 1)


def test_methods_are_told_what_the_passes_are(tmp_path):
    boosted = record(clone(GB), X3, Y3, tmp_path / "run")
    assert boosted.passes.kind == "evaluation" and boosted.header.about["epochs"] == "every stage of boosting"
    assert set(assay.score(boosted, ["aum", "forgetting", "variability"])) == {"aum", "forgetting", "variability"}
    folded = record(GaussianNB(), X3, Y3, tmp_path / "folds", folds=2)
    assert folded.passes.kind == "out_of_fold" and folded.passes.unseen
    with pytest.warns(UserWarning, match="forgetting compares passes with each other, and reads one here"):
        assert set(assay.score(folded, ["aum", "forgetting"])) == {"aum"}
    forest = record(RandomForestClassifier(30, oob_score=True, min_samples_leaf=5, random_state=0), X3, Y3, tmp_path / "bags")
    assert forest.passes.kind == "out_of_bag"


def test_cures_are_those_of_a_table_and_work(tmp_path):
    stages = clone(GB).set_params(n_estimators=4)
    boosted = record(stages, X3, Y3, tmp_path / "run")
    with pytest.raises(MissingEvidence, match=r"TableRecording\(keep_logits=True\)"):
        assay.score(boosted, "tdds:window=3")
    kept = record(stages, X3, Y3, tmp_path / "logits", recording=TableRecording(keep_logits=True))
    assert len(assay.score(kept, "tdds:window=3")["tdds:window=3"]) == len(Y3)
    for method in ("grand", "sgd_influence"):
        with pytest.raises(MissingEvidence, match="an estimator has none, so ask for methods that read passes") as said:
            assay.score(boosted, method)
        assert "from_checkpoints" not in str(said.value)
    assert "aum" in assay.score(boosted, "all"), "the cure"
    with pytest.raises(MissingEvidence, match="an estimator has none"):
        open_replay(boosted)


class Stageless(Tracked):
    """A classifier whose fit stopped before its first stage."""

    def staged_decision_function(self, X):
        return iter(())


def test_a_classifier_without_any_stage_is_refused(tmp_path):
    with pytest.raises(UsageError, match="The estimator has no stage to record; set n_estimators or max_iter"):
        record(Stageless(), X3, Y3, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_is_public():
    assert assay.sklearn.record is record and assay.sklearn.TableRecording is TableRecording
    assert "sklearn" not in assay.__all__


@pytest.mark.slow
def test_few_held_out_rows_of_which_all_are_sure_have_the_logits_of_the_others(tmp_path):
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import GroupKFold, LeaveOneOut

    draw = np.random.default_rng(0)
    X = draw.normal(size=(24, 3))
    y = (X[:, 0] > 0).astype(int)
    sure = GradientBoostingClassifier(loss="exponential", n_estimators=300, random_state=0)
    run = assay.sklearn.record(sure, X, y, tmp_path / "sure", folds=LeaveOneOut())
    wanted = []
    for train, test in LeaveOneOut().split(X):
        z = sure.fit(X[train], y[train]).decision_function(X[test])[0]
        wanted.append(2 * z if y[test][0] else -2 * z)
    assert np.allclose(assay.score(run, "aum")["aum"].values, wanted, atol=1e-4)
    cut = SGDClassifier(loss="modified_huber", random_state=0)
    noisy = np.where(np.arange(24) % 7 == 0, 1 - y, y)
    with pytest.warns(UserWarning, match="probabilities of 0"):
        run = assay.sklearn.record(cut, 50 * X, noisy, tmp_path / "cut", folds=LeaveOneOut())
    assert float(assay.score(run, "aum")["aum"].values.abs().max()) < 20
    with pytest.raises(UsageError, match=r"give its pairs of positions, folds=list\(splitter.split\(X, y, groups\)\)"):
        assay.sklearn.record(cut, X, y, tmp_path / "groups", folds=GroupKFold(3))
