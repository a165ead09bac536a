import pytest

from assay.core.errors import UsageError
from assay.data.files import file_at, first_rows, folder_at


def test_paths_that_are_absent_or_of_the_other_kind(tmp_path):
    (tmp_path / "file").touch()
    assert file_at(str(tmp_path / "file")) == tmp_path / "file" and folder_at(str(tmp_path)) == tmp_path
    for call, path, words in [
        (file_at, tmp_path / "none", "is absent"),
        (file_at, tmp_path, "is a folder"),
        (folder_at, tmp_path / "none", "is absent"),
        (folder_at, tmp_path / "file", "is a file"),
    ]:
        with pytest.raises(UsageError, match=words):
            call(str(path))


def test_a_relative_path_is_looked_for_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call, kind in ((file_at, "file"), (folder_at, "folder")):
        with pytest.raises(UsageError, match=f"^none is absent from the folder you are in.* existing {kind}; for a run, go to"):
            call("none")


def test_the_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_at("~") == tmp_path


def test_first_rows():
    assert first_rows(None, 5, "x") == 5 and first_rows(3, 5, "x") == 3
    for limit in (1, 0, -3, 6):
        with pytest.raises(UsageError, match=rf"limit={limit} is outside 2\.\.5"):
            first_rows(limit, 5, "x")
