"""Values of coalitions in a file: kept as they come, and read again whatever a kill or damage left of it."""

import fcntl
import threading

import pytest
import torch

from assay.core.errors import RunError
from assay.runs.coalitions import CoalitionValues, KeptValues, values_in


def named(number):
    return number.to_bytes(16, "little")


def filled(path, count=5, width=3):
    kept = KeptValues(path, "it", width)
    values = torch.rand(count, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept.add([named(one) for one in range(count)], values, [False] * count)
    return kept, values


def test_what_was_added_is_there_again(tmp_path):
    kept, values = filled(tmp_path / "games" / "a.values")
    kept.add([named(1), named(9)], torch.ones(2, 3, dtype=torch.float64), [False] * 2)
    memory = CoalitionValues("it", 3)
    memory.add([named(1), named(1)], values[:2], [False] * 2)
    assert memory[named(1)] == tuple(values[0].tolist()) and len(memory) == 1 and named(2) not in memory
    # A second process adds nothing to the file, and reads what is there.
    other = KeptValues(tmp_path / "games" / "a.values", "it", 3)
    other.add([named(20)], values[:1], [False])
    assert len(other) == 7 and named(20) in other
    del kept, other
    again = KeptValues(tmp_path / "games" / "a.values", "it", 3)
    assert len(again) == 6 and again[named(9)] == (1, 1, 1) and again[named(1)] == tuple(values[1].tolist())


@pytest.mark.parametrize("cut", [1, 20, 43])
def test_what_a_kill_cut_off_is_made_again(tmp_path, cut):
    path = tmp_path / "a.values"
    kept, values = filled(path)
    del kept
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = KeptValues(path, "it", 3)
    assert len(again) == 4 and named(4) not in again
    again.add([named(4)], values[4:], [False])
    del again
    assert path.read_bytes() == whole and len(KeptValues(path, "it", 3)) == 5


def test_what_is_damaged_is_no_value(tmp_path):
    path = tmp_path / "a.values"
    kept, values = filled(path)
    del kept
    body = bytearray(path.read_bytes())
    body[2 * len(body) // 5 + 20] ^= 1
    path.write_bytes(body)
    again = KeptValues(path, "it", 3)
    assert len(again) == 4 and named(2) not in again and again[named(3)] == tuple(values[3].tolist())


def test_what_left_remarks_is_made_again_and_so_is_all_where_that_is_asked_for(tmp_path):
    path = tmp_path / "a.values"
    kept, values = filled(path)
    kept.add([named(7), named(8)], values[:2], [True, False])
    assert named(7) in kept
    del kept
    again = KeptValues(path, "it", 3)
    assert named(7) not in again and again[named(8)] == tuple(values[1].tolist()) and len(again) == 6
    del again
    assert len(KeptValues(path, "it", 3, anew=True)) == 0 and path.read_bytes() == b""


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "a.values").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError):
        KeptValues(tmp_path / "a.values", "it", 1)


def test_who_is_patient_writes_when_the_other_is_gone(tmp_path):
    path = tmp_path / "a.values"
    kept, values = filled(path)
    assert len(values_in(path, 3)) == 5, "reading waits for nobody"
    held = [kept]
    del kept
    threading.Timer(0.2, held.clear).start()
    other = KeptValues(path, "it", 3, patience=60.0)
    other.add([named(5)], values[:1], [False])
    assert len(values_in(path, 3)) == 6


def test_a_disk_without_locks_keeps_values_in_memory(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    kept, _ = filled(tmp_path / "a.values")
    assert len(kept) == 5 and not values_in(tmp_path / "a.values", 3)
