"""Scores of data alone: no run is recorded, and everything after a score works as it does from a run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import assay
from assay.cli.saved import saved_scores
from assay.core.errors import Mismatch, UsageError
from assay.core.evidence import Evidence
from assay.core.scoring import score as score_by_hand
from assay.experiments.plan import Plan
from assay.methods import parse
from assay.runs.artefacts import load_scores
from assay.runs.paths import RunPaths
from assay.runs.run import Run
from cli.shell import here, sentence

DATA = "digits:test=1400"


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run without training whose 397 digits have every tenth label wrong, with one score."""
    from assay.cli.app import run_app

    folder = tmp_path_factory.mktemp("untrained") / "digits"
    assert run_app(["score", "--data", DATA, "--plant", "uniform:rate=0.1", "--out", str(folder), "cg_score"]) == 0
    return folder


def test_the_scores_are_those_of_the_data(scored):
    run, scores = Run(scored), load_scores(Run(scored).paths.scores("cg_score"))
    assert run.epochs == 0 and run.header.view == "none" and len(run.ids) == 397
    loaded = Plan.make({"data": DATA, "plant": {"rate": 0.1}}).load()
    inputs, labels = loaded.train.inputs.float() / 255, loaded.train.labels
    if loaded.train.inputs.dtype != torch.uint8:
        inputs = loaded.train.inputs
    evidence = Evidence(loaded.train.ids, 10, labels=labels, inputs=inputs)
    assert torch.equal(scores.values, score_by_hand([parse("cg_score")], evidence)[0].values)
    assert scores.lineage.parents["inputs"] == loaded.train.content and scores.lineage.dataset == run.dataset
    wrong = labels != loaded.true_labels
    gap = scores.values[wrong][:, None] - scores.values[~wrong]
    assert float((gap > 0).double().mean()) > 0.97


def test_examples_are_chosen_from_data_alone_and_shown(scored, capsys, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(scored, folder)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(397, 4)).astype(np.float32))
    rows = ["k_center:keep=9,features=rows:mine", "--inputs", f"mine={tmp_path / 'rows.npy'}"]
    for name, given, budget in (
        ("some", ["k_center:keep=0.1"], 39),
        ("more", ["--policy", "k_center", "--keep", "40"], 40),
        ("few", rows, 9),
    ):
        code, out, err = here(capsys, "choose", folder, *given, "--name", name)
        assert code == 0 and err == "" and f"Next: assay verify {folder} --decision {name}" in out
        decision = assay.load_decision(Run(folder).paths.decision(name))
        assert decision.budget == len(decision.order) == budget
    code, out, _ = here(capsys, "verify", folder, "--decision", "some", "--seeds", "2", "--executor", "inline")
    assert code == 0 and "Retrained: k_center:keep=0.1" in out
    assert here(capsys, "report", folder, "--decision", "some")[0] == 0
    page = Run(folder).paths.report.read_text()
    assert "Decision: drop 358, keep 39." in page and "center 1 in inputs, nearest to the mean" in page


def test_a_decision_that_keeps_the_suspects_says_so_here_and_on_the_page(scored, capsys, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(scored, folder)
    with pytest.warns(UserWarning, match="The high values of cg_score stay, and those are the most suspect"):
        assert here(capsys, "choose", folder, "cg_score", "--policy", "top_k:keep=0.9", "--name", "suspects")[0] == 0
    assert here(capsys, "report", folder)[0] == 0
    assert (
        "The high values of cg_score stay, and those are the most suspect; to drop them" in Run(folder).paths.report.read_text()
    )


def test_everything_after_a_score_works(scored, capsys, tmp_path):
    code, out, _ = here(capsys, "score", "--data", DATA, "--plant", "uniform:rate=0.1", "--out", scored, "cg_score:protocol=rest")
    assert code == 0 and f"Saved in {scored / 'scores'}" in out and f"assay report {scored}" in out
    code, out, _ = here(capsys, "score", scored, "cg_score", "cg_score:protocol=rest")
    assert code == 0 and "cg_score:protocol=rest" in out
    code, out, _ = here(capsys, "choose", scored, "cg_score", "--policy", "bottom_k", "--keep", "0.9", "--name", "drop")
    assert code == 0
    code, out, _ = here(capsys, "verify", scored, "--decision", "drop", "--seeds", "2", "--executor", "inline")
    assert code == 0 and "Retrained: bottom_k:keep=0.9 by cg_score" in out
    code, out, err = here(capsys, "report", scored)
    assert code == 0, err
    assert "Nothing was trained" in (scored / "report.html").read_text()
    code, out, _ = here(capsys, "inspect", scored, "--check")
    assert code == 0 and "0 committed" in out and ": reads a training, and nothing was trained here." in out
    code, out, _ = here(capsys, "score", scored, "all")
    assert code == 0 and "cg_score" in out and "left out aum, " in out
    code, _, err = here(capsys, "export", scored, tmp_path / "npy")
    assert code == 3 and "keeps no logits" in sentence(err)


def test_it_goes_to_runs_if_nothing_else_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, _ = here(capsys, "score", "--data", DATA, "cg_score:repeats=1")
    assert code == 0 and Run("runs/digits-untrained").paths.scores("cg_score:repeats=1").exists()
    plan = tmp_path / "plan.toml"
    plan.write_text(f'data = "{DATA}"\nnet = "logistic"\nseed = 3\n[recipe]\nepochs = 2\n')
    code, _, _ = here(capsys, "score", "--plan", plan, "--out", "other", "cg_score:repeats=1")
    assert code == 0 and Run("other").header.about["net"] == "logistic" and Run("other").header.seed == 3


def test_a_path_says_what_reads_it(tmp_path, capsys):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(40, 5)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", inputs=inputs, labels=np.arange(40) % 2)
    code, _, _ = here(capsys, "score", "--data", f"{tmp_path / 'rows.npz'}:test=0.25", "--out", tmp_path / "a", "cg_score")
    assert code == 0 and len(Run(tmp_path / "a").ids) == 30
    table = "\n".join(["a,b,kind", *(f"{x:.4f},{y:.4f},{'no' if n % 2 else 'yes'}" for n, (x, y) in enumerate(inputs[:, :2]))])
    (tmp_path / "table.csv").write_text(table + "\n")
    code, _, _ = here(capsys, "score", "--data", f"{tmp_path / 'table.csv'}:label=kind", "--out", tmp_path / "b", "cg_score")
    assert code == 0 and Run(tmp_path / "b").class_names == ("no", "yes")


def test_embeddings_take_the_place_of_the_data(scored, tmp_path, capsys):
    run = Run(scored)
    rows = torch.randn(397, 12, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "rows.npy", rows.numpy())
    order = torch.randperm(397, generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "rows.npz", inputs=rows[order].numpy(), ids=run.ids.take(order).values)
    title = "cg_score:inputs=noise"
    code, _, err = here(capsys, "choose", scored, title, "--policy", "bottom_k", "--keep", "0.9", "--name", "by noise")
    assert code == 2 and "rows named 'noise', which are neither given nor scored yet; give --inputs noise=FILE" in sentence(err)
    expected = assay.score(run, title, inputs={"noise": rows})[title]
    for name in ("rows.npy", "rows.npz"):
        code, _, _ = here(capsys, "score", scored, title, "cg_score", "--inputs", f"noise={tmp_path / name}")
        assert code == 0
        assert torch.equal(load_scores(run.paths.scores(title)).values, expected.values)
    # A score of the data is another one, and what was scored of the rows is taken from there without them.
    assert not torch.equal(load_scores(run.paths.scores("cg_score")).values, expected.values)
    code, _, _ = here(capsys, "choose", scored, title, "--policy", "bottom_k", "--keep", "0.9", "--name", "by noise")
    assert code == 0 and torch.equal(load_scores(run.paths.scores(title)).values, expected.values)
    other = assay.score(run, title, inputs={"noise": rows + 1}, save=True)[title]
    assert not torch.equal(other.values, expected.values), "other rows of that name"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--data", "digts", "cg_score"], "Did you mean digits", 2),
        (["--data", DATA, "cg_scor"], "Did you mean cg_score", 2),
        (
            ["--data", DATA, "aum"],
            "aum reads a training, and there is none here; record one with `assay record`",
            3,
        ),
        (["--data", DATA, "sgd_influence"], "sgd_influence reads a training", 3),
        (["--data", DATA, "cg_score:ratio=0"], "ratio=0.0 is not above 0", 2),
        (["--plan", "absent.toml", "cg_score"], "absent.toml does not exist", 2),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments, words, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found, _, err = here(capsys, "score", *arguments)
    assert found == code and words in sentence(err)


def test_a_folder_that_holds_something_else_is_refused(scored, recorded, tmp_path, capsys):
    for flags, words, code in (
        (["--data", DATA, "--out", recorded], "holds a recorded run", 2),
        (["--data", DATA, "--out", scored], "is of another plan (plant was", 4),
        (["--data", DATA, "--out", tmp_path], "is not empty and holds no run", 2),
    ):
        (tmp_path / "file").touch()
        found, _, err = here(capsys, "score", *flags, "cg_score")
        assert found == code and words in sentence(err)
    found, _, err = here(capsys, "score", recorded, "cg_score", "--plant", "uniform:rate=0.1")
    assert found == 2 and "--plant, --seed and --out go with --data or --plan" in sentence(err)
    found, _, err = here(capsys, "record", scored, "--data", DATA, "--resume")
    assert found == 4 and "view='none'" in sentence(err)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("no"), "cannot be read"),
        (lambda path: np.save(path, np.zeros((3, 2))), "rows of shape (3, 2) for 397 ids"),
        (lambda path: np.save(path, np.full((397, 2), np.nan)), "NaN, infinite"),
        (lambda path: np.save(path, np.array([["a"]] * 397)), "give numbers"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(scored, tmp_path, capsys, make, words):
    make(tmp_path / "rows.npy")
    found, _, err = here(capsys, "score", scored, "cg_score:inputs=rows", "--inputs", f"rows={tmp_path / 'rows.npy'}")
    assert found == 2 and words in sentence(err)


def test_inputs_for_a_method_that_reads_none_are_refused(recorded, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.ones((397, 2)))
    found, _, err = here(capsys, "score", recorded, "cg_score", "--inputs", f"rows={tmp_path / 'rows.npy'}")
    assert found == 2 and "No method reads rows named 'rows'; score a method with features=rows:rows" in sentence(err)
    found, _, err = here(capsys, "score", recorded, "cg_score:inputs=rows", "--inputs", tmp_path / "rows.npy")
    assert found == 2 and "is not NAME=FILE" in sentence(err)


def test_a_run_of_the_users_own_loop_takes_its_loader_or_inputs(tmp_path):
    from experiments.test_verify import looped

    run = looped(tmp_path / "own")
    with pytest.raises(assay.AssayError, match="whose data assay does not know"):
        assay.score(run, "cg_score")
    rows = torch.randn(len(run.ids), 3, generator=torch.Generator().manual_seed(0))
    (found,) = assay.score(run, "cg_score:inputs=rows", inputs={"rows": rows}).values()
    assert len(found) == len(run.ids)
    with pytest.raises(assay.AssayError, match="NaN or infinite"):
        assay.score(run, "cg_score:inputs=rows", inputs={"rows": rows * float("nan")})


def test_what_is_refused_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, words, code in (
        (["el2n"], "el2n reads a training", 3),
        (["digits", "cg_score"], "No method is named 'digits'", 2),
        ([], "Name a method, such as cg_score", 2),
    ):
        found, _, err = here(capsys, "score", *arguments, "--data", DATA, "--out", "left")
        assert found == code and words in sentence(err)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_several_models_has_the_same_examples_for_all(tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text(f'data = "{DATA}"\nmodels = 3\n')
    code, _, err = here(capsys, "score", "--plan", plan, "--out", tmp_path / "run", "cg_score:repeats=1")
    assert code == 0, err
    assert here(capsys, "inspect", tmp_path / "run")[0] == 0


def test_a_path_that_is_absent_is_said_to_be(tmp_path, capsys):
    for name in ("absent.npz", "no/such/folder"):
        code, _, err = here(capsys, "score", "--data", name, "cg_score")
        assert code == 2 and f"{name} is neither a folder nor a file" in sentence(err)


def test_rows_and_references_are_named_once(scored, recorded, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.ones((397, 3), np.float32))
    twice = ("--inputs", f"e={tmp_path / 'a.npy'}", "--inputs", f"e={tmp_path / 'a.npy'}")
    code, _, err = here(capsys, "score", scored, "cg_score:inputs=e", *twice)
    assert code == 2 and "--inputs names 'e' twice" in sentence(err)
    code, _, err = here(
        capsys, "score", recorded, "oti:reference=r", "--reference", f"r={recorded}", "--reference", f"r={recorded}"
    )
    assert code == 2 and "--reference names 'r' twice" in sentence(err)


def test_flags_that_no_method_reads_are_refused(scored, capsys):
    for flags, words in (
        (("--schedule", "tree"), "--schedule, --memory and --tolerance are for methods that replay the training"),
        (("--memory", "5000"), "--schedule, --memory and --tolerance"),
        (("--tolerance", "0.1"), "--schedule, --memory and --tolerance"),
        (("--workers", "1"), "--where is for loo"),
        (("--executor", "inline"), "--where is for loo"),
    ):
        code, _, err = here(capsys, "score", scored, "cg_score", *flags)
        assert code == 2 and words in sentence(err)
    code, _, err = here(capsys, "score", scored, "data_oob:learner=knn", "data_oob:learner=net", "--where", "processes:2")
    assert (
        code == 2
        and "data_oob:learner=knn, data_oob:learner=net train their learners side by side in this process" in sentence(err)
    )


def test_data_that_changed_are_read_anew_and_are_another_run(tmp_path):
    def written(seed):
        draw = np.random.default_rng(seed)
        np.savez(tmp_path / "d.npz", inputs=draw.normal(size=(40, 6)).astype(np.float32), labels=np.arange(40) % 2)

    plan = Plan.make({"data": f"arrays:path={tmp_path / 'd.npz'},test=0.25"})
    written(1)
    one = assay.untrained(plan, tmp_path / "one")
    before = assay.score(one, "cg_score", save=True)["cg_score"]
    written(2)
    other = assay.untrained(plan, tmp_path / "other")
    assert other.header.about["content"] != one.header.about["content"] and other.fingerprint != one.fingerprint
    assert not torch.equal(assay.score(other, "cg_score")["cg_score"].values, before.values)
    with pytest.raises(Mismatch, match="is of data"):
        assay.untrained(plan, tmp_path / "one")
    # A score carried over from the one is none of the other's, though ids and labels are the same.
    shutil.copytree(one.folder / "scores", other.folder / "scores")
    with pytest.raises(Mismatch, match="was made from recording"):
        saved_scores(other)


def test_other_rows_of_a_name_make_an_old_decision_stale(tmp_path, capsys):
    folder = tmp_path / "run"
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", draw.normal(size=(397, 5)).astype(np.float32))
    title = "cg_score:inputs=e"
    assert here(capsys, "score", "--data", DATA, "--out", folder, title, "--inputs", f"e={tmp_path / 'a.npy'}")[0] == 0
    assert here(capsys, "choose", folder, title, "--policy", "bottom_k", "--keep", "0.5", "--name", "old")[0] == 0
    assert here(capsys, "score", folder, title, "--inputs", f"e={tmp_path / 'b.npy'}")[0] == 0
    for verb, *flags in (("report",), ("verify", "--seeds", "2", "--executor", "inline")):
        code, _, err = here(capsys, verb, folder, "--decision", "old", *flags)
        assert code == 4 and "was made by scores" in sentence(err) and sentence(err).endswith("choose again.")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"e": np.ones((397, 3))}, "Inputs are ndarray; give a torch tensor"),
        ({"e": [[1.0]]}, "Inputs are list; give a torch tensor"),
        ({"e": torch.tensor(1.0)}, "Inputs are of layout"),
        ({"e": torch.eye(397).to_sparse()}, "give a dense tensor"),
        ({"e": torch.ones(397, 3, device="meta")}, "on meta"),
        ({"e": torch.ones(397, 3, dtype=torch.complex64)}, "Inputs are complex"),
    ],
)
def test_inputs_that_are_no_rows_are_refused(scored, inputs, words):
    with pytest.raises(UsageError, match=words):
        assay.score(scored, "cg_score:inputs=e", inputs=inputs)


def test_titles_that_a_file_name_cannot_hold_do_not_share_one():
    paths = RunPaths(Path("run"))
    titles = ["aum", "dual:window=5", "cg_score:inputs=a/b", "cg_score:inputs=a+b", "cg_score:inputs=a b", "sgd_influence:target=class=\u00e4",
              "sgd_influence:target=class=\u00f6", "oti:reference=a:b", "oti:reference=a,b"]  # fmt: skip
    names = [paths.scores(title).name for title in titles]
    assert len(set(names)) == len(titles) and names[:2] == ["aum.parquet", "dual+window=5.parquet"]
    assert all(re.fullmatch(r"[A-Za-z0-9._=+-]+", name) for name in names)


def test_a_score_towards_a_reference_is_found_again_without_it(recorded, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(recorded, folder)
    title = "oti:reference=r"
    assert here(capsys, "score", folder, title, "--reference", f"r={recorded}")[0] == 0
    saved = load_scores(Run(folder).paths.scores(title))
    code, _, err = here(capsys, "choose", folder, title, "--policy", "top_k", "--keep", "0.9")
    assert code == 0, err
    assert torch.equal(load_scores(Run(folder).paths.scores(title)).values, saved.values)
    code, _, err = here(capsys, "score", folder, "oti:reference=other")
    assert code == 2 and "No reference is named 'other'" in sentence(err)


def test_scores_that_read_no_data_need_none(tmp_path, capsys, monkeypatch):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", inputs=draw.normal(size=(40, 5)).astype(np.float32), labels=np.arange(40) % 2)
    monkeypatch.chdir(tmp_path)
    assert here(capsys, "record", "run", "--data", "d.npz:test=0.25", "--net", "logistic", "--epochs", "2")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = here(capsys, "score", "../run", "aum", "confidence")
    assert code == 0, err
    assert here(capsys, "choose", "../run", "confidence", "--policy", "top_k", "--keep", "0.5")[0] == 0
    code, _, err = here(capsys, "score", "../run", "cg_score")
    assert code == 2 and "d.npz is neither a folder nor a file" in sentence(err)
