import inspect
import json
import os
import subprocess
import sys

import pytest
from cyclopts.completion.detect import ShellDetectionError

from assay.cli import output
from assay.cli.app import VERBS, app
from cli.shell import ENVIRONMENT, SMALL, here

KEYS = ["command", "exit_code", "tables", "sentences", "warnings", "error"]


def document(out):
    """The one document on stdout."""
    (line,) = out.splitlines()
    found = json.loads(line)
    assert list(found) == KEYS
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_an_error_of_every_verb_is_one_document(capsys, verb):
    plain = here(capsys, verb, "--nosuchflag")
    code, out, err = here(capsys, verb, "--nosuchflag", "--json")
    found = document(out)
    assert code == plain[0] == found["exit_code"] == found["error"]["exit_code"] == 2 and err == plain[2]
    assert found["command"] == verb and err == f"assay: {found['error']['message']}\n" and found["error"]["kind"] == "UsageError"


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_takes_a_flag_that_all_have(verb):
    assert not {"json", "quiet", "debug"} & set(inspect.signature(VERBS[verb]).parameters)


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "{run}", "aum", "dual:window=2"),
        ("choose", "{run}", "aum", "--policy", "top_k", "--keep", "0.8"),
        ("inspect", "{run}", "--check"),
        ("export", "{run}", "{place}", "--to", "csv"),
        ("methods",),
        ("methods", "aum"),
        ("policies",),
        ("datasets",),
        ("nets",),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_a_verb_says_is_one_document(capsys, own, tmp_path, arguments):
    arguments = [one.format(run=own, place=tmp_path / "made") for one in arguments]
    shown = here(capsys, *arguments)
    (tmp_path / "made").unlink(missing_ok=True)
    code, out, err = here(capsys, *arguments, "--json")
    found = document(out)
    assert code == shown[0] == found["exit_code"] == 0 and err == "" and found["error"] is None
    assert found["tables"] or found["sentences"]
    for table in found["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
        assert all(str(row[0]) in shown[1] for row in table["rows"])
    if arguments[0] not in ("choose",):
        assert all(words in shown[1] for words in found["sentences"])


WORDS = {
    "arm",
    "method",
    "which",
    "given",
    "class",
    "score",
    "ranks",
    "reason",
    "test",
    "treatment",
    "baseline",
    "why",
    "whose",
    "what",
    "setting",
}
"""Columns whose cells are words."""


@pytest.mark.slow
def test_results_of_every_verb_are_numbers_in_a_document(capsys, tmp_path):
    from assay.runs.artefacts import load_verdict

    run = tmp_path / "run"
    assert here(capsys, "record", run, *SMALL, "--validation", "0.2")[0] == 0
    assert here(capsys, "score", run, "aum", "loss", "tracin:target=validation")[0] == 0
    assert here(capsys, "choose", run, "aum", "--policy", "top_k", "--keep", "0.9", "--name", "drop")[0] == 0
    found = {}
    for verb, *arguments in (
        ("verify", "--seeds", "2", "--where", "inline"),
        ("cleanse", "tracin:target=validation", "--counts", "1,20", "--draws", "2", "--where", "inline"),
        ("lds", "tracin:target=validation", "--subsets", "6", "--queries", "3", "--where", "inline"),
        ("attribute", "tracin:target=validation", "--top", "2"),
        ("explain", "--example", "3"),
        ("compare",),
        ("probe", "--flip", "0.1"),
        ("confident",),
        ("duplicates",),
        ("plan",),
        ("report",),
    ):
        code, out, err = here(capsys, verb, run, *arguments, "--json")
        made = document(out)
        assert (code, made["error"]) == (0, None), (verb, err)
        assert made["tables"] or verb in ("report", "duplicates")
        found[verb] = made["tables"]
        for table in made["tables"]:
            for row in table["rows"]:
                cells = dict(zip(table["columns"], row, strict=True))
                # A number among words is one that could not be read as such.
                assert not [
                    cell for name, cell in cells.items() if name not in WORDS and isinstance(cell, str) and cell.endswith("%")
                ]
    verdict = load_verdict(run / "verdicts" / "drop.json")
    arms = {row[0]: row for row in found["verify"][0]["rows"]}
    for arm in verdict.arms:
        mine = [one.accuracy for one in verdict.outcomes if one.arm == arm]
        assert arms[arm][2:] == [sum(mine) / len(mine), mine]
    (differences,) = (one for one in found["verify"] if one["title"].startswith("Differences"))
    assert [row[2] for row in differences["rows"]] == [one.effect for one in verdict.comparisons]
    worst = next(row for row in found["cleanse"][0]["rows"] if row[1] == "worst")
    assert all(isinstance(cell, float) for cell in worst[2:]) and 0 < worst[5] <= 1
    (drawn, *_) = (row for row in found["cleanse"][0]["rows"] if row[1].startswith("random x"))
    assert all(len(cell) == 2 for cell in drawn[2:])
    assert len(found["lds"][0]["rows"][0][1]) == 3


def test_numbers_are_numbers_with_all_their_digits(capsys, recorded):
    from assay.runs.artefacts import load_scores

    table, *_ = document(here(capsys, "score", recorded, "aum", "--json")[1])["tables"]
    row = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert row["mean"] == float(load_scores(recorded / "scores" / "aum.parquet").values.mean())
    assert f" {row['mean']:.4g} " in here(capsys, "score", recorded, "aum")[1]


@pytest.mark.parametrize(
    ("cell", "number", "value"),
    [
        ("1,437", True, 1437),
        ("-0.25", True, -0.25),
        ("1e-05", True, 1e-5),
        ("94.17 %", True, "94.17 %"),
        ("1,4", True, "1,4"),
        ("1437", False, "1437"),
        (float("nan"), True, None),
        (("a", 2.5), False, ["a", 2.5]),
        (None, True, None),
        (True, False, True),
        (output.percent(0.123456), True, 0.123456),
        (output.Written("0.12 [0.1, none]", [0.12, 0.1, float("nan")]), True, [0.12, 0.1, None]),
        (output.written(None, ".2f"), True, None),
    ],
)
def test_cells(cell, number, value):
    assert output.value_of(cell, number) == value and type(output.value_of(cell, number)) is type(value)


@pytest.mark.slow
def test_progress_goes_to_stderr_and_nothing_else_to_stdout(capsys, tmp_path):
    # A library that prints, and a process that it starts, write where progress goes.
    noisy = tmp_path / "sitecustomize.py"
    noisy.write_text(
        "import sys\n"
        "class Loud:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'assay.nets':\n"
        "            import subprocess\n"
        "            print('a print'); subprocess.run(['echo', 'an echo'])\n"
        "sys.meta_path.insert(0, Loud())\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "assay", "nets", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and document(done.stdout)["command"] == "nets"
    assert done.stderr.splitlines() == ["a print", "an echo"]
    code, out, err = here(capsys, "record", tmp_path / "run", *SMALL, "--json")
    assert code == 0 and any("397 examples" in words for words in document(out)["sentences"]) and "record 3/3" in err


def test_quiet_leaves_tables_warnings_and_errors(capsys, own, tmp_path):
    code, out, err = here(capsys, "record", tmp_path / "run", *SMALL, "--quiet")
    assert (code, out, err) == (0, "", "")
    code, out, _ = here(capsys, "score", own, "aum", "--quiet")
    assert code == 0 and " aum " in out and "Next" not in out and "below 0" not in out
    assert here(capsys, "score", tmp_path / "nowhere", "aum", "--quiet")[2] != ""
    found = document(here(capsys, "score", own, "aum", "--quiet", "--json")[1])
    assert any("Next" in words for words in found["sentences"])


def test_errors_of_all_kinds_say_which(capsys, tmp_path, monkeypatch, recorded):
    for arguments, kind, code in (
        (("inspect", tmp_path / "nowhere"), "RunError", 5),
        (("score", recorded, "aumm"), "UnknownName", 2),
        (("export", recorded, tmp_path / "npy"), "MissingEvidence", 3),
        (("import", tmp_path, recorded), "UsageError", 2),
    ):
        found = document(here(capsys, *arguments, "--json")[1])["error"]
        assert (found["kind"], found["exit_code"]) == (kind, code) and found["message"].endswith((".", "?"))
    for error, kind, code in ((ZeroDivisionError("x"), "ZeroDivisionError", 1), (KeyboardInterrupt(), "Interrupted", 130)):

        def broken(*_, error=error):
            raise error

        monkeypatch.setattr("assay.experiments.scorable.scorable", broken)
        found = document(here(capsys, "inspect", recorded, "--json")[1])["error"]
        assert (found["kind"], found["exit_code"]) == (kind, code)


def test_warnings_are_in_the_document(capsys):
    with output.opened(json=True, quiet=False):
        from assay.cli.app import warn

        warn(UserWarning("mind the \x1b gap"))
        assert output.now.warnings == ["mind the \\x1b gap"]
    assert capsys.readouterr().err.startswith("assay: mind the")


def test_what_must_be_known_is_said_in_quiet_and_in_the_document_too(capsys):
    from assay.cli.console import caution

    for quiet in (False, True):
        with output.opened(json=False, quiet=quiet):
            caution("mind this", "aum")
        assert capsys.readouterr().out == "aum: WARNING: mind this\n"
    with output.opened(json=True, quiet=True):
        caution("mind this")
        assert output.now.warnings == ["mind this"]


def test_completion_is_installed_for_a_shell(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    script = tmp_path / ".local/share/bash-completion/completions/assay"
    for _ in range(2):
        code, out, err = here(capsys, "--install-completion", "--shell", "bash")
        assert code == 0 and err == "" and str(script) in out.replace("\n", "")
    assert all(verb in script.read_text() for verb in VERBS) and "--checkpoints" in script.read_text()
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    lines = (tmp_path / ".bashrc").read_text().splitlines()
    assert len(set(lines)) == len(lines)
    code, out, err = here(capsys, "--install-completion", "--shell", "tcsh")
    assert code == 2 and out == "" and "bash" in err


def test_where_no_completion_can_be_written_is_a_sentence(capsys, monkeypatch, tmp_path):
    def unseen(*_, **__):
        raise ShellDetectionError

    (tmp_path / ".local").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = here(capsys, "--install-completion", "--shell", "bash")
    assert code == 5 and "cannot be written" in err
    monkeypatch.setattr(type(app), "install_completion", unseen)
    code, _, err = here(capsys, "--install-completion")
    assert code == 2 and "--install-completion --shell bash" in err
