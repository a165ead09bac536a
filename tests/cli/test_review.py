"""`assay review` takes the marks of a page back."""

import json

import pytest

from assay.core.review import sample_order, suspects_of
from assay.runs.artefacts import load_decision
from assay.runs.run import Run
from cli.shell import here, sentence


@pytest.fixture
def marked(own, tmp_path):
    """The run, and the file of a reviewer who marked ten suspects of the decision in random order: six wrong, three right, one unsure."""
    run = Run(own)
    decision = load_decision(run.paths.decision("drop"))
    drawn = list(sample_order(suspects_of(decision)))[:10]
    marks = [{"id": str(id_), "mark": "wrong"} for id_ in drawn[:5]] + [{"id": str(id_), "mark": "right"} for id_ in drawn[6:9]]
    given = int(run.labels[list(run.ids).index(drawn[5])])
    marks += [{"id": str(drawn[5]), "mark": "wrong", "label": (given + 1) % 10, "name": str((given + 1) % 10)}]
    marks += [{"id": str(drawn[9]), "mark": "unsure"}]
    body = {"assay": "review", "schema": 2, "dataset": run.dataset, "decision": decision.fingerprint, "title": decision.title}
    (tmp_path / "review.json").write_text(json.dumps({**body, "marks": marks}))
    return run, tmp_path / "review.json"


def test_marks_become_a_decision_and_a_share(marked, capsys):
    run, path = marked
    code, out, err = here(capsys, "review", run.folder, path)
    assert (code, err) == (0, "")
    assert "10 examples marked: 3 right, 6 wrong, 1 unsure." in out
    assert (
        "Of 10 suspects drawn at random from 40, 6 of 9 labels are wrong (1 unsure, left out): 66.7 %; 95 % interval 29.9 to 92.5 %, for all 40"
        in out
    )
    assert "drop 5, keep 391, relabel 1 of 397 examples." in out and "Next: assay verify" in out
    name = "review-of-top_k+keep=0.9-by-aum"
    assert load_decision(run.paths.decision(name)).counts() == {"drop": 5, "keep": 391, "relabel": 1}
    assert "holds this very decision already" in here(capsys, "review", run.folder, path)[1]
    code, _, err = here(capsys, "report", run.folder, "--decision", name)
    page = run.paths.report.read_text()
    assert (code, err) == (0, "") and "A reviewer has looked at the labels" in page


def test_what_was_not_reviewed_may_follow_the_decision(marked, capsys):
    run, path = marked
    code, out, _ = here(capsys, "review", run.folder, path, "--rest", "decision", "--name", "both")
    assert code == 0 and "drop 35, keep 361, relabel 1 of 397 examples." in out and run.paths.decision("both").exists()
    code, _, err = here(capsys, "review", run.folder, path, "--name", "both")
    assert code == 2 and "another --name" in sentence(err)


def test_bad_files_are_a_sentence_each(marked, capsys):
    run, path = marked
    whole = path.read_text()
    for text, words, code in (
        ("", "no review saved by a page", 2),
        ("[1]", "no review saved by a page", 2),
        (whole.replace(run.dataset, "other"), "name the run that the page showed", 4),
        (whole.replace('"wrong"', '"wrnog"'), "no review saved by a page", 2),
        (json.dumps({**json.loads(whole), "decision": "0" * 16}), "is not among those in", 4),
    ):
        path.write_text(text)
        found, _, err = here(capsys, "review", run.folder, path)
        assert found == code and words in sentence(err), text[:40]
    assert here(capsys, "review", run.folder, path.parent / "none.json")[0] == 2
    assert here(capsys, "review", run.folder, path, "--name", "?")[0] == 2
    assert here(capsys, "review", run.folder, path, "--rest", "drop")[0] == 2
    assert [one.stem for one in (run.folder / "decisions").iterdir()] == ["drop"]
