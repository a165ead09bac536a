"""Cleansing by command: the curve, the count that it chooses, and a decision by it. Inside the test, by the seam of every command."""

import re
import shutil

import pytest

from assay.core.errors import RunError
from assay.experiments.cleanse import curve_of
from assay.experiments.score import score
from assay.runs.artefacts import load_curve, load_decision, load_verdict
from assay.runs.run import Run
from cli.shell import SMALL, here, sentence

INLINE = ("--executor", "inline")
COUNTS = ("--counts", "10,30", "--draws", "2")


@pytest.fixture(scope="module")
def cleansed(tmp_path_factory):
    """Folder of a run with validation examples and one curve. It is read, never changed."""
    from assay.cli.app import run_app

    folder = tmp_path_factory.mktemp("cleanse") / "run"
    assert run_app(["record", str(folder), *SMALL, "--validation", "0.2"]) == 0
    assert run_app(["cleanse", str(folder), "sgd_influence", *COUNTS, "--retrain", "last", *INLINE]) == 0
    return folder


@pytest.fixture
def mine(cleansed, tmp_path):
    """The same run, to change."""
    return shutil.copytree(cleansed, tmp_path / "mine")


def test_the_table_says_it_all_and_the_curve_is_kept(mine, capsys):
    code, out, _ = here(capsys, "cleanse", mine, "sgd_influence", *COUNTS, "--retrain", "last", *INLINE)
    assert code == 0 and "cleanse 7/7 taken from an earlier run" in out
    curve = load_curve(Run(mine).paths.curve("sgd_influence-last"))
    assert curve.counts == (10, 30) and curve.best in (0, 10, 30) and len(curve.random(30)) == 2
    assert "±: half of the range over the random removals, which is no interval" in out
    assert re.findall(r"^ +(\d+) +(none|worst|random x 2) ", out, re.MULTILINE) == [
        ("0", "none"),
        *[("10", "worst"), ("10", "random x 2")],
        *[("30", "worst"), ("30", "random x 2")],
    ]
    for one in (curve.none, curve.worst(10), curve.worst(30)):
        assert f"{one.validation_loss:.4f}" in out and f"{100 * one.test_accuracy:.2f} %" in out
    assert curve.sentence in out
    assert f"Next: assay choose {mine} sgd_influence --policy remove_worst --count auto --retrain last\n" in out


def test_auto_takes_the_count_of_the_curve(mine, capsys):
    run = Run(mine)
    curve = load_curve(run.paths.curve("sgd_influence-last"))
    code, out, _ = here(capsys, "choose", mine, "sgd_influence", "--policy", "remove_worst", "--count", "auto", "--name", "auto")
    assert code == 0 and curve.sentence in out and "cleanse" not in out.splitlines()[0]
    decision = load_decision(run.paths.decision("auto"))
    assert len(decision.dropped_ids) == curve.best > 0 and decision.options["count"] == curve.best
    assert decision.lineage.parents["curve"] == curve.fingerprint
    by_number = ("choose", mine, "sgd_influence", "--policy", "remove_worst", "--count", curve.best, "--name", "number")
    assert here(capsys, *by_number)[0] == 0
    assert load_decision(run.paths.decision("number")).fingerprint == decision.fingerprint
    assert "curve" not in load_decision(run.paths.decision("number")).lineage.parents
    code, out, _ = here(capsys, "verify", mine, "--decision", "auto", "--seeds", "2", *INLINE)
    assert code == 0 and "95 % interval" not in out and out.count("2 seeds cannot tell") == 2
    assert {one.examples for one in load_verdict(run.paths.verdict("auto")).outcomes} == {318 - curve.best, 318}


def test_auto_makes_the_curve_that_is_not_there(mine, capsys, monkeypatch):
    from assay.cluster import executors

    # In this process, since the test is of what is done and not of where.
    monkeypatch.setattr(executors, "executor", lambda kind, workers=None, threads=1: executors.InlineExecutor(threads))
    auto = ("choose", mine, "sgd_influence", "--policy", "remove_worst", "--count", "auto")
    code, out, _ = here(capsys, *auto, "--retrain", "all")
    assert code == 0 and "cleanse 0/" in out
    made = load_curve(Run(mine).paths.curve("sgd_influence-all"))
    assert made.retrained == "all" and made.sentence in out and made.chosen_by == "loss" and len(made.random(1)) == 5
    code, _, err = here(capsys, *auto)
    assert code == 2 and "say which with --retrain last or all" in sentence(err)
    assert here(capsys, *auto, "--retrain", "last", "--name", "last")[0] == 0


def test_a_curve_in_the_place_of_another_is_refused(mine, capsys):
    run = Run(mine)
    here(capsys, "score", mine, "aum")
    table = score(run, ["aum", "sgd_influence"])
    assert curve_of(run, table["aum"], None) is None
    assert curve_of(run, table["sgd_influence"], None).scores == "sgd_influence"
    assert curve_of(run, table["sgd_influence"], "all") is None
    run.paths.curve("sgd_influence-last").rename(run.paths.curve("aum-last"))
    with pytest.raises(RunError, match=r"aum-last\.json holds the curve of sgd_influence, which belongs at"):
        curve_of(run, table["sgd_influence"], None)


def test_inspect_names_the_curves(cleansed, capsys):
    code, out, _ = here(capsys, "inspect", cleansed)
    assert code == 0 and any(line.split() == ["curves", "sgd_influence-last"] for line in out.splitlines())


def test_accuracy_chooses_if_asked_for(mine, capsys):
    code, out, _ = here(capsys, "cleanse", mine, "sgd_influence", "--counts", "10", "--draws", "1", "--by", "accuracy", *INLINE)
    assert code == 0 and "validation accuracy" in out
    assert load_curve(Run(mine).paths.curve("sgd_influence-all")).chosen_by == "accuracy"


def test_what_is_trained_again_is_what_the_score_is_about(mine, capsys):
    few = ("--counts", "10", "--draws", "1", *INLINE)
    for method, trained in (("sgd_influence", "all"), ("sgd_influence:window=last", "last"), ("aum", "last")):
        code, out, _ = here(capsys, "cleanse", mine, method, *few)
        assert code == 0 and f"--count auto --retrain {trained}\n" in out


def test_a_score_of_some_examples_makes_a_curve_and_no_decision(tmp_path, capsys):
    folder, method = tmp_path / "run", "sgd_influence:window=last"
    dropped = ("--last-batch", "drop", "--view", "eval")
    assert here(capsys, "record", folder, *SMALL, "--validation", "0.2", *dropped)[0] == 0
    code, out, _ = here(capsys, "score", folder, method, "aum")
    assert code == 0 and re.search(r"^ *sgd_influence:window=last .* 256\b", out, re.MULTILINE) and "318 examples" in out
    code, out, _ = here(capsys, "cleanse", folder, method, "--counts", "10", "--draws", "1", *INLINE)
    assert code == 0 and "has no value for 62 examples" in out and "Next:" not in out
    code, _, err = here(capsys, "choose", folder, method, "--policy", "remove_worst", "--count", "auto")
    assert code == 2 and "has no value for 62 examples" in sentence(err)
    # The others' way to a verdict, an export and a page stays open.
    assert here(capsys, "choose", folder, "aum", "--policy", "remove_worst", "--count", "10", "--name", "ten")[0] == 0
    assert here(capsys, "verify", folder, "--seeds", "2", *INLINE)[0] == 0
    code, out, _ = here(capsys, "export", folder, tmp_path / "npy", "--scores")
    assert code == 0 and f"left out {method}: it covers 256 of 318 examples only" in out and out.rstrip().endswith("aum")
    assert here(capsys, "report", folder, "--out", tmp_path / "page.html")[0] == 0


def test_the_test_examples_have_no_say(mine, capsys):
    method = "sgd_influence:target=test"
    code, _, err = here(capsys, "cleanse", mine, method, *COUNTS, *INLINE)
    assert code == 2 and "was made by the test examples" in sentence(err)
    assert here(capsys, "choose", mine, method, "--policy", "remove_worst", "--count", "10", "--name", "by-test")[0] == 0
    code, _, err = here(capsys, "verify", mine, "--decision", "by-test", "--seeds", "2", *INLINE)
    assert code == 2 and "which are the test examples that it would be judged by" in sentence(err)


def test_a_tolerance_goes_with_the_score_through_every_command(mine, capsys):
    allowing = ("--tolerance", "0.001")
    code, out, _ = here(capsys, "score", mine, "sgd_influence", *allowing)
    assert code == 0 and out.rstrip().endswith(f"Next: assay cleanse {mine} sgd_influence --tolerance 0.001")
    code, out, _ = here(capsys, "cleanse", mine, "sgd_influence", *COUNTS, *INLINE, *allowing)
    assert code == 0 and "cleanse 0/" in out and out.rstrip().endswith("--retrain all --tolerance 0.001")
    choice = ("choose", mine, "sgd_influence", "--policy", "remove_worst", "--count", "auto", "--retrain", "all", *allowing)
    code, out, _ = here(capsys, *choice)
    assert code == 0 and "cleanse 0/" not in out


def test_loo_says_how_far_it_is(mine, capsys):
    code, out, _ = here(capsys, "score", mine, "loo:window=last", *INLINE)
    assert code == 0 and "retrain 319/319" in out and (mine / "scores" / "loo+window=last.parquet").exists()
    assert here(capsys, "score", mine, "loo:window=last", *INLINE)[1].count("retrain") == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["cleanse", "RUN", "sgd_influence", "--counts", "1,many"], "no list of whole numbers"),
        (["cleanse", "RUN", "sgd_influence", "--counts", "0"], "from 1 on"),
        (["cleanse", "RUN", "sgd_influence", "--counts", "300"], "predicts only"),
        (["cleanse", "RUN", "sgd_influence", "--retrain", "first"], "neither 'last' (epoch) nor 'all'"),
        (["cleanse", "RUN", "sgd_influence", "--by", "test"], "neither 'loss' nor 'accuracy'"),
        (["cleanse", "RUN", "sgd_influence", "--draws", "0"], "draws=0"),
        (["cleanse", "RUN", "entropy"], "ranks difficulty"),
        (["cleanse", "RUN", "sgd_influence", "--executor", "inline", "--workers", "2"], "needs the executor 'processes'"),
        (["choose", "RUN", "sgd_influence", "--policy", "remove_worst", "--count", "300"], "predicts only"),
        (["choose", "RUN", "sgd_influence", "--policy", "remove_worst", "--count", "2.5"], "a whole number"),
        (["choose", "RUN", "sgd_influence", "--policy", "remove_worst"], "needs a value for count"),
        (["choose", "RUN", "aum", "--policy", "relabel", "--count", "auto"], "is for the policy remove_worst"),
        (["choose", "RUN", "aum", "--policy", "remove_worst", "--count", "3", "--retrain", "all"], "says which curve"),
        (["choose", "RUN", "aum", "--policy", "remove_worst", "--count", "auto", "--retrain", "first"], "says which curve"),
        (["score", "RUN", "loo", "--executor", "cluster"], "is not one of inline, processes"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(cleansed, capsys, command, words):
    code, _, err = here(capsys, *(cleansed if part == "RUN" else part for part in command))
    assert code == 2 and words in sentence(err)


def test_without_validation_examples_no_count_is_chosen(recorded, capsys):
    for command in (("cleanse", recorded, "aum"), ("choose", recorded, "aum", "--policy", "remove_worst", "--count", "auto")):
        code, _, err = here(capsys, *command)
        assert code == 2 and "--validation 0.1" in sentence(err)


def test_a_score_that_must_not_be_trusted_says_so_in_its_row(mine, tmp_path, capsys):
    code, out, _ = here(capsys, "score", mine, "sgd_influence")
    assert code == 0 and "trust" not in out and "WARNING" not in out
    few = tmp_path / "few"
    assert here(capsys, "record", few, *SMALL[:-1], "60", "--validation", "0.2")[0] == 0
    code, out, _ = here(capsys, "score", few, "sgd_influence", "aum")
    row, other = (next(line for line in out.splitlines() if line.strip().startswith(name)) for name in ("sgd_influence ", "aum "))
    assert code == 0 and row.rstrip().endswith("warned, see below") and "warned" not in other
    assert re.search(r"^sgd_influence: WARNING: The smallest batch has \d+ examples, the largest 60", out, re.MULTILINE)
    assert "sgd_influence (warned)" in repr(score(few, ["sgd_influence", "aum"]))
