import pytest
import torch

from assay.core.errors import NotWritten
from assay.runs import rows
from assay.runs.rows import load_rows, save_rows


def test_rows_are_kept_in_parts_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "PART_BYTES", 40)
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(11, 3, generator=draw)
    made = save_rows(tmp_path / "one", "a", iter(whole.split(2)))
    assert len(list((tmp_path / "one").glob("part-*"))) == 3 and (made.dims, made.bytes, made.kept) == (3, 12, True)
    found = load_rows(tmp_path / "one", "a")
    for one in (made, found, found):
        blocks = list(one.blocks())
        assert torch.equal(torch.cat([block for _, block in blocks]), whole) and [part.start for part, _ in blocks] == [0, 4, 8]
    assert load_rows(tmp_path / "one", "b") is None and load_rows(tmp_path / "two", "a") is None
    # Fewer rows in the same place leave nothing of the former ones to be read.
    save_rows(tmp_path / "one", "a", iter([whole[:2].double()]))
    assert torch.equal(next(load_rows(tmp_path / "one", "a").blocks())[1], whole[:2].double())


def test_what_is_not_finished_is_not_there(tmp_path):
    def killed():
        yield torch.zeros(2, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_rows(tmp_path / "one", "a", killed())
    assert load_rows(tmp_path / "one", "a") is None
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten):
        save_rows(tmp_path / "file" / "one", "a", iter([torch.zeros(2, 2)]))


@pytest.mark.parametrize("name", ["rows.json", "part-000000.safetensors"])
def test_no_changed_bit_is_read(tmp_path, name):
    save_rows(tmp_path / "one", "a", iter([torch.arange(6.0).reshape(3, 2)]))
    path = tmp_path / "one" / name
    body = path.read_bytes()
    for place in range(0, len(body), 7):
        spoilt = bytearray(body)
        spoilt[place] ^= 16
        path.write_bytes(spoilt)
        found = load_rows(tmp_path / "one", "a")
        assert found is None or torch.equal(next(found.blocks())[1], torch.arange(6.0).reshape(3, 2))
    path.write_bytes(body)
    assert load_rows(tmp_path / "one", "a") is not None


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    save_rows(tmp_path / "elsewhere" / "one", "a", iter([torch.zeros(2, 2)]))
    (tmp_path / "features").symlink_to(tmp_path / "elsewhere")
    assert load_rows(tmp_path / "features" / "one", "a") is None
