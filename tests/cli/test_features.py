"""Features by name on the command line: of a run's model, of the data, of rows from outside; and what is not there."""

import numpy as np
import pytest
import torch

import assay
from assay.methods.knn_disagreement import knn_disagreement
from assay.runs.artefacts import load_scores
from assay.runs.run import Run
from cli.shell import here, sentence


def saved(folder, title):
    return load_scores(Run(folder).paths.scores(title))


def test_a_run_is_scored_by_what_its_models_make(own, capsys, monkeypatch):
    code, out, _ = here(
        capsys, "score", own, "knn_disagreement:features=penultimate", "knn_disagreement:k=5,features=inputs", "aum"
    )
    assert code == 0 and "share of neighbours" in out
    scores, run = saved(own, "knn_disagreement"), Run(own)
    assert len(scores) == len(run.ids) and bool(((scores.values >= 0) & (scores.values <= 1)).all())
    assert set(scores.lineage.parents) == {"run"} and scores.method == "knn_disagreement"
    # What was scored is taken from the folder, and stands on the page and before a policy as any other score.
    monkeypatch.setattr("assay.methods.knn_disagreement.knn_disagreement", None)
    assert here(capsys, "score", own, "knn_disagreement")[0] == 0
    assert here(capsys, "choose", own, "knn_disagreement", "--policy", "bottom_k", "--keep", "0.9", "--name", "near")[0] == 0
    code, _, err = here(capsys, "report", own, "--first", "knn_disagreement", "--decision", "near")
    assert code == 0, err
    assert "knn_disagreement" in (own / "report.html").read_text()


def test_features_of_the_data_are_the_data(own, capsys):
    title = "knn_disagreement:features=inputs,k=5,metric=euclidean"
    assert here(capsys, "score", own, title)[0] == 0
    run = Run(own)
    inputs, content = assay.experiments.evidence.data_of(run)
    assert torch.equal(saved(own, title).values, knn_disagreement(inputs, run.labels, 5, "euclidean"))
    assert saved(own, title).lineage.parents["inputs"] == content


def test_without_training_there_are_the_data_and_rows_from_outside(tmp_path, capsys):
    folder, rows = tmp_path / "run", np.random.default_rng(0).normal(size=(397, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    data, outside = "knn_disagreement:features=inputs", "knn_disagreement:features=rows:e"
    code, _, err = here(capsys, "score", "--data", "digits:test=1400", "--out", folder, "knn_disagreement")
    assert code == 3 and "knn_disagreement reads a training, and there is none here" in sentence(err)
    code, _, err = here(
        capsys, "score", "--data", "digits:test=1400", "--out", folder, data, outside, "--inputs", f"e={tmp_path / 'rows.npy'}"
    )
    assert code == 0, err
    labels = Run(folder).labels
    assert torch.equal(saved(folder, outside).values, knn_disagreement(torch.from_numpy(rows), labels))
    assert not torch.equal(saved(folder, data).values, saved(folder, outside).values)
    # Rows that are not given this time are taken by their name; other rows of that name are other scores.
    assert here(capsys, "score", folder, outside)[0] == 0
    before = saved(folder, outside)
    np.save(tmp_path / "rows.npy", rows[::-1].copy())
    assert here(capsys, "score", folder, outside, "--inputs", f"e={tmp_path / 'rows.npy'}")[0] == 0
    assert not torch.equal(saved(folder, outside).values, before.values)
    code, _, err = here(capsys, "score", folder, "knn_disagreement:features=rows:other")
    assert code == 2 and "reads rows named 'other', which are neither given nor scored yet; give --inputs other=FILE" in sentence(
        err
    )
    code, _, err = here(capsys, "score", folder, data, "--inputs", f"e={tmp_path / 'rows.npy'}")
    assert code == 2 and "No method reads rows named 'e'" in sentence(err)


@pytest.mark.parametrize(
    ("title", "words", "code"),
    [
        ("knn_disagreement:features=last", "features=last is none of inputs, rows:NAME, penultimate", 2),
        ("knn_disagreement:features=layer:nine", "No layer of the model is named 'nine'", 2),
        ("knn_disagreement:features=penultimate@9", "kept no model of epoch 9", 3),
    ],
)
def test_features_that_are_not_there_are_refused(own, capsys, title, words, code):
    found, _, err = here(capsys, "score", own, title)
    assert found == code and words in sentence(err)


def test_several_models_are_meant_and_all_leaves_it_to_be_named(tmp_path, capsys):
    folder = tmp_path / "run"
    flags = ["--data", "digits:test=1400", "--net", "mlp:widths=8", "--epochs", "2", "--models", "2"]
    assert here(capsys, "record", folder, *flags)[0] == 0
    assert here(capsys, "score", folder, "knn_disagreement")[0] == 0
    scores = saved(folder, "knn_disagreement")
    assert scores.repeats.shape == (2, 397) and torch.equal(scores.values, scores.repeats.mean(0))
    assert not torch.equal(scores.repeats[0], scores.repeats[1])
    code, out, _ = here(capsys, "score", folder, "all")
    assert code == 0 and "knn_disagreement" in out


def test_the_options_are_told(capsys):
    code, out, _ = here(capsys, "methods", "knn_disagreement")
    assert code == 0 and "penultimate" in out and "reads features, labels" in out
