import numpy as np
import pytest

from assay.runs.run import Run
from cli.shell import assay, here, sentence
from experiments.test_existing import LABELS, LOGITS, NAMES, PROBS


@pytest.fixture
def saved(tmp_path):
    np.save(tmp_path / "probs.npy", PROBS[0])
    np.save(tmp_path / "y.npy", NAMES)
    for epoch, rows in enumerate(LOGITS):
        np.save(tmp_path / f"{epoch}.npy", rows)
    return tmp_path


def test_from_saved_probabilities_to_a_page(saved, capsys):
    run = saved / "run"
    code, out, err = here(capsys, "from-probs", run, saved / "probs.npy", "--labels", saved / "y.npy", "--kind", "out-of-fold")
    assert (code, err) == (0, "") and "40 examples in 3 classes; 1 pass, out of fold" in " ".join(out.split())
    code, out, _ = here(capsys, "score", run, "all")
    assert code == 0 and out.count("made of 1 pass, out of fold") == 1 and "cleanse" not in out
    assert "made of" in here(capsys, "inspect", run)[1]
    assert here(capsys, "choose", run, "confidence", "--policy", "remove_worst", "--count", "3")[0] == 0
    assert here(capsys, "report", run)[0] == 0 and (run / "report.html").exists()
    code, _, err = here(capsys, "score", run, "tracin")
    assert code == 3 and "holds predictions only" in sentence(err)
    code, _, err = here(capsys, "verify", run)
    assert code == 2 and sentence(err)


def test_from_saved_logits_of_several_epochs(saved, capsys):
    files = [saved / f"{epoch}.npy" for epoch in range(len(LOGITS))]
    np.save(saved / "numbers.npy", LABELS)
    code, _, err = here(
        capsys,
        "from-logits",
        saved / "run",
        *files,
        "--labels",
        saved / "numbers.npy",
        "--kind",
        "training",
        "--classes",
        "ant,bee,cat",
    )
    assert (code, err) == (0, "") and Run(saved / "run").epochs == len(LOGITS) and Run(saved / "run").class_names[1] == "bee"


def test_what_does_not_fit_is_one_sentence(saved, capsys):
    labels = ("--labels", saved / "y.npy")
    for command, words in (
        (("from-probs", saved / "run", *labels, "--kind", "held_out"), "Name the file of the predictions"),
        (("from-probs", saved / "run", saved / "probs.npy", *labels, "--kind", "oof"), "No kind of pass is named 'oof'"),
        (("from-probs", saved / "run", saved / "0.npy", *labels, "--kind", "held_out"), "from-logits"),
        (("from-logits", saved / "run", saved / "probs.npy", *labels, "--kind", "held_out"), "from-probs"),
        (("from-probs", saved / "run", saved / "probs.npy", "--kind", "held_out"), "labels= is missing"),
    ):
        code, _, err = here(capsys, *command)
        assert code == 2 and words in sentence(err), command
        assert not (saved / "run").exists()


def test_folds_from_a_table_to_a_page(tmp_path, capsys):
    rows = "\n".join(f"{i % 7},{i % 2 + i % 3 / 10},{'ab'[i % 2]}" for i in range(40))
    (tmp_path / "t.csv").write_text(f"x,y,kind\n{rows}\n")
    run = tmp_path / "run"
    command = ("record", run, "--data", f"table:path={tmp_path / 't.csv'},label=kind", "--net", "logistic", "--epochs", "1")
    code, out, _ = here(capsys, *command, "--folds", "2")
    assert code == 0 and "40 examples; 1 pass, held out, 2 folds" in " ".join(out.split())
    assert here(capsys, "score", run, "confidence")[0] == 0 and here(capsys, "report", run)[0] == 0
    assert "held out, 2 folds" in (run / "report.html").read_text()
    code, _, err = here(capsys, *command, "--folds", "41", "--resume")
    assert code == 2 and "outside 2..40" in sentence(err)


def test_what_a_table_skips_is_said_once(tmp_path):
    rows = "\n".join(f"{i},{i % 7},{'ab'[i % 2] if i != 6 else ''}" for i in range(40))
    (tmp_path / "t.csv").write_text(f"customer_id,x,kind\n{rows}\n")
    command = ("record", "run", "--data", "t.csv:label=kind,unlabelled=skip", "--net", "logistic", "--epochs", "1")
    code, out, err = assay(*command, cwd=tmp_path)
    assert code == 0 and sentence(err) == "t.csv: 1 of 40 rows were skipped: line 8 (no label)." and "skipped" not in out
    assert "column 'customer_id'" in out
