import re

import pytest

from assay.experiments.report import MARK
from assay.runs.artefacts import load_verdict
from assay.runs.run import Run
from cli.shell import assay, here


@pytest.mark.slow
def test_the_demo_goes_the_whole_way_and_goes_on_from_what_is_there(tmp_path, capsys):
    code, out, err = assay("demo", "--seeds", "2", cwd=tmp_path)
    assert code == 0 and err == "", (out, err)
    run = Run(tmp_path / "demo")
    page = run.paths.report.read_bytes()
    assert MARK in page[:4096] and 100_000 < len(page) < 4_000_000
    for words in (
        "record 20/20",
        "verify 6/6",
        "Finding the wrong labels",
        "2 seeds cannot tell",
        str(run.paths.report),
    ):
        assert words in out
    assert re.search(r"score (\d\d)/\1\b", out)
    verdict = load_verdict(run.paths.verdict("drop-worst-tenth"))
    assert {one.title for one in verdict.detections} >= {"aum", "tdds", "dual", "el2n"}
    assert max(one.auc for one in verdict.detections) > 0.9 and verdict.cleaning.planted == 144

    before = {
        path: path.stat().st_mtime_ns for name in ("epochs", "scores", "trials") for path in (run.folder / name).rglob("*.*")
    }
    code, again, err = here(capsys, "demo", "--seeds", "2", "--out", run.folder)
    assert code == 0 and err == "" and "taken from an earlier verification" in again and "record 1/20" not in again
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert load_verdict(run.paths.verdict("drop-worst-tenth")).comparisons == verdict.comparisons


def test_the_demo_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, err = here(capsys, "demo", "--out", tmp_path)
    assert code == 2 and "not empty" in err and [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
