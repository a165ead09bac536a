import os
import stat
import subprocess
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import assay
from assay.core.errors import NotWritten, RunError, RunLocked
from assay.replay.live_methods import LiveMethods, live_state
from assay.runs.disk import TensorFile, WriterLock, append_line, checksum, checksum_notes, replace, save_tensors
from assay.runs.recorder import Recorder
from assay.runs.run import Run
from runs.worlds import IDS, LABELS, LIVE, assert_holds, logits_of, play, recorded

PAGE = 4096


def fill(folder, leave):
    """Use the disk up, all but so many bytes."""
    space = os.statvfs(folder)
    body = b"x" * (space.f_bavail * space.f_frsize - leave)
    with open(folder / "filler", "wb") as file:
        file.write(body)


def test_replace_leaves_the_new_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep/er/file"
    for body in (b"old", b"", b"new"):
        replace(path, body)
        assert path.read_bytes() == body and [*path.parent.iterdir()] == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_folder_that_is_seen_when_it_is_whole_is_forced_to_the_disk_once_before_that(tmp_path, monkeypatch):
    forced, whole = [], []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(handle):
        forced.append(os.fstat(handle).st_ino)
        fsync(handle)

    def watched_rename(source, target):
        whole.append([path.stat().st_ino for path in (Path(source), *Path(source).rglob("*"))])
        assert set(whole[-1]) <= set(forced), "nothing may be seen that a crash could still lose"
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    saved = assay.from_logits(tmp_path / "run", torch.stack([logits_of(epoch) for epoch in range(9)]), LABELS, "training")
    assert len(whole) == 1 and saved.epochs == 9 and saved.check()
    # Beside them only the folders above.
    assert len(forced) <= len(whole[0]) + 3
    # A run that is watched while it grows has each of its epochs on the disk at once.
    forced.clear()
    recorded(tmp_path / "grown", 3)
    assert len(forced) > 3 * 3


@pytest.mark.slow
def test_a_reader_never_sees_a_part(nursery, tmp_path):
    path, sizes = tmp_path / "file", set()
    replace(path, b"x" * 10)
    for size in range(1, 8):
        nursery.run("runs.children:put", kill_at_step=size % 3 + 1, path=str(path), size=50_000 + size)
        sizes.add(len(path.read_bytes()))
    assert sizes <= {10, *range(50_001, 50_008)} and len(sizes) > 1


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, taken):
    if taken == "file":
        (tmp_path / "taken").write_text("mine")
        target, words = tmp_path / "taken/run.json", "taken was not written|taken/run.json was not written"
    else:
        (tmp_path / "taken/run.json").mkdir(parents=True)
        target, words = tmp_path / "taken/run.json", "run.json was not written"
    with pytest.raises(NotWritten, match=words) as caught:
        replace(target, b"x")
    assert caught.value.exit_code == 5 and not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_keeps_the_old_file(small_disk):
    replace(small_disk / "file", b"old")
    fill(small_disk, 2 * PAGE)
    with pytest.raises(NotWritten, match="file was not written: the disk is full; free some space"):
        replace(small_disk / "file", b"new" * PAGE)
    assert (small_disk / "file").read_bytes() == b"old"
    assert sorted(path.name for path in small_disk.iterdir()) == ["file", "filler"]


def test_a_line_that_does_not_fit_is_taken_back(small_disk):
    append_line(small_disk / "lines", "x" * (PAGE - 100))
    fill(small_disk, 0)
    with pytest.raises(NotWritten, match="the disk is full"):
        append_line(small_disk / "lines", "y" * 300)
    assert (small_disk / "lines").read_bytes() == b"x" * (PAGE - 100) + b"\n"
    append_line(small_disk / "lines", "y" * 90)
    assert (small_disk / "lines").stat().st_size == PAGE - 8


def test_a_recording_on_a_full_disk_keeps_its_epochs_and_goes_on_when_there_is_space(small_disk, tmp_path):
    recorded(tmp_path / "plain", 4, live=LiveMethods(LIVE))
    plain, refused = Run(tmp_path / "plain"), set()
    for pages in range(5):
        folder = small_disk / f"run {pages}"
        with Recorder(folder, IDS, live=LiveMethods(LIVE)) as recorder:
            play(recorder, 2)
            fill(small_disk, pages * PAGE)
            with pytest.raises(NotWritten, match="the disk is full") as caught:
                play(recorder, 4)
            refused.add(Path(str(caught.value).partition(" was not written")[0]).parent.name)
            stands = Run(folder)
            assert stands.epochs == recorder.epochs < 4 and stands.check()
            for epoch in range(stands.epochs):
                assert_holds(stands.shard(epoch), logits_of(epoch), LABELS)
            (small_disk / "filler").unlink()
            if pages % 2:
                play(recorder, 4)
        recorded(folder, 4, live=LiveMethods(LIVE), resume=True)
        run = Run(folder)
        assert run.fingerprint == plain.fingerprint and run.check() == plain.check()
        for method in LIVE:
            assert torch.equal(method.compute(live_state(run, method)), method.compute(live_state(plain, method)))
        subprocess.run(["rm", "-r", str(folder)], check=True)
    assert len(refused) >= 3, f"the disk was always full at the same file: {refused}"


def test_a_read_only_file_system_is_named(small_disk):
    recorded(small_disk / "run", 1)
    with Recorder(small_disk / "run", IDS, resume=True) as recorder:
        recorder.begin()
        recorder.observe(torch.arange(len(IDS)), logits_of(1), LABELS)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(NotWritten, match="the file system is read-only; choose another folder") as caught:
        Recorder(small_disk / "run", IDS, resume=True)
    assert caught.value.exit_code == 5
    with pytest.raises(NotWritten, match="the file system is read-only"):
        Recorder(small_disk / "another", IDS)
    assert Run(small_disk / "run").epochs == 1 and Run(small_disk / "run").check()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    recorded(small_disk / "run", 2, resume=True)
    assert Run(small_disk / "run").epochs == 2


def test_a_disk_that_turns_read_only_while_an_epoch_runs(small_disk):
    with Recorder(small_disk / "run", IDS) as recorder:
        play(recorder, 1)
        # Let the lock go to another disk, so that this one can be remounted while the recorder is at work.
        recorder._lock.release()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(NotWritten, match="read-only"):
            play(recorder, 2)
        assert Run(small_disk / "run").epochs == 1


TENSORS = {
    "floats": torch.tensor([[1.5, -0.0], [torch.nan, torch.inf]]),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "booleans": torch.tensor([True, False]),
    "scalar": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "strided": torch.arange(12.0).reshape(3, 4).T,
}
NOTES = {"state": "{}", "ключ": "значение"}


def test_tensors_and_notes_come_back(tmp_path):
    sums = save_tensors(tmp_path / "file", TENSORS, NOTES)
    file = TensorFile(tmp_path / "file", sums, checksum_notes(NOTES))
    assert file.notes == NOTES
    back = file.read_all()
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert torch.equal(back[name].nan_to_num(9.0), tensor.nan_to_num(9.0))


def test_every_changed_bit_of_a_file_is_noticed(tmp_path):
    """Or it changes nothing that is read, such as a space in the head of the file."""
    path = tmp_path / "file"
    sums, notes_sum = save_tensors(path, TENSORS, NOTES), checksum_notes(NOTES)
    body, noticed = path.read_bytes(), 0
    for at in range(len(body)):
        damaged = bytearray(body)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            file = TensorFile(path, sums, notes_sum)
            assert file.notes == NOTES
            back = file.read_all()
        except RunError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            noticed += 1
        else:
            assert all(checksum(back[name]) == checksum(tensor) for name, tensor in TENSORS.items())
    assert noticed > 0.9 * len(body)
    for end in range(0, len(body), 37):
        path.write_bytes(body[:end])
        with pytest.raises(RunError, match="is damaged"):
            TensorFile(path, sums, notes_sum)


def test_a_checksum_is_of_type_and_shape_too():
    zeros = torch.zeros(4)
    others = [
        zeros.int(),
        zeros.reshape(2, 2),
        zeros[:3],
        torch.zeros(2, dtype=torch.float64),
        zeros.clone().index_fill(0, torch.tensor(3), -0.0),
    ]
    assert len({checksum(tensor) for tensor in [zeros, *others]}) == 6
    assert checksum(zeros) == checksum(torch.zeros(4, 2)[:, 1]) == checksum(torch.zeros(4, requires_grad=True))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=8))
def test_lines_are_appended_whole(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "lines"
    texts = [line.hex() for line in lines]
    for text in texts:
        append_line(path, text)
    assert (path.read_text().splitlines() if texts else []) == texts


def test_a_lock_is_not_shared_with_children_that_live_on(tmp_path):
    lock = WriterLock(tmp_path / "lock")
    with pytest.raises(RunLocked):
        WriterLock(tmp_path / "lock")
    child = os.fork()
    if not child:
        time.sleep(20)
        os._exit(0)
    lock.release()
    WriterLock(tmp_path / "lock").release()
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_a_released_lock_can_be_released_again(tmp_path):
    lock = WriterLock(tmp_path / "lock")
    lock.release()
    other = WriterLock(tmp_path / "lock")
    lock.release()
    with pytest.raises(RunLocked):
        WriterLock(tmp_path / "lock")
    other.release()
