"""LDS by command: its tables, what is kept, and what is refused."""

import re

import pytest

from assay.experiments.lds import name_of
from assay.runs.artefacts import load_lds
from assay.runs.run import Run
from cli.shell import SMALL, here, sentence

GRID = ("--subsets", "5", "--queries", "4", "--other-seeds", "2", "--executor", "inline")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run with validation examples; what is made from it is added."""
    from assay.cli.app import run_app

    folder = tmp_path_factory.mktemp("lds") / "run"
    assert run_app(["record", str(folder), *SMALL, "--validation", "0.2"]) == 0
    return folder


def test_the_tables_say_it_all_and_the_same_command_goes_on(run, capsys):
    code, out, _ = here(capsys, "lds", run, "tracin", "sgd_influence", *GRID)
    assert code == 0 and "lds 15/15" in out
    made = load_lds(Run(run).paths.lds("validation-32-5"))
    assert name_of(made) == "validation-32-5" and f"Saved in {Run(run).paths.lds('validation-32-5')}." in out
    assert "LDS, mean rho over 4 of 79 queries of validation: 32 of 318 left out, 5 subsets" in out
    assert "Rho of the whole target validation: 32 of 318 left out, 5 subsets" in out
    flat = re.sub(r"\s+", " ", out)
    for one in (*made.single, *made.whole):
        assert one.words in flat and one.method in flat and one.truth in flat
    assert "one other retraining: the losses under one other seed against the mean of the rest (2 seeds)" in out
    code, out, _ = here(capsys, "lds", run, "tracin", "sgd_influence", *GRID)
    assert code == 0 and "lds 15/15 taken from an earlier run" in out
    assert load_lds(Run(run).paths.lds("validation-32-5")).fingerprint == made.fingerprint
    code, out, _ = here(capsys, "inspect", run)
    assert code == 0 and re.search(r"lds +validation-32-5", out)


def test_other_seeds_alone_and_leave_one_out(run, capsys):
    alone = ("--only-other-seeds", "--count", "1", "--subsets", "4", "--other-seeds", "1", "--executor", "inline")
    code, out, _ = here(capsys, "lds", run, "aum", *alone)
    flat = " ".join(out.split())
    assert code == 0 and "LDS, mean" not in flat and "Rho of the whole target validation: 1 of 318 left out, 4 subsets" in flat
    assert load_lds(Run(run).paths.lds("validation-1-4")).truths == ("other seeds",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "No method was named"),
        (("no_such",), "No method is named 'no_such'"),
        (("variability",), "ranks difficulty"),
        (("tracin", "--only-other-seeds"), "leave nothing to train"),
        (("tracin", "--form", "gone"), "form='gone' is none of weight, removed, renormalised"),
        (("tracin", "--share", "2"), "share=2.0 is no part of the examples"),
        (("tracin", "--subsets", "2.5"), "2.5"),
        (("tracin", "--executor", "cloud"), "cloud"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, capsys, arguments, words):
    code, _, err = here(capsys, "lds", run, *arguments)
    assert code == 2 and words in sentence(err)
