"""Folds: every row is scored by a model that never saw it, and nothing of a fold is lost when the recording is interrupted."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import assay
from assay.cluster import executor
from assay.core.errors import Mismatch, MissingEvidence, OutputExists, UsageError
from assay.core.ids import Ids
from assay.data.splitting import folds_of
from assay.experiments import record as recording
from assay.experiments.plan import load_data
from assay.runs.artefacts import load_folds, load_truth
from assay.runs.paths import RunPaths
from assay.runs.run import Run
from experiments.small import contents

ROWS, FOLDS = 60, 3


@given(st.lists(st.integers(0, 3), min_size=6, max_size=40), st.integers(2, 6), st.integers(0, 9))
def test_folds_are_even_in_every_class_and_follow_the_ids(labels, folds, seed):
    ids, labels = Ids(range(100, 100 + len(labels))), torch.tensor(labels)
    found = folds_of(ids, labels, folds, seed)
    for part in (found, *(found[labels == label] for label in labels.unique())):
        counts = torch.bincount(part, minlength=folds)
        assert int(counts.max() - counts.min()) <= 1 and len(counts) == folds
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(folds_of(ids.take(order), labels[order], folds, seed), found[order])


def test_folds_that_cannot_be():
    for folds in (1, 0, -1, 7):
        with pytest.raises(UsageError, match=r"outside 2\.\.6"):
            folds_of(Ids(range(6)), torch.tensor([0, 1] * 3), folds, 0)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("folds") / "shop.csv"
    draw = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["a", "b", "kind"])
        for row in range(ROWS):
            label = row % 2
            out.writerow([f"{draw.normal() + 2 * label:.4f}", f"{draw.normal():.4f}", ["tea", "coffee"][label]])
    return path


def plan_of(table, **more):
    settings = {
        "data": f"table:path={table},label=kind",
        "net": "logistic",
        "plant": {"rate": 0.1},
        "recipe": {"epochs": 2, "batch": 16},
        "folds": FOLDS,
    }
    return assay.Plan.make(settings | more)


@pytest.fixture(scope="module")
def made(table, tmp_path_factory):
    return recording.record(plan_of(table), tmp_path_factory.mktemp("run") / "run")


def test_every_row_of_a_table_is_scored_by_a_model_that_never_saw_it(table, made):
    assert len(made.ids) == ROWS and made.epochs == 1 and made.passes.kind == "out_of_fold" and made.header.view == "eval"
    assert list(made.ids) == list(range(ROWS))
    ids, folds = load_folds(made.paths.fold_table)
    assert ids == made.ids and torch.bincount(folds).tolist() == [20] * FOLDS
    true_ids, true = load_truth(made.paths.truth)
    assert true_ids == made.ids and int((true != made.labels).sum()) == 6
    scores = assay.score(made, "confidence")["confidence"]
    assert len(scores) == ROWS and scores.diagnostics["made of"].startswith("1 pass, held out, 3 folds")
    for fold in range(FOLDS):
        run = Run(made.paths.fold(fold).folder)
        held = made.ids.take(folds == fold)
        assert set(run.ids) == set(made.ids) - set(held) and run.passes is None
        # By hand: the last model of that fold, on the rows as they were read.
        state = run.model(1)
        examples = load_data(plan_of(table)).train
        weight, bias = (next(value for name, value in state.items() if name.endswith(end)) for end in ("weight", "bias"))
        logits = examples.inputs[folds == fold].double() @ weight.double().T + bias.double()
        wanted = logits.softmax(1).gather(1, made.labels[folds == fold][:, None])[:, 0]
        assert torch.allclose(scores.of(held), wanted, atol=1e-6)


def test_a_fold_by_itself_is_the_same_training_as_in_the_whole(table, made, tmp_path):
    alone = recording.record(plan_of(table).of_fold(1), tmp_path / "alone")
    inside = Run(made.paths.fold(1).folder)
    assert alone.fingerprint == inside.fingerprint
    assert all(torch.equal(alone.model(1)[name], value) for name, value in inside.model(1).items())
    # It is a run like any other, tested on the fold that it was trained without.
    assert inside.header.about["test examples"] == 20 and len(assay.score(inside, ["grand"])["grand"]) == 40


@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_folds_go_on_where_they_were_interrupted(table, made, tmp_path, monkeypatch, interrupted):
    trained = []

    def stopping(*args, **kwargs):
        trained.append(len(trained))
        if len(trained) > interrupted:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    train = recording.train
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(recording, "train", stopping)
        recording.record(plan_of(table), tmp_path / "run")
    if interrupted:
        with pytest.raises(OutputExists, match="already holds a run"):
            recording.record(plan_of(table), tmp_path / "run")
        with pytest.raises(Mismatch, match=r"folds was 3 and is 4"):
            recording.record(plan_of(table, folds=4), tmp_path / "run", resume=True)
    first = RunPaths(tmp_path / "run").fold(0).shard(0)
    before = first.stat().st_mtime_ns if interrupted else None
    again = recording.record(plan_of(table), tmp_path / "run", resume=bool(interrupted))
    assert again.fingerprint == made.fingerprint and again.check()
    assert before is None or first.stat().st_mtime_ns == before
    assert recording.record(plan_of(table), tmp_path / "run", resume=True).fingerprint == made.fingerprint


@pytest.mark.parametrize("where", ["inline", pytest.param("processes:2", marks=pytest.mark.slow)])
def test_folds_trained_in_other_places_are_the_same_to_the_bit(table, made, tmp_path, where):
    with executor(where) as pool:
        spread = recording.record(plan_of(table), tmp_path / "run", execution=assay.Execution(pool))
    assert spread.fingerprint == made.fingerprint and contents(spread) == contents(made) and spread.check()
    with executor(where) as pool:
        assert contents(
            recording.record(plan_of(table), tmp_path / "run", resume=True, execution=assay.Execution(pool))
        ) == contents(made)


def test_epochs_that_every_fold_kept_are_passes_in_their_order(table, made, tmp_path):
    run = recording.record(plan_of(table, record={"checkpoints": "every"}), tmp_path / "run")
    assert run.epochs == 2 and not run.passes.repeats
    found = assay.score(run, ["forgetting", "loss:epochs=1", "aum"])
    last = assay.score(made, "aum")["aum"].values
    margins = torch.stack([run.shard(epoch).read("margins") for epoch in range(2)])
    assert torch.allclose(margins[1].double(), last) and torch.allclose(found["aum"].values, margins.double().mean(0), atol=1e-6)


def test_what_does_not_go_with_folds_is_refused_in_a_sentence(table, made):
    for more, words in (
        ({"folds": 1}, "folds = 1 must be at least 2"),
        ({"folds": None, "fold": 1}, "fold = 1 is one of several folds"),
        ({"fold": 3}, r"fold = 3 is outside 0\.\.2"),
        ({"models": 2}, "models and folds"),
        ({"record": {"checkpoints": "none"}}, "keeps no model to predict"),
    ):
        with pytest.raises(UsageError, match=words):
            plan_of(table, **more)
    with pytest.raises(MissingEvidence, match=r"score one of the recordings in .*folds"):
        assay.score(made, "grand")
    decision = assay.choose(assay.score(made, "confidence")["confidence"], policy="remove_worst", count=5)
    with pytest.raises(UsageError, match=r"scored every row.*give a test part of its own when recording \(test=FILE\)"):
        assay.verify(decision, run=made)
    # A plan without folds is written as before.
    assert not {"folds", "fold"} & assay.Plan.make({"data": "digits"}).plain().keys()


def test_the_truth_of_rows_that_would_be_drawn_for_testing_is_kept(tmp_path):
    draw = np.random.default_rng(0)
    true = np.arange(40) % 2
    labels = np.where(np.arange(40) % 10 == 0, 1 - true, true)
    np.savez(tmp_path / "a.npz", inputs=draw.normal(size=(40, 3)).astype(np.float32), labels=labels, true_labels=true)
    plan = assay.Plan.make({"data": f"arrays:path={tmp_path / 'a.npz'},test=0.25", "net": "logistic", "folds": 2})
    loaded = plan.load()
    assert list(loaded.train.ids) == list(range(40)) and loaded.true_labels.tolist() == true.tolist()
    assert loaded.train.labels.tolist() == labels.tolist() and not loaded.test_apart
    part = plan.of_fold(0).load()
    assert len(part.test) == 20 and part.test_apart and len(part.true_labels) == 20


def test_the_page_says_that_what_is_shown_is_held_out_and_how_it_can_be_verified(made):
    run, table = made, assay.score(made, "aum")
    decision = assay.choose(table["aum"], "remove_worst", count=3)
    data = assay.report_data(run, table, decision=decision)
    assert [one.part for one in data.learning] == ["held out"]
    words = " ".join(text for _, text in data.summary)
    assert (
        "of the given labels of examples that it was not trained on" in words
        and "of the training examples at the end" not in words
    )
    assert "assay verify" not in words and "assay.verify(decision, retrain=...)" in words
