"""LDS by command: its tables, what is kept, and what is refused."""

import re
import shutil

import pytest

from assay.experiments.lds import name_of
from assay.runs.artefacts import load_lds
from cli.shell import SMALL, finish, here, sentence, start, wait_until

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
    (path,) = (run / "lds").glob("validation-32-5-*.json")
    made = load_lds(path)
    assert name_of(made) == path.stem and f"Saved in {path}." in out
    assert "32 of 318 examples left out together, 5 subsets; target validation, 79 rows." in out
    assert "LDS: mean rho over 4 queries" in out and "Rho of the whole target" in out
    flat = re.sub(r"\s+", " ", out)
    for one in (*made.single, *made.whole):
        assert one.words in flat and one.method in flat and one.truth in flat
    assert "one other retraining: the losses under one of the 2 other seeds against the mean of the rest" in out
    code, out, _ = here(capsys, "lds", run, "tracin", "sgd_influence", *GRID)
    assert code == 0 and "lds 15/15 taken from an earlier run" in out
    assert list((run / "lds").iterdir()) == [path] and load_lds(path).fingerprint == made.fingerprint
    code, out, _ = here(capsys, "lds", run, "tracin", *GRID)
    assert code == 0 and len(list((run / "lds").iterdir())) == 2 and load_lds(path).fingerprint == made.fingerprint
    code, out, _ = here(capsys, "inspect", run)
    assert code == 0 and re.search(rf"lds +.*{path.stem}", out)


def test_other_seeds_alone_and_leave_one_out(run, capsys):
    alone = ("--only-other-seeds", "--count", "1", "--subsets", "4", "--other-seeds", "1", "--executor", "inline")
    code, out, _ = here(capsys, "lds", run, "aum", *alone)
    flat = " ".join(out.split())
    assert code == 0 and "LDS: mean" not in flat and "1 of 318 examples left out together, 4 subsets" in flat
    assert "aum does not predict the loss of 'validation'" in flat
    (path,) = (run / "lds").glob("validation-1-4-*.json")
    assert load_lds(path).truths == ("other seeds",)


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


@pytest.mark.slow
def test_one_that_is_killed_goes_on_where_it_was(run, tmp_path):
    mine = shutil.copytree(run, tmp_path / "mine", ignore=shutil.ignore_patterns("trials", "lds"))
    command = ("lds", mine, "sgd_influence", "--subsets", "150", "--count", "5", "--other-seeds", "2", "--executor", "inline")
    process = start(*command, cwd=tmp_path)
    wait_until(lambda: len(list(mine.glob("trials/*/*.json"))) >= 20, process)
    process.kill()
    finish(process)
    kept = len(list(mine.glob("trials/*/*.json")))
    assert 20 <= kept < 450 and not (mine / "lds").exists()
    code, out, err = finish(start(*command, cwd=tmp_path))
    taken = int(re.search(r"^lds (\d+)/450 taken from an earlier run$", out, re.MULTILINE)[1])
    assert (code, err) == (0, "") and kept - 1 <= taken <= kept
    again = shutil.copytree(run, tmp_path / "again", ignore=shutil.ignore_patterns("trials", "lds"))
    assert finish(start("lds", again, *command[2:], cwd=tmp_path))[0] == 0
    whole, resumed = (load_lds(path) for folder in (again, mine) for path in (folder / "lds").iterdir())
    assert whole.fingerprint == resumed.fingerprint
