"""Explanations by command: the sentence, the tables, what is kept, and the page."""

import numpy as np
import pytest

from assay.experiments.explain import explain
from assay.runs.artefacts import load_explanation
from assay.runs.run import Run
from cli.shell import SMALL, here, sentence


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run with validation examples; explanations are added."""
    from assay.cli.app import run_app

    folder = tmp_path_factory.mktemp("explain") / "run"
    assert run_app(["record", str(folder), *SMALL, "--validation", "0.2"]) == 0
    return folder


def test_the_tables_say_what_python_says_and_the_page_shows_it(run, capsys):
    one = Run(run).ids.values[4]
    code, out, _ = here(capsys, "explain", run, "--example", f"training={one}", "-k", "3", "--method", "sgd_influence")
    made = explain(run, f"training={one}", k=3, method="sgd_influence")
    assert code == 0 and made.sentence in out and f"The example itself has the value {made.own.value:.4g}." in out
    flat = " ".join(out.split())
    for end, name in ((made.helpful, "helpful"), (made.harmful, "harmful")):
        assert f"Most {name} by sgd_influence (change of the target)" in flat
        for behind in end:
            assert f"{behind.id} {made.class_names[behind.label]} {behind.value:.4g}" in flat
            assert not behind.suspicious or f"suspicious: taken for {made.class_names[behind.believed]}" in flat
    (path,) = (run / "explanations").glob("*.json")
    assert load_explanation(path).fingerprint == made.fingerprint and f"Saved in {path}." in out
    assert "sgd_influence: adjoint norms" in flat and load_explanation(path).diagnostics == made.diagnostics
    assert here(capsys, "report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "What is behind this prediction" in page and made.sentence in page
    code, out, _ = here(capsys, "inspect", run)
    assert code == 0 and path.stem in out
    path.write_text("{")
    code, _, err = here(capsys, "report", run)
    assert code == 5 and str(path) in sentence(err)
    path.unlink()


def test_a_file_of_ones_own_and_nothing_kept(run, tmp_path, capsys):
    np.save(tmp_path / "mine.npy", np.zeros((1, 8, 8), np.uint8))
    code, out, _ = here(capsys, "explain", run, "--query", tmp_path / "mine.npy", "--label", "3", "--forget")
    assert code == 0 and "The input of mine.npy is predicted to be" in out and "class, as you name it" in out
    assert "Saved" not in out and not list((run / "explanations").glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Name one thing to explain"),
        (("--example", "nobody"), "has the id 'nobody'"),
        (("--query", "absent.png"), "absent.png is absent"),
        (("--example", "1", "--method", "aum"), "does not say what an example is worth to one prediction"),
        (("--example", "1", "-k", "0"), "k=0 is below 1"),
        (("--example", "1", "-k", "1.5"), "1.5"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, capsys, arguments, words):
    code, _, err = here(capsys, "explain", run, *arguments)
    assert code == 2 and words in sentence(err)
