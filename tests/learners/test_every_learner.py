"""Laws that hold for every learner; each by hand where it has a formula."""

import dataclasses
import pathlib
import warnings

import numpy as np
import pytest
import torch

import assay.learners
from assay.core.errors import NumericalError, UnknownName, UsageError
from assay.learners import catalogue, parse

SPECS = [
    "knn", "knn:k=1", "logistic", "ridge", "ridge:penalty=0.1", "tree", "tree:depth=2+leaf=3", "net:steps=30", "net:width=4+steps=10",
    "sklearn.ensemble.RandomForestClassifier:n_estimators=5", "sklearn.naive_bayes.GaussianNB", "sklearn.svm.LinearSVC",
    "sklearn.neighbors.KNeighborsClassifier:n_neighbors=2+weights=distance",
]  # fmt: skip


def world(n=40, dims=3, classes=4, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return (2 * torch.eye(classes, dims)[labels] + torch.randn(n, dims, generator=draw)).to(dtype), labels


def test_every_file_is_a_learner_under_its_own_name():
    files = {path.stem for path in pathlib.Path(assay.learners.__file__).parent.glob("[!_]*.py")}
    assert set(catalogue()) == files == {cls.__module__.rpartition(".")[2] for cls in catalogue().values()}
    assert {parse(spec).name for spec in SPECS} == files
    for cls in catalogue().values():
        assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen and cls.summary and not cls.__subclasses__()


@pytest.mark.parametrize("spec", SPECS)
def test_probabilities_of_all_classes_and_no_state_moves(spec):
    rows, labels = world()
    before = rows.clone(), labels.clone(), torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again = (parse(spec).fit(rows, labels, 4, seed=3).predict_probs(rows) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (40, 4) and first.dtype == torch.float64
    torch.testing.assert_close(first.sum(1), torch.ones(40, dtype=torch.float64))
    assert bool((first >= 0).all()) and float((first.argmax(1) == labels).double().mean()) > 0.4
    assert torch.equal(rows, before[0]) and torch.equal(labels, before[1]) and torch.equal(torch.get_rng_state(), before[2])
    assert np.random.get_state()[1].tolist() == before[3] and torch.get_num_threads() == before[4] and torch.is_grad_enabled()
    assert parse(parse(spec).title) == parse(spec)
    single = parse(spec).fit(rows.float(), labels, 4).predict_probs(rows.float())
    assert single.dtype == torch.float64
    assert parse(spec).fit(rows, labels, 4).predict_probs(rows[:0]).shape == (0, 4)


@pytest.mark.parametrize("spec", SPECS)
def test_a_class_that_is_not_there_has_probability_0_and_one_alone_is_all_there_is(spec):
    rows, labels = world()
    learner = parse(spec)
    some = labels % 2 == 1
    probs = learner.fit(rows[some], labels[some], 6).predict_probs(rows)
    assert probs.shape == (40, 6) and bool((probs[:, [0, 2, 4, 5]] == 0).all())
    torch.testing.assert_close(probs.sum(1), torch.ones(40, dtype=torch.float64))
    # The same classifier as of two classes numbered from 0.
    two = learner.fit(rows[some], labels[some] // 2, 2).predict_probs(rows)
    assert torch.equal(probs[:, [1, 3]], two)
    one = learner.fit(rows[labels == 2], labels[labels == 2], 4).predict_probs(rows)
    assert torch.equal(one, torch.nn.functional.one_hot(torch.full((40,), 2), 4).double())
    assert torch.equal(learner.fit(rows[:1], labels[:1], 4).predict_probs(rows)[:, 0], torch.ones(40, dtype=torch.float64))


@pytest.mark.parametrize("spec", SPECS)
def test_a_weight_is_how_often_an_example_stands_there(spec):
    rows, labels = world()
    weights = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(1))
    learner = parse(spec)
    found = learner.fit(rows, labels, 4, weights, seed=2).predict_probs(rows)
    expected = learner.fit(rows.repeat_interleave(weights, 0), labels.repeat_interleave(weights), 4, seed=2).predict_probs(rows)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, learner.fit(rows, labels, 4, seed=2).predict_probs(rows), atol=1e-4)


@pytest.mark.parametrize("spec", ["knn", "logistic", "ridge", "net:steps=20", "tree", "sklearn.naive_bayes.GaussianNB"])
def test_fractions_of_weights(spec):
    rows, labels = world()
    learner, weights = parse(spec), torch.rand(40, generator=torch.Generator().manual_seed(0)).double() + 0.5
    probs = learner.fit(rows, labels, 4, weights).predict_probs(rows)
    torch.testing.assert_close(probs.sum(1), torch.ones(40, dtype=torch.float64))


def test_what_cannot_be_learned_from_is_refused():
    rows, labels = world()
    for weights, words in (
        (torch.zeros(40), "no example to learn from"),
        (-torch.ones(40), "negative or not finite"),
        (torch.full((40,), torch.nan), "negative or not finite"),
    ):
        with pytest.raises(UsageError, match=words):
            parse("tree").fit(rows, labels, 4, weights)
    with pytest.raises(UsageError, match="takes no weights other than whole numbers"):
        parse("sklearn.neighbors.KNeighborsClassifier").fit(rows, labels, 4, torch.full((40,), 0.5))
    with pytest.raises(UsageError, match="max_depth"):
        parse("sklearn.tree.DecisionTreeClassifier:max_depth=-1").fit(rows, labels, 4)
    with pytest.raises(NumericalError, match=r"sklearn\.naive_bayes\.MultinomialNB failed: ValueError: Negative values"):
        parse("sklearn.naive_bayes.MultinomialNB").fit(rows, labels, 4)
    with pytest.raises(NumericalError, match="failed: ValueError: Input X contains infinity or a value too large"):
        parse("tree").fit(rows * 1e300, labels, 4)


def test_a_training_that_did_not_converge_says_so():
    rows, labels = world()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "newton-cg failed to converge" in parse("logistic:iterations=1").fit(rows, labels, 4).remarks[0]
        assert parse("logistic").fit(rows, labels, 4).remarks == ()
        assert "newton-cg" in parse("logistic:iterations=1").fit(rows[labels < 2], labels[labels < 2], 4).remarks[0]


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("forest", UnknownName, "No learner is named 'forest'"),
        ("tree:depht=2", UnknownName, "Did you mean depth"),
        ("knn:k=0", UsageError, "k=0 is below 1"),
        ("knn:k=1+k=2", UsageError, "given twice"),
        ("ridge:penalty=nan", UsageError, "penalty=nan is no finite number; give 1e-12 or more"),
        ("ridge:penalty=inf", UsageError, "penalty=inf is no finite number"),
        ("logistic:c=nan", UsageError, "c=nan is no number"),
        ("net:rate=0", UsageError, "rate=0.0 is below"),
        ("tree:leaf=0", UsageError, "leaf=0 is below 1"),
        ("sklearn", UsageError, "needs a value for estimator"),
        ("sklearn.tree.Missing", UsageError, "no class of scikit-learn here"),
        ("sklearn.missing.Tree", UsageError, "no class of scikit-learn here"),
        ("sklearn.tree.DecisionTreeRegressor", UsageError, "is no classifier"),
        ("sklearn.base.clone", UsageError, "no class of scikit-learn here"),
        ("sklearn.ensemble.StackingClassifier", UsageError, "cannot be made from numbers and texts alone"),
        ("sklearn.tree.DecisionTreeClassifier:max_dept=2", UnknownName, "Did you mean max_depth"),
        ("sklearn.tree.DecisionTreeClassifier:max_depth", UsageError, "not of the form parameter=value"),
        ("sklearn.tree.DecisionTreeClassifier:random_state=2", UsageError, "random_state is the seed of each training"),
    ],
)
def test_names_and_options_that_do_not_exist(spec, kind, words):
    with pytest.raises(kind, match=words):
        parse(spec)


def test_neighbours_by_hand():
    rows, labels = torch.tensor([[0.0], [1.0], [1.0], [3.0], [9.0]]), torch.tensor([0, 1, 2, 1, 0])
    fitted = parse("knn:k=2").fit(rows, labels, 3)
    # The nearest, and one of two that are equally near; then two alike; then the two last.
    expected = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5], [0.5, 0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(fitted.predict_probs(torch.tensor([[0.0], [1.0], [7.0]])), expected)
    # Fewer than k: all of them.
    everybody = parse("knn:k=50").fit(rows, labels, 3).predict_probs(rows)
    torch.testing.assert_close(everybody, torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64).expand(5, 3))


def test_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    rows, labels = world(200)
    found = parse("knn:k=7").fit(rows[:150], labels[:150], 4).predict_probs(rows[150:])
    theirs = KNeighborsClassifier(7).fit(rows[:150].numpy(), labels[:150].numpy()).predict_proba(rows[150:].numpy())
    torch.testing.assert_close(found, torch.from_numpy(theirs))


@pytest.mark.parametrize("dims", [3, 90])
def test_ridge_is_that_of_scikit_learn_on_standardised_columns(dims):
    from sklearn.linear_model import Ridge

    rows, labels = world(50, dims)
    rows[:, 1] = 7.3
    found = parse("ridge:penalty=2").fit(rows, labels, 4).predict_probs(rows)
    deviation = rows.numpy().std(0)
    unit = (rows.numpy() - rows.numpy().mean(0)) / np.where(deviation > 1e-9, deviation, np.inf)
    outputs = Ridge(2.0).fit(unit, np.eye(4)[labels]).predict(unit).clip(0)
    torch.testing.assert_close(found, torch.from_numpy(outputs / outputs.sum(1, keepdims=True)))


def test_logistic_is_where_the_gradient_of_its_loss_is_0():
    rows, labels = world(60)
    weights = torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(0)).double()
    fitted = parse("logistic:c=0.5").fit(rows, labels, 4, weights)
    x = fitted.scale(rows)
    torch.testing.assert_close(
        (x * weights[:, None]).sum(0) / weights.sum(), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0
    )
    model = fitted.inner.estimator
    off = (fitted.predict_probs(rows) - torch.nn.functional.one_hot(labels, 4)) * weights[:, None]
    gradient = 0.5 * off.T @ x + torch.from_numpy(model.coef_)
    assert float(gradient.abs().max()) < 1e-5 and float(off.sum(0).abs().max()) < 1e-4


def test_a_seed_is_that_of_the_estimator_and_of_the_net():
    rows, labels = world()
    for spec in ("net:steps=5", "sklearn.ensemble.ExtraTreesClassifier:n_estimators=2+max_depth=3"):
        one, other = (parse(spec).fit(rows, labels, 4, seed=seed).predict_probs(rows) for seed in (0, 2**62 + 1))
        assert not torch.equal(one, other)
    assert parse("sklearn.ensemble.ExtraTreesClassifier:bootstrap=true+max_features=none+criterion=entropy+min_samples_leaf=0.1")
