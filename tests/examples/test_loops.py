"""The examples of loops as people write them run as they stand, and find what they plant."""

import contextlib
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def said_by(name, folder, monkeypatch, capsys, warns=None):
    """What an example prints, and how many it says that each method finds."""
    path = ROOT / "examples" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), str(folder)])
    with contextlib.nullcontext() if warns is None else pytest.warns(UserWarning, match=warns):
        runpy.run_path(str(path), run_name="__main__")
    assert len(path.read_text().splitlines()) < 60
    said = capsys.readouterr().out
    return said, [int(count) for count in re.findall(r": (\d+) of the", said)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "methods", "least"), [("accumulation", 3, 15), ("dict_batches", 4, 12), ("stream", 3, 40)])
def test_an_example_runs_and_finds_what_it_planted(tmp_path, monkeypatch, capsys, name, methods, least):
    _, found = said_by(name, tmp_path / "run", monkeypatch, capsys)
    assert len(found) == methods and max(found) >= least


@pytest.mark.slow
def test_the_example_of_a_weighted_sampler_finds_what_it_planted_and_names_what_was_never_drawn(tmp_path, monkeypatch, capsys):
    warns = r"\d+ of 330 examples have no value of aum .* stay as they are"
    said, found = said_by("weighted_sampler", tmp_path / "run", monkeypatch, capsys, warns)
    assert len(found) == 3 and found[0] >= 15
    assert re.search(r"visits of an example in 5 epochs: 0 to \d\d", said) and re.search(r"never drawn: \[\d+, \d+", said)
    assert "310 of 330 examples are kept" in said


@pytest.mark.slow
def test_the_example_of_mixup_finds_more_by_the_examples_themselves_than_by_their_mixtures(tmp_path, monkeypatch, capsys):
    _, found = said_by("mixup", tmp_path / "run", monkeypatch, capsys, r"mixtures of two examples \(mixup\).*view='eval'")
    themselves, mixtures = found[:3], found[3:]
    assert len(mixtures) == 3 and max(themselves) >= 40
    assert all(one > other for one, other in zip(themselves, mixtures, strict=True))


@pytest.mark.slow
def test_the_example_of_several_processes_records_one_run_and_goes_on_with_another_number_of_them(tmp_path):
    path, alone = ROOT / "examples" / "processes.py", {**os.environ, "OMP_NUM_THREADS": "1"}
    more = tmp_path / "more.py"
    more.write_text(path.read_text().replace("recorder.epochs, 8", "recorder.epochs, 9"))
    for script, world, epochs in ((path, 2, 8), (more, 1, 9)):
        command = [sys.executable, "-W", "error", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
        done = subprocess.run([*command, script, tmp_path / "run"], env=alone, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"{epochs} epochs of 2 processes; the sampler drew 1 of 601 examples again" in done.stdout
        found = [int(count) for count in re.findall(r": (\d+) of the", done.stdout)]
        assert len(found) == 2 and max(found) >= 40
    assert len(path.read_text().splitlines()) < 60
