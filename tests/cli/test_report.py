"""`assay report` takes in whatever the run's folder holds."""

import dataclasses

import numpy as np
import pytest

import assay
from assay.core.curve import NONE, RANDOM, WORST, Curve, Removal
from assay.core.lineage import Lineage
from assay.core.scores import CHANGE, Direction, Scores
from assay.experiments.score import score
from assay.runs.artefacts import save_curve, save_scores
from assay.runs.run import Run
from cli.shell import here, sentence


@pytest.fixture
def made(own):
    """Scores of every second example, beside those of all; and a curve of them."""
    run = Run(own)
    ids = run.ids.take(range(0, 397, 2))
    lineage = Lineage(run.dataset, {"run": run.fingerprint})
    values = ids.ranks.double() / 397 - 0.25
    options = {"target": "validation", "window": "last", "form": "exact"}
    title = "sgd_influence:window=last"
    rest = run.ids.take(range(1, 397, 2))
    scores = Scores(
        ids, values, "sgd_influence", options, title, Direction.LOW_IS_SUSPECT, CHANGE, unscored=rest, lineage=lineage
    )
    save_scores(scores, run.paths.scores(title))
    score(run, "aum", save=True)
    arms = ((NONE, 0), (WORST, 5), (RANDOM, 5))
    removals = tuple(Removal(arm, count, 0, 0.9, 0.3, 0.8, 0.4, 1.0) for arm, count in arms)
    curve = Curve(title, "last", removals, 0, "loss", lineage)
    save_curve(curve, run.paths.curve("mine"))
    return run, curve


def test_curves_and_scores_of_a_part_stand_on_the_page(made, capsys):
    run, curve = made
    code, out, err = here(capsys, "report", run.folder)
    page = run.paths.report.read_text()
    assert code == 0 and err == "" and "report.html" in out
    assert curve.sentence in page and 'id="influence"' in page and "Most harmful by sgd_influence:window=last" in page
    assert f"curve of {curve.scores}" in page, "in the lineage"


def test_a_curve_of_another_recording_is_refused(made, capsys):
    run, curve = made
    save_curve(dataclasses.replace(curve, lineage=Lineage(run.dataset, {"run": "another"})), run.paths.curve("mine"))
    code, _, err = here(capsys, "report", run.folder)
    assert code == 4 and "made from recording another" in sentence(err) and "assay cleanse" in err
    assert not run.paths.report.exists()


def test_a_decision_by_features_stands_on_the_page_without_scores(own, capsys):
    for path in [*(own / "scores").iterdir(), *(own / "decisions").iterdir()]:
        path.unlink()
    code, _, err = here(capsys, "report", own)
    assert code == 2 and "holds no scores" in sentence(err)
    assert here(capsys, "choose", own, "k_center:keep=20")[0] == 0
    code, _, err = here(capsys, "report", own, "--most", "30")
    page = Run(own).paths.report.read_text()
    assert code == 0 and err == ""
    assert "15 of the 20 that the decision keeps, in its order, and 15 drawn at random from the rest" in page
    code, _, err = here(capsys, "report", own, "--first", "aum")
    assert code == 2 and "No score in this run is named 'aum'" in sentence(err)


@pytest.mark.slow
def test_near_duplicates_by_other_features_are_shown_when_asked(own, capsys):
    assert here(capsys, "report", own)[0] == 0
    before = Run(own).paths.report.read_text()
    code, _, err = here(capsys, "report", own, "--duplicates", "penultimate")
    page = Run(own).paths.report.read_text()
    words = "of each other in penultimate, cosine."
    assert code == 0 and err == "" and words in page and words not in before
    code, _, err = here(capsys, "report", own, "--duplicates", "penultimat")
    assert code == 2 and "penultimat" in sentence(err) and "give one of these" in err


@pytest.mark.slow
def test_near_duplicates_are_shown_as_the_other_command_shows_them(own, tmp_path, capsys):
    rows = tmp_path / "twins.npy"
    np.save(rows, np.arange(len(Run(own).ids))[:, None] // 2 + np.array([[0.0, 1.0]]))
    asked = ("rows:twins", "--inputs", f"twins={rows}", "--metric", "euclidean", "--within", "0")
    code, out, _ = here(capsys, "duplicates", own, "--features", *asked)
    assert code == 0 and "198 groups of 396 of 397 examples" in out
    code, _, err = here(capsys, "report", own, "--duplicates", *asked)
    page = Run(own).paths.report.read_text()
    assert code == 0 and err == "" and "198 groups" in page and "rows:twins, euclidean" in page
    assert here(capsys, "report", own, "--within", "0.5")[0] == 0
    wide, found = Run(own).paths.report.read_text(), assay.duplicates(own, within=0.5)
    assert len(found) and f"{len(found)} groups" in wide
    code, _, err = here(capsys, "report", own, "--inputs", f"twins={rows}")
    assert code == 2 and "no rows named 'twins'" in sentence(err)
