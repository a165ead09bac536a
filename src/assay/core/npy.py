"""Reading of npy and npz files, with headers checked against the file's size before memory is allocated. Plain numbers and texts only."""

import io
import math
import zipfile
from collections.abc import Collection

import numpy as np

SMALL = 256 * 2**20
"""Bytes in memory that any array may take, however small its file is."""
TIMES = 200
"""Beyond that an array takes at most so many times its compressed bytes; pictures and numbers compress 2 to 50 times."""
LONGEST_HEAD = 2**16
"""Bytes of the longest head that is read."""


def read_head(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The head of an npy file.

    Args:
        file: The file, at its beginning; left where the array begins.

    Returns:
        Shape of the array, whether its columns come one behind the other, and its type.

    Raises:
        ValueError: Not an npy file.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version} of the format")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return reader(file, max_header_size=LONGEST_HEAD)


def read_npy(file: io.BufferedIOBase, size: int) -> np.ndarray:
    """The array of an npy file.

    Args:
        file: The file, at its beginning.
        size: How many bytes it has.

    Returns:
        Numbers or texts, in the shape and type that the file says.

    Raises:
        ValueError: Not an npy file, an array of other types than numbers and texts, or not the size that its header claims.
    """
    shape, fortran, kind = read_head(file)
    if kind.kind not in "biufcSU" or kind.hasobject:
        raise ValueError(f"it holds {kind}, not plain numbers or texts")
    claimed = math.prod(shape) * kind.itemsize
    if claimed != size - file.tell():
        raise ValueError(f"its head claims {claimed:,} bytes of content, it has {size - file.tell():,}")
    array = np.empty(math.prod(shape), kind)
    if claimed:
        room = memoryview(array.view(np.uint8))  # type: ignore[arg-type]
        while len(room):
            part = file.readinto(room)
            if not part:
                raise ValueError(f"it ends {len(room):,} bytes too early")
            room = room[part:]
    return array.reshape(shape, order="F" if fortran else "C")


def is_npz(file: io.BufferedIOBase) -> bool:
    """Whether a file begins as an npz file does; the file position stays at the beginning."""
    start = file.read(4)
    file.seek(0)
    return start[:2] == b"PK"


def read_npz(file: io.BufferedIOBase, known: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name; names that are not in `known` get an empty array.

    Args:
        file: The file.
        known: Names of the arrays that are wanted.

    Returns:
        By name, in the order of the file.

    Raises:
        ValueError: As `read_npy`, or an array claims far more memory than its compressed size can hold.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"two of its arrays are named {name[:80]!r}")
            if name not in known:
                arrays[name] = np.empty(0)
                continue
            if member.file_size > max(SMALL, TIMES * member.compress_size):
                raise ValueError(
                    f"{name} claims {member.file_size:,} bytes in {member.compress_size:,}; save it without compression"
                )
            with archive.open(member) as body:
                arrays[name] = read_npy(body, member.file_size)  # type: ignore[arg-type]
    return arrays
