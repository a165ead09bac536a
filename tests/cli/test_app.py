import inspect
import re
import subprocess
import sys

import pytest

import assay
from assay.cli.app import VERBS
from cli.shell import ENVIRONMENT, here, sentence


def parameters(text):
    """Each flag that a help text lists, with the words behind it."""
    box = text[text.index("─ Parameters") :]
    found, name = {}, ""
    for line in box.splitlines()[1:]:
        line = line.strip("│╰─╯ *")
        if flag := re.match(r"(--[a-z0-9-]+)", line):
            # A second name at the beginning of a line (`--no-flip`) belongs to the flag above.
            name = name if flag[1] == f"--no-{name[2:]}" else flag[1]
        found[name] = f"{found.get(name, '')} {line}"
    return {name: re.sub(r"^( *(--[a-z0-9-]+|[A-Z]{2,}(\.\.\.)?))+", "", words).strip() for name, words in found.items() if name}


def test_help_lists_every_verb_with_a_line(capsys):
    code, out, err = here(capsys, "--help")
    assert code == 0 and err == ""
    listed = dict(re.findall(r"^│ ([a-z][a-z-]*) +(\S.*?) +│$", out, re.MULTILINE))
    assert list(listed) == list(VERBS)
    assert all(words.endswith((".", "?")) for words in listed.values())


def test_no_arguments_show_the_same_help(capsys):
    _, shown, _ = here(capsys, "--help")
    assert here(capsys) == (0, shown, "")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_each_of_its_flags(capsys, verb):
    code, out, _ = here(capsys, verb, "--help")
    assert code == 0
    signature = inspect.signature(VERBS[verb]).parameters.values()
    flags = {f"--{one.name.strip('_').replace('_', '-')}" for one in signature if one.kind is one.KEYWORD_ONLY}
    said = parameters(out) if flags else {}
    assert set(said) == flags
    assert all(len(words) > 3 for words in said.values()), said
    for one in signature:
        # What is taken only to be refused with a cure is no part of the help.
        hidden = any(getattr(note, "show", None) is False for note in getattr(one.annotation, "__metadata__", ()))
        if one.kind is not one.KEYWORD_ONLY and not hidden:
            assert re.search(rf"│ .*{one.name.upper()} +\S", out), one.name


def test_the_settings_of_the_recipe_are_explained_one_by_one(capsys):
    said = parameters(here(capsys, "record", "--help")[1])
    assert "Learning rate" in said["--lr"] and "mirrored" in said["--flip"] and "one_cycle" in said["--schedule"]


def test_help_and_import_do_not_import_torch():
    script = (
        "import sys, assay, assay.cli\n"
        "for arguments in (['--help'], ['record', '--help'], [], ['--version'], ['nosuch']):\n"
        "    assay.cli.app\n"
        "    from assay.cli.app import run_app\n"
        "    run_app(arguments)\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'sklearn', 'pyarrow', 'altair'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]" and assay.__version__ in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scroe", "runs/x"], "scroe"),
        (["score"], "RUN"),
        (["record", "x", "--epochz", "3"], "--epochz"),
        (["record", "x", "--epochs", "three"], "'three' is no whole number; give one such as 3."),
        (["record", "x", "--lr", "fast"], "--lr 'fast' is no number; give one such as 0.5."),
        (["plan", "x", "--detect", "abc"], "--detect 'abc' is no number; give one such as 0.5."),
        (["record", "x", "--epochs"], "--epochs"),
        (["verify", "x", "--seeds", "2.5"], "'2.5' is no whole number"),
        (["methods", "now"], "now"),
        (["inspect", "x", "--no-check"], "--no-check"),
    ],
)
def test_a_call_that_is_wrong_is_one_sentence(capsys, arguments, words):
    code, out, err = here(capsys, *arguments)
    assert code == 2 and out == "" and words in sentence(err)


def test_debug_shows_where_an_error_came_from(capsys, tmp_path):
    plain = here(capsys, "score", tmp_path / "nowhere", "aum")
    debug = here(capsys, "score", tmp_path / "nowhere", "aum", "--debug")
    assert plain[0] == debug[0] == 5 and "does not exist" in sentence(plain[2])
    assert "Traceback (most recent call last)" in debug[2] and "RunError" in debug[2] and debug[2].endswith(plain[2])


def test_an_error_that_nobody_foresaw_is_a_sentence_too(capsys, monkeypatch, recorded):
    def broken(*_):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("assay.experiments.scorable.scorable", broken)
    code, _, err = here(capsys, "inspect", recorded)
    assert code == 1 and "unexpected ZeroDivisionError: by nothing" in sentence(err) and "--debug" in err


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m assay methods | head -c 10 > /dev/null"
    done = subprocess.run(["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
