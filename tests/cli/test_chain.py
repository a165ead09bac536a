"""The whole way by command; in the second group each step in a process of its own."""

import contextlib
import io
import re
import shutil

import numpy as np
import pytest
import torch

from assay.cli.app import run_app
from assay.cli.score import show_wrong
from assay.core.ids import Ids
from assay.core.wrong_labels import count_of_margins
from assay.experiments.report import MARK
from assay.runs.artefacts import load_decision, load_scores, load_verdict
from assay.runs.run import Run
from cli.shell import SMALL, assay, here

DECISION = "top_k+keep=0.9-by-aum"


def inside(*arguments, cwd):
    """Exit code, stdout and stderr of `assay ...`, without a new process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_app(list(arguments))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", params=[inside, pytest.param(assay, marks=pytest.mark.slow)], ids=["inside", "processes"])
def chain(request, tmp_path_factory):
    """Folder of the run, and what each command said."""
    folder = tmp_path_factory.mktemp("chain")
    commands = {
        "record": ("record", "run", *SMALL),
        "score": ("score", "run", "aum", "dual:window=2"),
        "choose": ("choose", "run", "aum", "--policy", "top_k", "--keep", "0.9"),
        "verify": ("verify", "run", "--seeds", "2", "--detect", "0.5", "--executor", "inline"),
        "report": ("report", "run"),
        "inspect": ("inspect", "run", "--check"),
    }
    said = {}
    for verb, command in commands.items():
        code, out, err = request.param(*command, cwd=folder)
        assert code == 0 and err == "", (verb, out, err)
        said[verb] = out
    return folder / "run", said


def test_every_step_leaves_its_artefact(chain):
    folder, _ = chain
    run = Run(folder)
    assert run.epochs == 3 and len(run.ids) == 397 and run.paths.truth.exists()
    assert load_scores(run.paths.scores("dual:window=2")).lineage.parents == {"run": run.fingerprint}
    decision = load_decision(run.paths.decision(DECISION))
    assert decision.budget == 357 and decision.lineage.parents["run"] == run.fingerprint
    verdict = load_verdict(run.paths.verdict(DECISION))
    assert verdict.lineage.parents["decision"] == decision.fingerprint and len(verdict.outcomes) == 6
    assert {one.title for one in verdict.detections} == {"aum", "dual:window=2"} and verdict.cleaning.planted == 40
    page = run.paths.report.read_bytes()
    assert MARK in page[:4096] and len(page) > 100_000


def test_every_step_names_the_next_one(chain):
    _, said = chain
    assert "Next: assay score run all" in said["record"]
    assert "of 397 labels are wrong (95 % interval" in said["score"]
    assert "assay report run --first aum. Next: assay choose run aum --policy threshold:count=auto" in said["score"]
    assert f"Next: assay verify run --decision {DECISION}" in said["choose"]
    assert f"Next: assay report run --decision {DECISION}" in said["verify"]


def test_every_step_says_what_came_out(chain):
    folder, said = chain
    assert [line[:10] for line in said["record"].splitlines()[:4]] == [f"record {done}/3" for done in range(4)]
    assert "train accuracy" in said["record"] and "397 examples" in said["record"]
    assert re.search(r"^ aum .* low is suspect ", said["score"], re.MULTILINE)
    assert "drop 40, keep 357 of 397 examples" in said["choose"]
    (aum,) = (one for one in load_verdict(Run(folder).paths.verdict(DECISION)).detections if one.title == "aum")
    row = next(line for line in said["verify"].splitlines() if line.split()[:1] == ["aum"] and "suspicion" in line)
    assert row.split()[3:6] == [f"{aum.precision_at_planted:.3f}", f"{100 - 100 * aum.precision_at_planted:.1f}", "%"]
    assert "verify 6/6" in said["verify"] and said["verify"].count("2 seeds cannot tell") == 2
    assert (
        "How many seeds a difference of 0.5 points of test accuracy takes cannot be said, because nothing was retrained"
        in said["verify"]
    )
    assert "This speaks of these very examples and of this very test set" in said["verify"]
    assert "of the 40 wrong labels" in said["verify"]
    assert "MB" in said["report"]
    for words in (
        "3 committed",
        "digits:test=1400",
        Run(folder).fingerprint,
        "aum, dual",
        DECISION,
        "agree with their checksums",
    ):
        assert words in said["inspect"]
    assert "\x1b" not in "".join(said.values()), "plain lines where there is no terminal"


def test_the_next_step_drops_as_many_as_were_counted_and_nothing_else(chain, capsys, tmp_path):
    code, out, _ = here(capsys, "score", chain[0], "loss")
    (count, low, high) = map(
        int, re.search(r"About (\d+) of 397 labels are wrong \(95 % interval (\d+) to (\d+)\)", out).groups()
    )
    assert code == 0 and low <= 40 <= high and abs(count - 40) <= 5
    assert f"Next: assay choose {chain[0]} loss --policy threshold:count=auto" in out and "Wrong labels by class" in out
    shutil.copytree(chain[0], tmp_path / "run")
    for asked in (("--policy", "threshold", "--count", "auto"), ("--policy", "threshold:count=auto")):
        code, out, _ = here(capsys, "choose", tmp_path / "run", "loss", *asked)
        assert code == 0 and f"drop {count}, keep {397 - count}" in out
    code, out, _ = here(capsys, "score", chain[0], "entropy")
    assert code == 0 and "says nothing about wrong labels" in out and f"Next: assay report {chain[0]} --first entropy" in out
    assert "--keep" not in out and "--policy" not in out


def test_classes_that_the_table_of_wrong_labels_leaves_out_are_said(capsys):
    draw = np.random.default_rng(0)
    margins = torch.from_numpy(np.concatenate([draw.normal(3, 1, 300), draw.normal(-3, 1, 40)]))
    few, many = torch.arange(340) % 2, torch.arange(340) % 3
    few[300:] = many[300:] = 1
    for labels, names, said in (
        (few, ["cat", "dog"], "In the other class the"),
        (many, ["cat", "dog", "fox"], "In each of the other 2 classes the"),
    ):
        show_wrong(count_of_margins(Ids(range(340)), margins, labels, names))
        out = capsys.readouterr().out
        assert "Wrong labels by class" in out and "dog" in out and "cat" not in out and f"{said} interval holds 0" in out
    show_wrong(count_of_margins(Ids(range(340)), margins, None))
    assert "by class" not in capsys.readouterr().out


def test_clean_data_are_never_advised_to_lose_any(capsys, tmp_path):
    assert here(capsys, "record", tmp_path / "clean", *SMALL[:4], *SMALL[6:])[0] == 0
    code, out, _ = here(capsys, "score", tmp_path / "clean", "aum")
    assert code == 0 and "No sign of wrong labels among 397" in out and "Nothing is to be dropped" in out
    assert "--policy" not in out and f"Next: assay report {tmp_path / 'clean'} --first aum" in out


def test_one_method_that_the_run_cannot_serve_does_not_take_the_others_with_it(chain, capsys, tmp_path):
    shutil.copytree(chain[0], tmp_path / "run")
    code, out, _ = here(capsys, "score", tmp_path / "run", "loss", "dual")
    assert (
        code == 0 and "left out dual: reads at least 10 epochs, but this run has 3" in out and "dual:window=3, which fits" in out
    )
    assert (tmp_path / "run" / "scores" / "loss.parquet").exists()
    code, _, err = here(capsys, "score", tmp_path / "run", "loss", "dual", "--strict")
    assert code == 3 and "dual:window=3" in err
    code, _, err = here(capsys, "score", tmp_path / "run", "loss", "duel")
    assert code == 2 and "Did you mean dual" in err


def test_every_step_taken_again_finds_its_work_done(chain, capsys):
    folder, _ = chain
    run = Run(folder)
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix in (".parquet", ".safetensors")
    }
    assert here(capsys, "record", folder, *SMALL, "--resume")[0] == 0
    assert here(capsys, "score", folder, "aum", "dual:window=2")[0] == 0
    code, out, _ = here(capsys, "choose", folder, "aum", "--policy", "top_k", "--keep", "0.9")
    assert code == 0 and "holds this very decision already" in out
    code, out, _ = here(capsys, "verify", folder, "--seeds", "2")
    assert code == 0 and "taken from an earlier verification" in out
    assert here(capsys, "report", folder)[0] == 0
    assert {path: path.read_bytes() for path in before} == before and Run(folder).fingerprint == run.fingerprint


def test_all_scores_what_the_run_allows_and_says_what_it_leaves_out(chain, capsys):
    folder, _ = chain
    code, out, _ = here(capsys, "score", folder, "all", "dual:window=3")
    assert code == 0 and "left out tdds: needs logits" in out and "--keep-logits" in out and "left out dual: reads" in out
    assert (folder / "scores" / "forgetting.parquet").exists() and (folder / "scores" / "dual+window=3.parquet").exists()


def test_the_page_opens_with_the_score_of_the_decision_or_the_one_asked_for(chain, capsys, tmp_path):
    folder, _ = chain
    pages = {}
    for first in ("aum", "dual:window=2"):
        assert here(capsys, "report", folder, "--out", tmp_path / "page.html", "--first", first, "--title", f"By {first}")[0] == 0
        pages[first] = (tmp_path / "page.html").read_text()
        assert f"By {first}" in pages[first]
    assert pages["aum"] != pages["dual:window=2"]
