"""Rows of numbers for each example that are dear to make, such as gradients, kept in a run's folder for the next call that asks for them.

A folder each: parts in safetensors files, and `rows.json`, which is written last and says of what the rows were made, with a checksum of each
part. What is incomplete, damaged, or made of something else counts as not there.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..core.errors import RunError
from ..core.models import ExampleRows
from .artefacts import load_json, notes_as, noticing_damage, save_json
from .disk import TensorFile, save_tensors
from .schema import Checksum, Count, FrozenModel

HEAD = "rows.json"
ROWS = "rows"
PART_BYTES = 64 * 2**20
"""Bytes of a part, about; one is in memory at a time."""
AGAIN = "remove this folder and ask again"


class RowsNotes(FrozenModel):
    """What `rows.json` holds."""

    made_of: str
    code: str
    examples: Count
    dims: Count
    sums: tuple[Checksum, ...]


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.safetensors"


def save_rows(folder: Path, made_of: str, blocks: Iterator[Tensor]) -> ExampleRows:
    """Write rows as they are made.

    Args:
        folder: Where they are kept.
        made_of: Fingerprint of everything that they depend on.
        blocks: The rows in blocks, from first to last, all of one type.

    Returns:
        The rows, read from there.

    Raises:
        NotWritten: The operating system refuses; the rows are then not there.
    """
    sums: list[int] = []
    held: list[Tensor] = []
    examples = dims = 0

    def flush() -> None:
        # No checksum of texts is needed: there are none.
        sums.append(save_tensors(_part(folder, len(sums)), {ROWS: torch.cat(held)})[ROWS])
        held.clear()

    for block in blocks:
        held.append(block)
        examples, dims = examples + len(block), block.shape[1]
        if sum(one.nbytes for one in held) >= PART_BYTES:
            flush()
    if held or not sums:
        flush()
    save_json(
        ROWS,
        RowsNotes(made_of=made_of, code=__version__, examples=examples, dims=dims, sums=tuple(sums)).model_dump(),
        folder / HEAD,
    )
    found = load_rows(folder, made_of)
    if found is None:
        raise RunError(f"{folder} does not hold what was just written; {AGAIN}.")
    return found


def load_rows(folder: Path, made_of: str) -> ExampleRows | None:
    """The rows that an earlier call of this version of assay kept, all of which are read once to compare them with their checksums.

    Args:
        folder: Where they are kept.
        made_of: Fingerprint of everything that they depend on.

    Returns:
        The rows; None if there are none that are whole and made of this.
    """
    path = folder / HEAD
    try:
        if not path.exists():
            return None
        body = load_json(ROWS, path)
        with noticing_damage(path):
            said = notes_as(RowsNotes, body)
        if said.made_of != made_of or said.code != __version__:
            return None
        size = 0
        start = 0
        for part, block in _read(folder, said.sums):
            if block.ndim != 2 or block.shape[1] != said.dims:
                return None
            start, size = part.stop, block.element_size() * block.shape[1]
    except RunError:
        return None
    return ExampleRows(said.dims, size, True, functools.partial(_read, folder, said.sums)) if start == said.examples else None


def _read(folder: Path, sums: tuple[int, ...]) -> Iterator[tuple[slice, Tensor]]:
    """The parts, one after the other.

    Raises:
        RunError: A part is not what was written.
    """
    start = 0
    for number, one in enumerate(sums):
        block = TensorFile(_part(folder, number), {ROWS: one}, 0).read(ROWS)
        yield slice(start, start + len(block)), block
        start += len(block)
