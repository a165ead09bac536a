"""Where the files of a dataset stand, and how many of their rows are taken."""

import contextlib
import pathlib
from collections.abc import Iterator

from ..core.errors import UsageError, reading


def file_at(path: str) -> pathlib.Path:
    """The existing file at `path`; a leading `~` is the home folder. It may be a link.

    Raises:
        UsageError: There is no such file, or what is there is a folder, a pipe or a device.
    """
    found = existing(path, "Give the path of an existing file.")
    if not found.is_file():
        what = "a folder" if found.is_dir() else "a pipe or a device" if found.exists() else ""
        raise UsageError(f"{path} is {what}. Give the path of an existing file." if what else _absent(found, "file"))
    return found


def folder_at(path: str, site: str = "") -> pathlib.Path:
    """The existing folder at `path`; a leading `~` is the home folder.

    Args:
        path: As it was given.
        site: Where its files are to be had, a sentence.

    Raises:
        UsageError: There is no such folder.
    """
    found = existing(path, "Give the path of an existing folder.")
    if not found.is_dir():
        words = f"{path} is a file. Give the path of an existing folder." if found.exists() else _absent(found, "folder")
        raise UsageError(f"{words} {site}".strip())
    return found


@contextlib.contextmanager
def had_at(site: str) -> Iterator[None]:
    """Context of reading files that are to be had somewhere: an error that advises to fetch or unpack some again says where.

    Args:
        site: Where they are to be had, and their checksums, a sentence.

    Raises:
        UsageError: The error, with `site`.
    """
    try:
        yield
    except UsageError as error:
        words = str(error)
        if not words.endswith(" again.") or site in words:
            raise
        raise UsageError(f"{words} {site}") from error.__cause__


def _absent(path: pathlib.Path, kind: str) -> str:
    if path.is_absolute():
        return f"{path} is absent. Give the path of an existing {kind}."
    # The plan of a run holds the path as it was given, perhaps in another folder.
    return f"{path} is absent from the folder you are in. Give the path of an existing {kind}; for a run, go to the folder where it was recorded."


def existing(path: str, cure: str) -> pathlib.Path:
    """`path` as a path that the system may access, whether or not anything is there; a leading `~` is the home folder.

    Raises:
        UsageError: The system refuses access; the message ends with `cure`.
    """
    # Names that are too long, folders that may not be searched and users that there are not are errors of the look itself.
    with reading(path if len(path) < 300 else f"{path[:300]}...", UsageError, cure):
        found = pathlib.Path(path).expanduser()
        found.exists()
    return found


def first_rows(limit: int | None, rows: int, source: str) -> int:
    """Number of training rows to use: `limit`, or all rows if it is None.

    Raises:
        UsageError: `limit` is less than 2 or more than there are.
    """
    if limit is None:
        return rows
    if not 2 <= limit <= rows:
        raise UsageError(f"limit={limit} is outside 2..{rows}, the training rows of {source}.")
    return limit
