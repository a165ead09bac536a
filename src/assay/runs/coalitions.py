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
import torch
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
        self._numbers = struct.Struct(f"<{width}d")
        self._known: dict[bytes, bytes] = {}

    def __contains__(self, name: bytes) -> bool:
        return name in self._known

    def __getitem__(self, name: bytes) -> tuple[float, ...]:
        return self._numbers.unpack(self._known[name])

    def __len__(self) -> int:
        return len(self._known)

    def table(self, names: Sequence[bytes]) -> Float64[Tensor, "coalitions parts"]:
        """The values of these coalitions, which must be known."""
        body = bytearray().join(self._known[name] for name in names)
        return torch.from_numpy(np.ndarray((len(names), self.width), "<f8", body).astype(np.float64))

    def add(self, names: Sequence[bytes], values: Float64[Tensor, "coalitions parts"], remarked: Sequence[bool]) -> None:
        """Keep some values. A coalition keeps the value that it was given first.

        Args:
            names: Names of the coalitions.
            values: Value of each.
            remarked: Whether its training left remarks.
        """
        for name, value in zip(names, values.numpy().astype("<f8"), strict=True):
            self._known.setdefault(name, value.tobytes())


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
        body = b"".join(
            self._record.pack(names[place], self._known[names[place]], zlib.crc32(names[place] + self._known[names[place]]))
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
    numbers = struct.Struct(f"<{width}d")
    return {name: numbers.unpack(value) for name, value in _read(path, _record(width))[0].items()}


def record_size(width: int) -> int:
    """Bytes that a value of so many numbers takes in a file."""
    return _record(width).size


def _record(width: int) -> struct.Struct:
    return struct.Struct(f"<{NAME}s{8 * width}sI")


def _read(path: Path, record: struct.Struct) -> tuple[dict[bytes, bytes], int, int]:
    """The sound values in a file, how many of its bytes are whole records, and how many there are."""
    handle, size = opened(path)
    with open(handle, "rb") as file:
        body = file.read(size) if size <= MOST else b""
    whole = len(body) // record.size * record.size
    known: dict[bytes, bytes] = {}
    for name, value, checked in record.iter_unpack(memoryview(body)[:whole]):
        if checked == zlib.crc32(name + value) and bool(np.isfinite(np.frombuffer(value, "<f8")).all()):
            known.setdefault(name, value)
    return known, whole, size
