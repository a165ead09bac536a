"""`assay record --estimator`: a classifier of scikit-learn on a dataset by its name."""

import re

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier

import assay
from assay.cli.app import run_app
from assay.experiments.plan import Plan, load_data
from assay.runs.artefacts import load_truth
from assay.runs.run import Run
from cli.shell import here, sentence

BOOSTED = "sklearn.ensemble.GradientBoostingClassifier:n_estimators=3+max_depth=2"


@pytest.fixture
def table(tmp_path):
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(60, 3))
    path = tmp_path / "rows.csv"
    lines = [f"{a},{b},{c},{'yes' if a + b > 0 else 'no'}" for a, b, c in rows]
    path.write_text("\n".join(["a,b,c,sold", *lines]) + "\n")
    return f"table:path={path},label=sold"


def test_the_run_is_that_of_the_same_fit_in_python(table, tmp_path):
    settings = {"data": table, "validation": 0.2, "plant": {"kind": "uniform", "rate": 0.1}, "seed": 4}
    folder = tmp_path / "run"
    flags = ["--validation", "0.2", "--plant", "uniform:rate=0.1", "--seed", "4", "--keep-logits"]
    assert run_app(["record", str(folder), "--data", table, "--estimator", BOOSTED, *flags]) == 0
    run, loaded = Run(folder), load_data(Plan.make(settings))
    assert run.epochs == 3 and run.ids == loaded.train.ids and run.class_names == loaded.train.class_names
    same = assay.sklearn.record(
        GradientBoostingClassifier(n_estimators=3, max_depth=2, random_state=4),
        loaded.train.inputs.numpy(),
        loaded.train.labels.numpy(),
        tmp_path / "same",
        validation=(loaded.validation.inputs.numpy(), loaded.validation.labels.numpy()),
        recording=assay.sklearn.TableRecording(ids=run.ids, class_names=run.class_names, keep_logits=True),
    )
    assert run.fingerprint == same.fingerprint
    ids, true = load_truth(run.paths.truth)
    assert ids == run.ids and torch.equal(true.to(torch.int64), loaded.true_labels) and bool((run.labels != true).any())


def test_folds_give_every_row_a_prediction_out_of_fold(table, tmp_path, capsys):
    asked = ["record", str(tmp_path / "run"), "--data", table, "--estimator", "sklearn.naive_bayes.GaussianNB", "--folds", "3"]
    assert run_app(asked) == 0 and "1 pass, held out, 3 folds" in capsys.readouterr().out
    run = Run(tmp_path / "run")
    assert len(run.ids) == 60 and run.passes.kind == "out_of_fold" and len(assay.score(run, "aum")["aum"]) == 60


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--net", "mlp"], "--net is for the training of a net"),
        (["--lr", "0.1"], "--lr is for the training of a net"),
        (["--resume"], "--resume is for the training of a net"),
        (["--live", "aum"], "--live is for the training of a net"),
        (["--validation-losses"], "--validation-losses is for the training of a net"),
        (["--estimator", "tree"], "estimator 'tree' is no dotted name of scikit-learn"),
        (["--estimator", "sklearn.tree.DecisionTree"], "is no class of scikit-learn here"),
        (["--estimator", "sklearn.tree.DecisionTreeClassifier"], "give folds=5 \\(`--folds 5`\\)"),
        (["--estimator", "sklearn.ensemble.GradientBoostingClassifier:trees=3"], "parameter of learner"),
        (["--epochs", "3"], "epochs="),
    ],
)
def test_what_does_not_go_with_an_estimator_is_one_sentence(table, tmp_path, flags, words, capsys):
    given = flags if "--estimator" in flags else ["--estimator", BOOSTED, *flags]
    code, _, err = here(capsys, "record", tmp_path / "run", "--data", table, *given)
    assert code == 2 and not (tmp_path / "run").exists()
    assert re.search(words, sentence(err))
