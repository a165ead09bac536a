"""What stops a command from outside: Ctrl-C, kill -9, a second writer, a full or read-only disk. Real processes, real signals."""

import gc
import os
import shutil
import signal
import subprocess

import pytest

from assay.cli.app import run_app
from assay.runs.artefacts import load_verdict
from assay.runs.run import Run
from cli.shell import LONG, SMALL, finish, here, sentence, start, wait_until
from experiments.small import contents


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A long recording that nobody stopped."""
    folder = tmp_path_factory.mktemp("long") / "whole"
    assert run_app(["record", str(folder), *LONG]) == 0
    return Run(folder)


def committed(folder, epochs):
    """Whether so many epochs are on disk."""
    return lambda: (folder / "commits.jsonl").exists() and (folder / "commits.jsonl").read_bytes().count(b"\n") >= epochs


@pytest.mark.slow
def test_ctrl_c_while_recording_is_one_sentence_and_can_be_gone_on_from(tmp_path, whole, capsys):
    folder = tmp_path / "run"
    process = start("record", "run", *LONG, cwd=tmp_path)
    wait_until(committed(folder, 3), process)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130 and "interrupted" in sentence(err) and "--resume" in err
    # The line that was being written when the signal came may have been taken back.
    assert 2 <= Run(folder).epochs < 120
    code, out, err = here(capsys, "record", folder, *LONG, "--resume")
    assert code == 0 and err == "" and "120/120" in out
    assert Run(folder).fingerprint == whole.fingerprint and contents(Run(folder)) == contents(whole)


@pytest.mark.slow
def test_a_killed_recording_opens_and_goes_on(tmp_path, whole, capsys):
    folder = tmp_path / "run"
    process = start("record", "run", *LONG, cwd=tmp_path)
    wait_until(committed(folder, 3), process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    half = Run(folder)
    assert 3 <= half.epochs < 120
    assert here(capsys, "score", folder, "aum")[0] == 0
    assert here(capsys, "record", folder, *LONG, "--resume")[0] == 0
    assert Run(folder).fingerprint == whole.fingerprint != half.fingerprint
    assert contents(Run(folder)) == contents(whole)
    code, _, err = here(capsys, "report", folder)
    assert code == 4 and f"assay score {folder} aum" in sentence(err), (
        "the score of half the run is not taken for that of the whole"
    )


@pytest.mark.slow
def test_a_second_writer_is_refused_while_the_first_writes(tmp_path, capsys):
    folder = tmp_path / "run"
    # So many epochs that it still writes when the signals come, however late that is.
    process = start("record", "run", *LONG[:-3], "20000", *LONG[-2:], cwd=tmp_path)
    wait_until(committed(folder, 1), process)
    process.send_signal(signal.SIGSTOP)
    code, _, err = here(capsys, "record", folder, *LONG, "--resume")
    assert code == 5 and "being written by another process" in sentence(err)
    code, _, err = here(capsys, "record", folder, *LONG)
    assert code == 5 and "being written by another process" in sentence(err)
    assert here(capsys, "inspect", folder)[0] == 0, "reading is free"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert finish(process)[0] == 130


@pytest.mark.slow
def test_ctrl_c_while_verifying_keeps_what_is_finished(tmp_path, capsys):
    folder = tmp_path / "run"
    assert here(capsys, "record", folder, *SMALL[:-3], "40", *SMALL[-2:])[0] == 0
    assert here(capsys, "choose", folder, "aum", "--policy", "top_k:keep=0.9", "--name", "drop")[0] == 0
    other = shutil.copytree(folder, tmp_path / "other")
    process = start("verify", "run", "--seeds", "2", "--workers", "1", cwd=tmp_path)
    wait_until(lambda: list(folder.glob("trials/*/*.json")), process)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130 and "interrupted" in sentence(err)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*.json")}
    assert 1 <= len(kept) < 6 and not (folder / "verdicts").exists()
    code, out, _ = here(capsys, "verify", folder, "--seeds", "2", "--executor", "inline")
    assert code == 0 and f"{len(kept)}/6 taken from an earlier verification" in out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert here(capsys, "verify", other, "--seeds", "2", "--executor", "inline")[0] == 0
    first, second = (load_verdict(place / "verdicts" / "drop.json") for place in (folder, other))
    assert first.comparisons == second.comparisons
    assert [(one.arm, one.seed, one.loss) for one in first.outcomes] == [(one.arm, one.seed, one.loss) for one in second.outcomes]


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount: {mounted.stderr.strip()}")
    yield place
    # Runs that were opened in this process hold their newest files open as long as they are there.
    gc.collect()
    subprocess.run(["umount", place], check=True)


def remount(place, how):
    subprocess.run(["mount", "-o", f"remount,{how}", place], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_was_saved_is_intact(disk, tmp_path, capsys):
    code, _, err = here(capsys, "record", disk / "run", *LONG)
    assert code == 5 and "the disk is full" in sentence(err) and "intact" in err
    saved = Run(disk / "run").epochs
    assert 0 < saved < 120
    remount(disk, "size=64m")
    assert here(capsys, "record", disk / "run", *LONG, "--resume")[0] == 0 and Run(disk / "run").epochs == 120


def test_a_disk_that_is_full_at_once_leaves_the_folder_free(disk, capsys):
    (disk / "ballast").write_bytes(b"0" * (252 * 1024))
    code, _, err = here(capsys, "record", disk / "run", *SMALL)
    assert code == 5 and "the disk is full" in sentence(err)
    (disk / "ballast").unlink()
    assert here(capsys, "record", disk / "run", *SMALL)[0] == 0


@pytest.mark.slow
def test_a_read_only_place_is_said(disk, own, capsys):
    remount(disk, "ro")
    code, _, err = here(capsys, "record", disk / "run", *SMALL)
    assert code == 5 and "read-only" in sentence(err)
    remount(disk, "rw,size=64m")
    shutil.copytree(own, disk / "run")
    remount(disk, "ro")
    for command in (
        ("score", disk / "run", "aum:form=probs"),
        ("choose", disk / "run", "aum", "--policy", "top_k:keep=0.5"),
        ("verify", disk / "run", "--executor", "inline"),
        ("report", disk / "run"),
        ("export", disk / "run", disk / "npy", "--scores"),
    ):
        code, _, err = here(capsys, *command)
        assert code == 5 and "ead-only" in sentence(err), command
    assert here(capsys, "inspect", disk / "run", "--check")[0] == 0, "reading is free"
