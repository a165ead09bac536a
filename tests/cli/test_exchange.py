import json

import numpy as np
import pytest
import torch

from assay.experiments.existing import from_probs
from assay.experiments.score import score
from assay.runs.artefacts import load_decision
from assay.runs.run import Run
from cli.shell import SMALL, here, sentence


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run with its logits, and the npy files made of it."""
    from assay.cli.app import run_app

    folder = tmp_path_factory.mktemp("exchange")
    assert run_app(["record", str(folder / "run"), *SMALL, "--keep-logits"]) == 0
    assert run_app(["export", str(folder / "run"), str(folder / "npy")]) == 0
    np.save(folder / "labels.npy", Run(folder / "run").labels.numpy())
    return folder


def test_a_run_goes_out_and_comes_back(exported, tmp_path, capsys):
    code, out, err = here(capsys, "import", exported / "npy", tmp_path / "back", "--labels", exported / "labels.npy")
    assert code == 0 and err == "" and "3 epochs of 397 examples" in out
    before, after = Run(exported / "run"), Run(tmp_path / "back")
    assert after.dataset == before.dataset and after.header.view == "train"
    for name in ("aum", "tdds:window=3", "forgetting"):
        assert torch.allclose(score(after, name)[name].values, score(before, name)[name].values, atol=1e-6)
    assert (
        here(capsys, "import", exported / "npy", tmp_path / "clean", "--labels", exported / "labels.npy", "--view", "eval")[0]
        == 0
    )
    assert Run(tmp_path / "clean").header.view == "eval"


def test_saved_predictions_that_go_out_are_called_what_they_are(tmp_path, capsys):
    from_probs(tmp_path / "run", np.full((6, 2), 0.5), np.arange(6) % 2, "out_of_fold")
    code, out, _ = here(capsys, "export", tmp_path / "run", tmp_path / "npy")
    assert code == 0 and f"{tmp_path / 'npy'}: 1 pass, out of fold: each example" in " ".join(out.split()) and "epoch" not in out


def test_scores_go_out_by_method(exported, tmp_path, capsys):
    assert here(capsys, "score", exported / "run", "aum", "loss")[0] == 0
    assert here(capsys, "export", exported / "run", tmp_path / "npy", "--scores")[0] == 0
    values = score(exported / "run", "aum")["aum"].values.numpy()
    assert np.array_equal(np.load(tmp_path / "npy" / "aum_score.npy"), values)
    assert np.array_equal(values[np.load(tmp_path / "npy" / "aum_mask.npy")], np.sort(values))


def test_two_scores_of_one_method_do_not_fit_into_one_name(exported, tmp_path, capsys):
    assert here(capsys, "score", exported / "run", "aum", "aum:form=probs")[0] == 0
    code, _, err = here(capsys, "export", exported / "run", tmp_path / "npy", "--scores")
    assert code == 2 and "several scores of aum" in sentence(err) and not (tmp_path / "npy").exists()
    (exported / "run" / "scores" / "aum+form=probs.parquet").unlink()


@pytest.mark.parametrize(
    ("labels", "extra", "expected", "words"),
    [
        (None, (), 2, "no readable npy file"),
        (np.zeros(397), (), 2, "whole number per example"),
        (np.zeros((397, 2), np.int64), (), 2, "whole number per example"),
        (np.arange(397) % 10, (), 4, "not the cross-entropy"),
        ("right", ("--view", "evl"), 2, "'train'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(exported, tmp_path, capsys, labels, extra, expected, words):
    path = tmp_path / "labels.npy"
    if isinstance(labels, np.ndarray):
        np.save(path, labels)
    elif labels == "right":
        path = exported / "labels.npy"
    code, _, err = here(capsys, "import", exported / "npy", tmp_path / "back", "--labels", path, *extra)
    assert code == expected and words in sentence(err)


def test_what_cannot_be_read_or_written_is_refused(exported, recorded, tmp_path, capsys):
    labels = ("--labels", exported / "labels.npy")
    for command, expected, words in (
        (("import", tmp_path, tmp_path / "back", *labels), 2, "holds no i_Output.npy"),
        (("import", exported / "npy", recorded, *labels), 2, "already holds a run"),
        (("export", recorded, tmp_path / "npy"), 3, "keeps no logits"),
        (("export", exported / "run", exported / "npy"), 2, "already holds npy files"),
        (("export", tmp_path / "nowhere", tmp_path / "npy"), 5, "does not exist"),
    ):
        code, _, err = here(capsys, *command)
        assert code == expected and words in sentence(err), command


def test_results_go_out_for_other_tools_and_decisions_come_back(own, tmp_path, capsys):
    for to, name, words in (
        ("csv", "r.csv", "397 examples"),
        ("jsonl", "r.jsonl", "397 examples"),
        ("parquet", "r.parquet", "397 examples"),
        ("fiftyone", "f.json", "assay_aum"),
        ("card", "card.md", "README.md"),
    ):
        code, out, err = here(capsys, "export", own, tmp_path / name, "--to", to, "--decision", "drop")
        assert code == 0 and err == "" and words in out and (tmp_path / name).exists(), to
    code, out, _ = here(capsys, "export", own, tmp_path / "i.csv", "--to", "cleanlab", "--score", "aum", "--decision", "drop")
    assert code == 0 and "40 issues among 397 examples" in out and "label_quality: the place of aum" in out
    code, out, _ = here(capsys, "export", own, tmp_path / "t.json", "--to", "label-studio", "--score", "aum", "--most", "3")
    assert code == 0 and "3 tasks" in out and '<Image name="content"' in (tmp_path / "t.xml").read_text()
    tasks = json.loads((tmp_path / "t.json").read_text())
    assert all(task["data"]["image"].startswith("data:image/png;base64,") for task in tasks)
    for task in tasks:
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    (tmp_path / "answers.json").write_text(json.dumps(tasks))
    for places in ((own, tmp_path / "answers.json"), (tmp_path / "answers.json", own)):
        code, out, err = here(capsys, "import", *places, "--from", "label-studio")
        assert code == 0 and err == "" and f"Next: assay verify {own} --decision answers" in out
    changed = sum(task["data"]["given_class"] != task["predictions"][0]["result"][0]["value"]["choices"][0] for task in tasks)
    assert load_decision(own / "decisions" / "answers.parquet").counts()["relabel"] == changed > 0
    code, out, err = here(capsys, "import", own, tmp_path / "i.csv", "--from", "cleanlab", "--name", "issues")
    assert code == 0 and err == "" and f"Next: assay verify {own} --decision issues" in out
    assert load_decision(own / "decisions" / "issues.parquet").counts()["drop"] == 40
    (tmp_path / "tags.json").write_text(json.dumps({"tags": {task["data"]["assay_id"]: ["drop"] for task in tasks}}))
    code, out, err = here(capsys, "import", own, tmp_path / "tags.json", "--from", "fiftyone")
    assert code == 0 and err == "" and load_decision(own / "decisions" / "tags.parquet").counts()["drop"] == 3
    code, out, _ = here(capsys, "import", own, tmp_path / "r.csv", "--from", "csv", "--name", "again")
    first, back = (load_decision(own / "decisions" / f"{name}.parquet") for name in ("drop", "again"))
    assert code == 0 and first.fingerprint == back.fingerprint


def test_a_dropped_column_stands_in_nothing_that_goes_out(tmp_path, capsys):
    rows = [f"{20 + 7 * n % 40},{['cook', 'nurse'][n % 3 % 2]},secret-{n},{['no', 'yes'][n * n % 5 % 2]}" for n in range(60)]
    (tmp_path / "t.csv").write_text("age,job,who,label\n" + "\n".join(rows) + "\n")
    run, out = tmp_path / "run", tmp_path / "out"
    out.mkdir()
    data = f"{tmp_path / 't.csv'}:label=label,drop=who"
    for command in (
        ("record", run, "--data", data, "--net", "mlp", "--epochs", "2"),
        ("score", run, "aum"),
        ("choose", run, "aum", "--policy", "top_k:keep=0.9", "--name", "drop"),
        *(
            ("export", run, out / f"{to}.csv", "--to", to, "--score", "aum", "--decision", "drop")
            for to in ("csv", "jsonl", "cleanlab", "fiftyone", "card")
        ),
        ("export", run, out / "tasks.json", "--to", "label-studio", "--score", "aum"),
        ("report", run),
        ("explain", run, "--example", "3"),
    ):
        code, said, err = here(capsys, *command)
        assert code == 0 and "secret" not in said, err
    tasks = json.loads((out / "tasks.json").read_text())
    assert all(task["data"]["text"].startswith("age: ") and "\njob: " in task["data"]["text"] for task in tasks)
    assert len(list(out.iterdir())) == 7
    for file in (*out.iterdir(), *run.rglob("*")):
        assert file.is_dir() or b"secret" not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("command", "expected", "words"),
    [
        (("export", "{run}", "{to}/x.csv", "--to", "csv", "--scores"), 2, "--scores is not read with --to csv"),
        (("export", "{run}", "{to}/x", "--score", "aum", "--most", "3"), 2, "--score and --most are not read with --to npy"),
        (("export", "{run}", "{to}/x.csv", "--to", "csv", "--score", "aumm"), 2, "No score saved in this run is named 'aumm'"),
        (("export", "{run}", "{to}/x.csv", "--to", "cleanlab"), 2, "Name one score with --score"),
        (
            ("export", "{run}", "{to}/x.csv", "--to", "cleanlab", "--score", "entropy"),
            2,
            "holds no such score that ranks suspects",
        ),
        (("export", "{run}", "{to}/x.txt", "--to", "cleanlab", "--score", "aum"), 2, "end in .csv, .jsonl or .parquet"),
        (("export", "{run}", "{to}/x.xml", "--to", "label-studio", "--score", "aum"), 2, "name the file of the tasks"),
        (("export", "{run}", "{to}/x.csv", "--to", "csv", "--decision", "none"), 2, "No decision in this run is named"),
        (("import", "{run}", "{to}/x.csv", "--from", "csv"), 2, "does not exist; name the file to import"),
        (("import", "{run}", "{to}/x.csv", "--from", "csv", "--view", "eval"), 2, "--labels and --view go with npy files"),
        (("import", "{run}", "{to}/x.csv", "--from", "csv", "--name", "//"), 2, "--name '//' makes no file name"),
        (("import", "{to}", "{to}/new"), 2, "Name the file of the given classes: --labels FILE"),
        (("import", "{to}", "{to}/new", "--labels", "x.npy", "--name", "y"), 2, "--name y is for decisions"),
    ],
)
def test_what_does_not_go_with_a_tool_is_refused(recorded, tmp_path, capsys, command, expected, words):
    code, _, err = here(capsys, *(part.format(run=recorded, to=tmp_path) for part in command))
    assert code == expected and words in sentence(err)
