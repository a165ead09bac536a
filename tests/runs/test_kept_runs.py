"""Runs that earlier assays wrote open, score, decide and report as they did."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import assay
import plain_loop
from assay.experiments.detection import wrong_labels
from assay.runs.artefacts import load_truth
from golden import kept_runs

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(params=["runs_v1"])
def folder(request, tmp_path, monkeypatch):
    """A copy of the runs of one version, where the scores' lineage says they stand."""
    shutil.copytree(GOLDEN / request.param, tmp_path / "kept")
    monkeypatch.chdir(tmp_path / "kept")
    return tmp_path / "kept"


def close(ours: assay.Scores, kept: assay.Scores) -> None:
    """Equal up to what processors may add up otherwise, and of the same sentence."""
    assert (ours.ids, ours.title, ours.direction, ours.unit) == (kept.ids, kept.title, kept.direction, kept.unit)
    torch.testing.assert_close(ours.values, kept.values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "tensors"), [("plan", 56), ("loop", 74)])
def test_a_kept_run_opens_and_every_checksum_holds(folder, name, tensors):
    run = assay.Run(folder / name)
    assert (run.epochs, run.states()) == (3, [-1, 0, 1, 2])
    assert json.loads(run.paths.header.read_bytes())["schema_version"] == 1
    assert run.check() == tensors


@pytest.mark.parametrize("name", ["plan", "loop"])
def test_a_kept_run_scores_as_it_did(folder, name):
    run = assay.Run(folder / name)
    kept = {path.stem: assay.load_scores(path) for path in sorted((run.folder / "scores").glob("*.parquet"))}
    table = kept_runs.score(run)
    assert {one.title for one in table.values()} == {one.title for one in kept.values()}
    for one in kept.values():
        close(table[one.title], one)
        assert one.lineage.parents["run"] == run.fingerprint


def test_a_kept_run_decides_and_reports_as_it_did(folder):
    run = assay.Run(folder / "plan")
    decision, verdict = assay.load_decision("plan/decisions/cleaned.parquet"), assay.load_verdict("plan/verdicts/cleaned.json")
    with pytest.warns(UserWarning, match="those are the most suspect"):
        again = assay.choose(assay.load_scores("plan/scores/aum.parquet"), "bottom_k", keep=0.8)
    assert decision.fingerprint == again.fingerprint and decision.title == again.title
    assert verdict.decision == decision.title and len(verdict.outcomes) == 6
    assert int(wrong_labels(run.ids, run, load_truth(run.paths.truth)).sum()) == 11
    table = assay.score(run, ["aum", "confidence"])
    page = assay.report(run, table, decision=decision, verdict=verdict)
    assert page.stat().st_size > 50_000 and decision.title in page.read_text()


def test_a_kept_loop_reports(folder):
    run = assay.Run(folder / "loop")
    assert assay.report(run, assay.score(run, ["aum"])).exists()


@pytest.mark.filterwarnings("ignore:.* was recorded with torch", "ignore:.* was recorded with machine")
def test_a_kept_loop_goes_on(folder):
    """An epoch of today after those of then: the bits of the older ones stay, and the scores read both."""
    net, optimizer, loader = kept_runs.parts()
    before = assay.Run(folder / "loop")
    with assay.record(
        folder / "loop", net, optimizer, loader, assay.Recording(checkpoints="every", live=["aum"]), seed=0, resume=True
    ) as recorder:
        plain_loop.epoch(recorder, net, optimizer)
    run = assay.Run(folder / "loop")
    assert run.epochs == 4 and run.commits[:3] == before.commits
    assert set(assay.score(run, ["aum", "confidence"])) == {"aum", "confidence"}
