"""Labels that people gave: the files of CIFAR-10N and CIFAR-100N, or an array of numbers."""

import io
import pathlib
import pickletools
import zipfile

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ..core.errors import MOST_WORDS, UnknownName, UsageError, listed, reading
from ..core.npy import read_npy
from . import labels as given
from .examples import Examples
from .files import file_at
from .opcodes import content_of

SITE = "github.com/UCSC-REAL/cifar-10-100n, data/CIFAR-10_human.pt or data/CIFAR-100_human.pt"
MOST = 2**27
"""Bytes of the largest file that is read; CIFAR-10N's has 2.5 million."""
CLEAN = "clean_label"


def human_labels(examples: Examples, path: str, column: str | None = None) -> Int[Tensor, " examples"]:
    """The class that people gave to each example, by its id, which is a row of the file.

    Args:
        examples: Under their true labels. Ids are rows of the training set, as in CIFAR-10 and CIFAR-100.
        path: A file that torch.save wrote of a dictionary of arrays, as CIFAR-10N and CIFAR-100N are; or an .npy file of one number for each row.
        column: Key of the dictionary, such as `worse_label`, `aggre_label`, `random_label1` or `noisy_label`; None for an .npy file.

    Raises:
        UnknownName: There is no such column.
        UsageError: The file is absent or damaged, lacks a row, or its `clean_label` are not the labels of these examples.
    """
    file = file_at(path) if pathlib.Path(path).expanduser().exists() else None
    if file is None:
        raise UsageError(
            f"{path} is absent. CIFAR-10N and CIFAR-100N are at {SITE}, without a checksum; their true labels are compared with the data."
        )
    rows = examples.ids.values
    if rows.dtype.kind not in "iu":
        raise UsageError(
            f"{path} holds a label for each row of a training set, and ids are texts such as {rows[0]!r}; give data whose ids are rows."
        )
    columns = {"": _array(file)} if file.suffix == ".npy" else _columns(file)
    if file.suffix == ".npy":
        if column is not None:
            raise UsageError(f"{path} is one array without columns; leave out column={column}.")
        column = ""
    elif column is None:
        raise UsageError(f"{path} holds {listed(list(columns), len(columns))}; say which by column=.")
    elif column not in columns:
        raise UnknownName(f"column of {path}", column, list(columns))
    if len(outside := rows[(rows < 0) | (rows >= len(columns[column]))]):
        raise UsageError(
            f"{path} holds {len(columns[column]):,} labels, and {len(outside):,} ids are no row of it; {listed(outside.tolist(), len(outside))}."
        )
    if CLEAN in columns and len(columns[CLEAN]) == len(columns[column]):
        # Labels of another set, or in another order, would look like noise.
        other = np.flatnonzero(columns[CLEAN][rows] != examples.labels.numpy())
        if len(other):
            raise UsageError(
                f"{path}: its {CLEAN} is not the label of {len(other):,} of {len(rows):,} examples; ids {listed(rows[other].tolist(), len(other))}. "
                "Give the file of these data, and data under their true labels."
            )
    origin = given.Origin(f"{path}, {column}" if column else path, rows, "id")
    return given.encode(given.checked(columns[column][rows], origin), examples.class_names, origin)


def _array(file: pathlib.Path) -> np.ndarray:
    with reading(file, UsageError, "Save one whole number for each row by numpy.save."), file.open("rb") as opened:
        try:
            array = read_npy(opened, file.stat().st_size)
        except ValueError as error:
            raise UsageError(
                f"{file} cannot be read as an array ({error}). Save one whole number for each row by numpy.save."
            ) from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"{file} holds {array.dtype} of shape {array.shape}; give one whole number for each row.")
    return array


def _columns(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a dictionary that torch.save wrote, today's way (a zip file) or that of before (pickles one after another)."""
    cure = f"Fetch it again ({SITE})."
    with reading(file, UsageError, cure):
        size = file.stat().st_size
        if size > MOST:
            raise UsageError(f"{file} has {size:,} bytes, which no file of labels has. {cure}")
        body = file.read_bytes()
    try:
        content = content_of(_pickle(body))
    except Exception as error:  # a damaged pickle may raise almost anything
        words = " ".join(str(error).split())[:MOST_WORDS]
        raise UsageError(f"{file} is no dictionary of arrays by torch.save ({words}). {cure}") from error
    columns = content if isinstance(content, dict) else {}
    found = {
        name: value
        for name, value in columns.items()
        if isinstance(name, str) and isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu"
    }
    if not found:
        raise UsageError(f"{file} holds no array of class numbers by name. {cure}")
    return found


def _pickle(body: bytes) -> bytes:
    """The pickle of what was saved."""
    if body[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            member = next(info for info in archive.infolist() if info.filename.endswith("data.pkl"))
            if member.file_size > MOST:
                raise ValueError(f"it holds {member.file_size:,} bytes")
            return archive.read(member)
    # Before it stand a magic number, a version and the machine's sizes, each a pickle.
    stream, starts = io.BytesIO(body), []
    for _ in range(4):
        starts.append(stream.tell())
        for _ in pickletools.genops(stream):
            pass
    return body[starts[-1] : stream.tell()]
