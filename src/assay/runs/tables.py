"""Parquet files keyed by id: the examples of a run, and columns beside them."""

import io
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import RunError, reading
from ..core.ids import Ids
from ..core.lineage import SCHEMA
from .disk import opened, replace
from .schema import check_version


def write_table(path: Path, kind: str, ids: Ids, columns: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Save columns in the order of `ids`, with notes as JSON in the file's metadata.

    Raises:
        NotWritten: The operating system refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {"id": ids.values.tolist() if not ids.numeric else ids.values, **columns}
    arrays = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in arrays.items()}
    head = json.dumps({"format": f"assay-{kind}", "schema_version": SCHEMA, **notes})
    table = pa.table(arrays).replace_schema_metadata({"assay": head, "checksum": _checksum(head, arrays)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    replace(path, sink.getvalue())


def read_table(
    path: Path, kind: str, columns: Mapping[str, str], rows: int | None = None
) -> tuple[Ids, dict[str, Any], dict[str, Any]]:
    """Load ids, columns (numpy arrays, or lists of text) and notes of a table that `write_table` made.

    Args:
        path: The file.
        kind: Kind of the table, such as `scores`.
        columns: Type of each column beside `id`, as Arrow names it. A name that ends in ` *` stands for any number of columns with a number
            in place of the star, and the column of a name that ends in `?` need not be there.
        rows: How many there are, where that is known.

    Raises:
        RunError: The file is absent, damaged, of another kind, of other columns or rows, or of a newer schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, RunError, "Make it again, or restore it from a copy."):
        try:
            handle, size = opened(path)
        except FileNotFoundError as error:
            raise RunError(f"{path} does not exist; make it first.") from error
        held: dict[str, Any] = {}
        try:
            # In this thread alone: one of Arrow's that still holds a buffer of Python when the interpreter ends brings the process down.
            with open(handle, "rb") as body, pq.ParquetFile(body, read_dictionary=_texts(body), pre_buffer=False) as file:
                head, checksum = _head(path, kind, file)
                notes = json.loads(head)
                _check_columns(path, kind, file, columns)
                _check_size(path, file, size, rows)
                for name in file.schema_arrow.names:
                    held[name] = _column(path, file.read([name], use_threads=False).column(0), size)
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            why = " ".join(str(error).split())
            raise RunError(f"{path} is damaged or no Parquet file ({why}); make it again.") from error
        if _checksum(head, held) != checksum:
            raise RunError(f"{path} is damaged (checksum); restore it from a copy or make it again.")
        return Ids(held.pop("id")), held, notes


MOST_NOTES = 32 * 2**20
"""Bytes of the largest notes that are read."""
SMALL = 256 * 2**20
"""Bytes in memory that any table may take, however small its file is."""
ROWS_PER_BYTE, TIMES = 8, 256
"""Ids differ, so that a file has at least a byte for so many of them; and a table takes at most so many times the memory of its file."""


def _texts(body: BinaryIO) -> list[str]:
    """Names of the columns of text, which are read as dictionaries: one long text in every row is then one text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(body, pre_buffer=False) as file:
        names = [
            field.name for field in file.schema_arrow if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
    body.seek(0)
    return names


def _head(path: Path, kind: str, file: Any) -> tuple[str, str]:
    """Notes and checksum of a file that says that it is of this kind."""
    held = file.schema_arrow.metadata or {}
    head = held.get(b"assay", b"{}")
    if len(head) > MOST_NOTES:
        raise RunError(f"{path} has notes of {len(head):,} bytes, where {MOST_NOTES:,} are the most. Make it again.")
    try:
        notes = json.loads(head)
    except ValueError as error:
        raise RunError(f"{path} is damaged (its notes are not JSON); make it again.") from error
    if not isinstance(notes, dict) or notes.get("format") != f"assay-{kind}":
        raise RunError(f"{path} holds no {kind} of assay; name a file that assay made as such.")
    check_version(notes.get("schema_version"), path)
    return head.decode(), held.get(b"checksum", b"").decode("ascii", "replace")


def _check_columns(path: Path, kind: str, file: Any, columns: Mapping[str, str]) -> None:
    """Refuse other columns, or columns of another type, than this kind of table has."""
    fields = {field.name: str(field.type) for field in file.schema_arrow}
    if len(fields) < len(file.schema_arrow):
        raise RunError(f"{path} is damaged: two of its columns have one name. Make it again.")
    patterns = {
        re.escape(name.removesuffix("?")).replace(r"\*", r"\d{1,9}"): kind
        for name, kind in {"id": "int64 or text", **columns}.items()
    }
    for name, found in fields.items():
        due = next((due for pattern, due in patterns.items() if re.fullmatch(pattern, name)), None)
        is_so = "text" if found.startswith("dictionary<values=string") or "string" in found else found
        if due is None or is_so not in due.split(" or "):
            wanted = f"where {due} is due" if due else f"which {kind} do not have"
            raise RunError(f"{path} is damaged: its column {name!r} holds {found}, {wanted}. Make it again.")
    if absent := [name for name in ("id", *columns) if "*" not in name and "?" not in name and name not in fields]:
        raise RunError(f"{path} is damaged: it has no column {absent[0]!r}. Make it again.")


def _check_size(path: Path, file: Any, size: int, rows: int | None) -> None:
    """Refuse more rows than the run has, or than the bytes of the file can tell apart."""
    found = file.metadata.num_rows
    if rows is not None and found != rows:
        raise RunError(f"{path} does not fit its run: it holds {found:,} rows, where {rows:,} are due. Restore it from a copy.")
    memory = 8 * found * len(file.schema_arrow)
    if found > 2**16 + ROWS_PER_BYTE * size or memory > max(SMALL, TIMES * size):
        raise RunError(
            f"{path} claims {found:,} rows of {len(file.schema_arrow)} columns in {size:,} bytes, which cannot be; make it again."
        )


def _column(path: Path, column: Any, size: int) -> Any:
    """One column as a numpy array, or as a list of text."""
    import pyarrow as pa

    if column.null_count:
        raise RunError(f"{path} is damaged: a cell is empty. Make it again.")
    if not pa.types.is_dictionary(column.type):
        return np.array(column.to_numpy())
    parts = []
    letters = longest = 0
    for chunk in column.chunks:
        words, places = chunk.dictionary.to_pylist(), chunk.indices.to_numpy()
        lengths = np.array([len(word) for word in words], np.int64)
        letters += int(lengths[places].sum())
        longest = max(longest, int(lengths.max(initial=0)))
        parts.append((words, places))
        if letters > max(SMALL, TIMES * size) or 4 * longest * len(column) > max(4 * SMALL, TIMES * size):
            raise RunError(
                f"{path} holds texts of {longest:,} letters in {len(column):,} rows and {size:,} bytes; make it again."
            )
    return [words[place] for words, places in parts for place in places.tolist()]


def _checksum(head: str, columns: Mapping[str, Any]) -> str:
    """CRC-32 over what a reader gets: the notes, and name, type and content of each column."""
    total = zlib.crc32(head.encode())
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            kind, body = column.dtype.str, np.ascontiguousarray(column).tobytes()
        else:
            kind, body = "text", json.dumps(column).encode()
        total = zlib.crc32(body, zlib.crc32(f"{name} {kind}".encode(), total))
    return f"{total:08x}"


def write_examples(path: Path, ids: Ids, labels: Int[Tensor, " examples"], class_names: tuple[str, ...]) -> None:
    """Save ids and given labels of a run; where there are no classes, every label is -1."""
    write_table(path, "examples", ids, {"label": labels}, {"class_names": list(class_names)})


def read_examples(path: Path, rows: int | None = None) -> tuple[Ids, Int[Tensor, " examples"], tuple[str, ...]]:
    """Load ids, given labels and class names of a run; where there are no classes, every label is -1.

    Args:
        path: The file.
        rows: How many examples the run has, where that is known.

    Raises:
        RunError: The file is absent, damaged, or of other examples.
    """
    ids, columns, notes = read_table(path, "examples", {"label": "int64"}, rows)
    labels, names = torch.from_numpy(columns["label"]), notes.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{path} is damaged: its class names are no list of texts. Restore it from a copy or record again.")
    if bool(((labels < (0 if names else -1)) | (labels >= len(names))).any()):
        raise RunError(f"{path} is damaged: a label is none of its {len(names)} classes. Restore it from a copy or record again.")
    return ids, labels, tuple(names)
