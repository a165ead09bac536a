"""Values of coalitions of examples, kept in memory, or in a file to which they are appended while a game is played, so that a killed one goes on."""

import fcntl
import os
import struct
import time
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from .disk import make_folder, opened, writing

NAME = 16
"""Bytes of the name of a coalition."""
MOST = 2**32
"""Bytes of the largest file that is read; a larger one is made anew."""
PAUSE = 0.05
"""Seconds between two attempts to be the one that writes."""


class CoalitionValues:
    """Values of the coalitions of one game, by name, in memory.

    Attributes:
        width: How many numbers a value is.
    """

    def __init__(self, made_of: str, width: int):
        self.made_of, self.width = made_of, width
        self._known: dict[bytes, tuple[float, ...]] = {}

    def __contains__(self, name: bytes) -> bool:
        return name in self._known

    def __getitem__(self, name: bytes) -> tuple[float, ...]:
        return self._known[name]

    def __len__(self) -> int:
        return len(self._known)

    def add(self, names: Sequence[bytes], values: Float64[Tensor, "coalitions parts"], remarked: Sequence[bool]) -> None:
        """Keep some values. A coalition keeps the value that it was given first.

        Args:
            names: Names of the coalitions.
            values: Value of each.
            remarked: Whether its training left remarks.
        """
        for name, value in zip(names, values.tolist(), strict=True):
            self._known.setdefault(name, tuple(value))


class KeptValues(CoalitionValues):
    """The same in a file, to which only the process that has it open first appends; another one keeps its values in memory.

    A record is the name, the numbers and a checksum of both. What was cut off by a kill, or is damaged, is computed again, and so is what left remarks: a
    score is said with all of them.
    """

    def __init__(self, path: Path, made_of: str, width: int, anew: bool = False, patience: float = 0.0):
        """Read what is there, and open the file for more.

        Args:
            path: The file.
            made_of, width: As the values have them.
            anew: Whether what is there is dropped.
            patience: Seconds to wait for another process that has the file open; one that was killed may not be gone yet.

        Raises:
            NotWritten: The operating system refuses.
            RunError: A link, or no regular file.
        """
        super().__init__(made_of, width)
        self._path, self._record = path, _record(width)
        make_folder(path.parent)
        with writing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._close = weakref.finalize(self, os.close, self._handle)
        with writing(path):
            self._writes = self._locked(patience)
            self._known, whole, size = ({}, 0, os.fstat(self._handle).st_size) if anew else _read(path, self._record)
            if self._writes and whole < size:
                os.ftruncate(self._handle, whole)

    def _locked(self, patience: float) -> bool:
        """Whether this process is the one that writes."""
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                # Some shared disks have no locks; nothing is appended there, since two might.
                if not isinstance(error, BlockingIOError) or time.monotonic() >= until:
                    return False
                time.sleep(PAUSE)

    def add(self, names: Sequence[bytes], values: Float64[Tensor, "coalitions parts"], remarked: Sequence[bool]) -> None:
        """Keep some values, and append those without remarks to the file.

        Raises:
            NotWritten: The operating system refuses.
        """
        new = [place for place, name in enumerate(names) if name not in self._known and not remarked[place]]
        super().add(names, values, remarked)
        if not self._writes or not new:
            return
        rows = values.numpy()
        body = b"".join(
            self._record.pack(names[place], *rows[place], zlib.crc32(names[place] + np.ascontiguousarray(rows[place]).tobytes()))
            for place in new
        )
        with writing(self._path):
            before = os.fstat(self._handle).st_size
            try:
                rest = memoryview(body)
                while rest:
                    rest = rest[os.write(self._handle, rest) :]
            except BaseException:
                os.ftruncate(self._handle, before)
                raise


def values_in(path: Path, width: int) -> dict[bytes, tuple[float, ...]]:
    """The values in a file that others may be writing, by name; what is damaged or not whole is left out.

    Raises:
        RunError: A link, or no regular file.
        OSError: The operating system refuses.
    """
    return _read(path, _record(width))[0]


def _record(width: int) -> struct.Struct:
    return struct.Struct(f"<{NAME}s{width}dI")


def _read(path: Path, record: struct.Struct) -> tuple[dict[bytes, tuple[float, ...]], int, int]:
    """The sound values in a file, how many of its bytes are whole records, and how many there are."""
    handle, size = opened(path)
    with open(handle, "rb") as file:
        body = file.read(size) if size <= MOST else b""
    whole = len(body) // record.size * record.size
    known: dict[bytes, tuple[float, ...]] = {}
    for name, *value, checked in record.iter_unpack(body[:whole]):
        if checked == zlib.crc32(name + np.array(value).tobytes()) and all(np.isfinite(value)):
            known.setdefault(name, tuple(value))
    return known, whole, size
