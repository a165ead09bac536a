"""Attributions on disk: a folder with `attribution.json`, which describes rows and columns, and the values as an npy file of float64.

The JSON names its file of values, and is written last, so that a reader sees the old attribution or the new one. Rows are read when they
are asked for and checked against their checksums; they are not mapped: if a mapped file is truncated, the process ends without a message.
"""

import contextlib
import fcntl
import io
import json
import math
import os
import re
import secrets
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.attribution import BLOCK_BYTES, Attribution, Block, PairCheck, checked_values
from ..core.errors import BadScores, RunError, UsageError, reading
from ..core.ids import Ids
from ..core.lineage import Lineage
from ..core.npy import read_head
from ..core.scores import Direction
from .artefacts import at_home, lineage_fields, load_json, notes_as, noticing_damage, save_json
from .disk import MOST_TEXT, checksum, make_folder, opened, remove, remove_leftovers, writing, written_aside
from .schema import Checksum, FrozenModel

HEAD = "attribution.json"
KIND = np.dtype("<f8")
AGAIN = "attribute again with recompute=True (`assay attribute ... --recompute`)"
MOST_IDS = MOST_TEXT - 2**20
"""Bytes that ids, and what stands beside each query, may take in the JSON file."""
BESIDE_QUERY = 64
"""Bytes of label, weight and checksum of a query, at most."""


class AttributionNotes(FrozenModel):
    """Metadata saved with the values of an attribution."""

    method: str
    options: dict[str, object]
    title: str
    direction: Direction
    unit: str
    queries: tuple[int, ...] | tuple[str, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]
    ids: tuple[int, ...] | tuple[str, ...]
    values: str
    checksums: tuple[Checksum, ...]
    lineage: Lineage | None
    warnings: tuple[str, ...] = ()
    models: int = 1
    diagnostics: dict[str, object] = {}


class RowFile:
    """The rows of an attribution in an npy file (`core.attribution.RowSource`)."""

    def __init__(self, path: Path, columns: int, checksums: tuple[int, ...]):
        """Open the file.

        Raises:
            RunError: The file is absent, or not of this size.
        """
        self.path, self.checksums, self._columns = path, checksums, columns
        with self._seam():
            try:
                self._handle, size = opened(path)
            except OSError as error:
                raise RunError(f"{path} cannot be read ({error.strerror}); {AGAIN}.") from error
            self._close = weakref.finalize(self, os.close, self._handle)
            with os.fdopen(os.dup(self._handle), "rb") as file:
                shape, fortran, kind = read_head(file)
                self._begin = file.tell()
            claimed = self._begin + math.prod(shape) * KIND.itemsize
            if shape != (len(checksums), columns) or fortran or kind != KIND or size != claimed:
                raise RunError(
                    f"{path} is damaged: it holds {size:,} bytes of shape {shape}, where {(len(checksums), columns)} was written; {AGAIN}."
                )

    def _seam(self) -> contextlib.AbstractContextManager[None]:
        return reading(self.path, RunError, f"{AGAIN[0].upper()}{AGAIN[1:]}.")

    def read(self, queries: range) -> Float64[Tensor, "rows examples"]:
        """The values of some queries.

        Raises:
            RunError: The rows are not what was written.
        """
        found = torch.empty(len(queries), self._columns, dtype=torch.float64)
        with self._seam():
            _read(self._handle, found, self._begin + queries.start * self._columns * KIND.itemsize, self.path)
        for place, row in zip(queries, found, strict=True):
            if checksum(row) != self.checksums[place]:
                raise RunError(f"{self.path} is damaged: row {place} is not what was written; {AGAIN}.")
        return found


def _read(handle: int, into: Tensor, at: int, path: Path) -> None:
    """Fill a tensor from a place in a file."""
    room = memoryview(into.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    while len(room):
        part = os.preadv(handle, [room], at)
        if not part:
            raise RunError(f"{path} was cut off; {AGAIN}.")
        room, at = room[part:], at + part


def _write(handle: int, values: Tensor, at: int) -> None:
    """Put a tensor at a place in a file."""
    room = memoryview(values.contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    while len(room):
        part = os.pwrite(handle, room, at)
        room, at = room[part:], at + part


class RowWriter:
    """Takes the blocks of one model after the other and keeps their mean on disk; at any time one block is in memory."""

    def __init__(self, path: Path, file: BinaryIO, title: str, queries: int, examples: int):
        self._path, self._handle, self._title = path, file.fileno(), title
        self.shape = queries, examples
        head = io.BytesIO()
        np.lib.format.write_array_header_2_0(head, {"descr": KIND.str, "fortran_order": False, "shape": self.shape})
        self._begin, self._models, self._seen = len(head.getvalue()), 0, PairCheck(*self.shape)
        with writing(path):
            os.write(self._handle, head.getvalue())
            for part in self._parts():
                # What no block fills stays no number.
                _write(self._handle, torch.full((len(part), examples), torch.nan, dtype=torch.float64), self._at(part.start, 0))

    def _at(self, query: int, example: int) -> int:
        return self._begin + (query * self.shape[1] + example) * KIND.itemsize

    def _parts(self) -> Iterator[range]:
        step = max(1, BLOCK_BYTES // (KIND.itemsize * max(1, self.shape[1])))
        for start in range(0, self.shape[0], step):
            yield range(start, min(start + step, self.shape[0]))

    def start_model(self) -> None:
        """Start another model, to which the blocks that follow belong."""
        self._check_pairs()
        self._models, self._seen = self._models + 1, PairCheck(*self.shape)

    def _check_pairs(self) -> None:
        if self._models and not self._seen.complete:
            raise BadScores(
                f"{self._title} gave {self._seen.pairs:,} values of the {math.prod(self.shape):,} pairs of a query and an example, each of which "
                "has one; report it to whoever wrote it."
            )

    def add(self, block: Block) -> None:
        """Add a block of the current model.

        Raises:
            BadScores: The block is not valid, or holds a pair that an earlier block of this model held.
            NotWritten: The operating system refuses.
        """
        values = checked_values(self._title, block, *self.shape)
        self._seen.add(block)
        rows = range(block.queries.start, block.queries.stop)
        start, stop = block.examples.start, block.examples.stop
        # Whole rows stand in the file one behind the other.
        pieces = [(rows.start, values)] if stop - start == self.shape[1] else [*zip(rows, values.split(1), strict=True)]
        with writing(self._path):
            for query, piece in pieces:
                before = torch.empty_like(piece)
                _read(self._handle, before, self._at(query, start), self._path)
                empty = before.isnan()
                if not bool(empty.all() if self._models == 1 else ~empty.any()):
                    raise BadScores(f"{self._title} gave some pairs of a query and an example in several blocks.")
                _write(self._handle, piece if self._models == 1 else before + piece, self._at(query, start))

    def end(self) -> tuple[int, ...]:
        """Turn sums over the models into means; returns the checksum of every row.

        Raises:
            BadScores: Some pair has no value.
            NotWritten: The operating system refuses.
        """
        self._check_pairs()
        found = []
        with writing(self._path):
            for part in self._parts():
                rows = torch.empty(len(part), self.shape[1], dtype=torch.float64)
                _read(self._handle, rows, self._at(part.start, 0), self._path)
                if self._models > 1:
                    rows /= self._models
                    _write(self._handle, rows, self._at(part.start, 0))
                found += [checksum(row) for row in rows]
        return tuple(found)


def _remove_if_abandoned(path: Path) -> None:
    """Take away what a killed process left: as long as it lives, it holds a lock on what it writes."""
    with contextlib.suppress(OSError, RunError):
        handle, _ = opened(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
        finally:
            os.close(handle)


@contextlib.contextmanager
def finishing(folder: Path) -> Iterator[None]:
    """Hold the lock of an attribution's folder: from before its values are put in place until the JSON file names them.

    Otherwise another writer, which removes all values that its JSON file does not name, would remove those that are not named yet.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_rows(folder: Path, title: str, queries: Ids, ids: Ids) -> Iterator[tuple[Path, RowWriter]]:
    """A file of values to fill, which is put into the attribution's folder when the block ends without an error; and its path.

    Raises:
        UsageError: There are more ids than the file beside it may name.
        NotWritten: The operating system refuses.
    """
    size = BESIDE_QUERY * len(queries) + sum(len(json.dumps(one)) + 5 for both in (queries, ids) for one in both)
    if size > MOST_IDS:
        raise UsageError(
            f"The ids of {len(queries):,} queries and {len(ids):,} examples take {size:,} bytes, and {MOST_IDS:,} are the most that an "
            "attribution may name; ask for fewer queries at a time, or give examples shorter names."
        )
    path = folder / f"values-{secrets.token_hex(4)}.npy"
    make_folder(folder)
    with contextlib.ExitStack() as writing_aside:
        # A file that is not locked yet would be taken for one that a killed process left.
        with finishing(folder):
            for leftover in folder.glob(".values-*.tmp"):
                _remove_if_abandoned(leftover)
            file = writing_aside.enter_context(written_aside(path))
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path, RowWriter(path, file, title, len(queries), len(ids))


def save_attribution(attribution: Attribution, path: Path) -> None:
    """Write the JSON file beside the values at `path`, and remove the values of an earlier attribution; called within `finishing`.

    Raises:
        NotWritten: The operating system refuses.
    """
    body: dict[str, Any] = {
        "method": attribution.method,
        "options": dict(attribution.options),
        "title": attribution.title,
        "direction": attribution.direction.value,
        "unit": attribution.unit,
        "queries": list(attribution.queries),
        "labels": attribution.labels.tolist(),
        "weights": attribution.weights.tolist(),
        "ids": list(attribution.ids),
        "values": path.name,
        "checksums": list(attribution.source.checksums),
        "lineage": lineage_fields(attribution.lineage),
        "warnings": list(attribution.warnings),
        "models": attribution.models,
        "diagnostics": dict(attribution.diagnostics),
    }
    remove_leftovers(path.parent / HEAD)
    save_json("attribution", body, path.parent / HEAD)
    for other in path.parent.glob("values-*.npy"):
        if other.name != path.name:
            remove(other)


@checked_arguments
def load_attribution(folder: str | Path) -> Attribution:
    """Load what `assay.attribute` wrote: RUN/attributions/TITLE. Rows are read when they are asked for.

    Raises:
        RunError: The file is absent, damaged, incomplete, of another kind, or of a newer schema.
    """
    path, before = Path(folder) / HEAD, ""
    while True:
        notes = load_json("attribution", path)
        try:
            return _loaded(path, notes)
        except RunError:
            # Another process may have put a new one in its place since the JSON was read.
            if (named := str(notes.get("values"))) == before or (path.parent / named).exists():
                raise
            before = named


def _loaded(path: Path, notes: dict[str, Any]) -> Attribution:
    with noticing_damage(path):
        said = notes_as(AttributionNotes, notes)
        if not re.fullmatch(r"values-[0-9a-f]{8}\.npy", said.values):
            raise ValueError(f"its values stand in {said.values!r}")
        queries, ids = Ids(said.queries), Ids(said.ids)
        if not all(math.isfinite(weight) for weight in said.weights) or not len(queries) or not len(ids):
            raise ValueError("its weights are no finite numbers, or it has no rows or columns")
        return Attribution(
            queries=queries,
            ids=ids,
            labels=torch.tensor(said.labels, dtype=torch.int64),
            weights=torch.tensor(said.weights, dtype=torch.float64),
            source=RowFile(path.parent / said.values, len(ids), said.checksums),
            method=said.method,
            options=said.options,
            title=said.title,
            direction=said.direction,
            unit=said.unit,
            # Two folders further down than scores.
            lineage=at_home(said.lineage, path.parent),
            warnings=said.warnings,
            models=said.models,
            diagnostics=said.diagnostics,
        )
