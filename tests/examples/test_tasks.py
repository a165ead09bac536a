"""The examples of other tasks run as they stand, and find what they plant."""

import pathlib
import re
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("regression", 8), ("multi_label", 12)])
def test_an_example_runs_and_finds_what_it_planted(tmp_path, monkeypatch, capsys, name, least):
    path = ROOT / "examples" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path / "run")])
    runpy.run_path(str(path), run_name="__main__")
    found = [int(count) for count in re.findall(r": (\d+) of the", capsys.readouterr().out)]
    assert len(found) >= 2 and max(found) >= least
    assert len(path.read_text().splitlines()) < 60
