"""An input of the user's own, in the form of a dataset's examples: a picture, an array, or a row of a table."""

import dataclasses
import zipfile
import zlib

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError, reading
from ..core.npy import is_npz, read_npy, read_npz
from .examples import Examples, RowReader
from .files import file_at
from .pictures import Colours, pixels

CURE = "Give a picture, an .npy or .npz file of one input, or for tables a .csv file of a header and one row."


@dataclasses.dataclass(frozen=True, eq=False)
class OwnInput:
    """One input.

    Attributes:
        inputs: (1, ...), as `Examples.inputs` holds it.
        label: Its class, if the file says it.
        row: Its cells, for tables.
        note: How it was brought into the form of the examples, a sentence; empty if it is as it was.
    """

    inputs: Tensor
    label: int | None = None
    row: tuple[str, ...] = ()
    note: str = ""


def own_input(path: str, like: Examples, rows: RowReader | None = None) -> OwnInput:
    """The input in a file, in the form of a dataset's examples.

    A picture becomes grey or coloured as the examples are, and is scaled to their size if both are square. An array has the shape of one
    input, or of a batch of one; whole numbers of 0 to 255 where the examples are pictures of bytes, else fractions as the dataset gives them,
    before any normalisation of assay's.

    Args:
        path: The file.
        like: Examples of the dataset.
        rows: For tables, what reads a row.

    Raises:
        UsageError: The file cannot be read, or is no input of this kind.
    """
    file = file_at(path)
    kind = file.suffix.lower()
    if kind in (".npy", ".npz"):
        return OwnInput(_as_input(_array(path), like, path))
    if kind in (".csv", ".tsv", ".txt"):
        if rows is None:
            raise UsageError(f"{path}: the examples are no rows of a table that assay read. {CURE}")
        return OwnInput(*rows.read(path))
    if not like.pictures or like.inputs.dtype != torch.uint8 or like.shape[0] not in (1, 3):
        shape = "x".join(map(str, like.shape))
        raise UsageError(f"{path}: an input is {shape} numbers, no picture of bytes. {CURE}")
    colours: Colours = "grey" if like.shape[0] == 1 else "rgb"
    image, wanted = pixels(file, path, colours), like.shape[1:]
    note = ""
    if image.shape[1:] != wanted:
        was = f"{image.shape[2]} x {image.shape[1]}"
        if image.shape[1] != image.shape[2] or wanted[0] != wanted[1]:
            raise UsageError(
                f"{path} has {was} pixels, and the examples {wanted[1]} x {wanted[0]}; cut or scale it to that size."
            )
        image = pixels(file, path, colours, wanted[0])
        note = f"The picture was scaled from {was} to {wanted[1]} x {wanted[0]} pixels."
    return OwnInput(torch.from_numpy(np.array(image))[None], note=note)


def _array(path: str) -> np.ndarray:
    file = file_at(path)
    with reading(path, UsageError, CURE), open(file, "rb") as opened:
        try:
            if not is_npz(opened):
                return read_npy(opened, file.stat().st_size)
            arrays = read_npz(opened, ("inputs",))
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{path} cannot be read as an array ({error}). {CURE}") from error
    if "inputs" not in arrays or len(arrays) > 1:
        raise UsageError(f"{path} holds {', '.join(arrays) or 'no array'}; it must hold one array, named inputs.")
    return arrays["inputs"]


def _as_input(array: np.ndarray, like: Examples, path: str) -> Tensor:
    shape = array.shape[1:] if array.ndim == len(like.shape) + 1 and len(array) == 1 else array.shape
    if shape != like.shape:
        raise UsageError(
            f"{path} has shape {tuple(array.shape)}; one input has shape {like.shape}, and the file must hold one of that shape."
        )
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise UsageError(f"{path} holds {array.dtype} that are not all finite numbers; an input is finite numbers.")
    if like.inputs.dtype == torch.uint8:
        if array.dtype.kind == "f" or (array.size and not 0 <= int(array.min()) <= int(array.max()) <= 255):
            raise UsageError(
                f"{path} holds {array.dtype} of {array.min():g} to {array.max():g}; the examples are whole numbers of 0 to 255."
            )
        return torch.from_numpy(array.astype(np.uint8)).reshape(1, *like.shape)
    return torch.from_numpy(array.astype(np.float32)).reshape(1, *like.shape).to(like.inputs.dtype)
