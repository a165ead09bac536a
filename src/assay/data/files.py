"""Where the files of a dataset stand, and how many of their rows are taken."""

import pathlib

from ..core.errors import UsageError


def file_at(path: str) -> pathlib.Path:
    """The existing file at `path`; a leading `~` is the home folder.

    Raises:
        UsageError: There is no such file.
    """
    found = pathlib.Path(path).expanduser()
    if not found.is_file():
        raise UsageError(f"{path} is {'a folder' if found.is_dir() else 'absent'}. Give the path of an existing file.")
    return found


def folder_at(path: str) -> pathlib.Path:
    """The existing folder at `path`; a leading `~` is the home folder.

    Raises:
        UsageError: There is no such folder.
    """
    found = pathlib.Path(path).expanduser()
    if not found.is_dir():
        raise UsageError(f"{path} is {'a file' if found.exists() else 'absent'}. Give the path of an existing folder.")
    return found


def first_rows(limit: int | None, rows: int, source: str) -> int:
    """How many training rows `limit` takes: all for None.

    Raises:
        UsageError: `limit` is less than 2 or more than there are.
    """
    if limit is None:
        return rows
    if not 2 <= limit <= rows:
        raise UsageError(f"limit={limit} is outside 2..{rows}, the training rows of {source}.")
    return limit
