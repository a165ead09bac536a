"""Parquet files keyed by id: the examples of a run, and columns beside them."""

import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import RunError
from ..core.ids import Ids
from ..core.lineage import SCHEMA
from .disk import replace
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


def read_table(path: Path, kind: str) -> tuple[Ids, dict[str, Any], dict[str, Any]]:
    """Ids, columns (numpy arrays, or lists of text) and notes of a table that `write_table` made.

    Raises:
        RunError: Absent, damaged, of another kind, or of a newer schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; make it first.") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise RunError(f"{path} is damaged or no Parquet file ({why}); make it again.") from error
    held = table.schema.metadata or {}
    head = held.get(b"assay", b"{}")
    try:
        notes = json.loads(head)
    except ValueError as error:
        raise RunError(f"{path} is damaged (its notes are not JSON); make it again.") from error
    if not isinstance(notes, dict) or notes.get("format") != f"assay-{kind}":
        raise RunError(f"{path} holds no {kind} of assay; name a file that assay made as such.")
    check_version(notes.get("schema_version"), path)
    columns: dict[str, Any] = {}
    try:
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                columns[name] = column.to_pylist()
            else:
                columns[name] = np.array(column.to_numpy())
        same = _checksum(head.decode(), columns).encode() == held.get(b"checksum")
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); make it again.") from error
    if not same:
        raise RunError(f"{path} is damaged (checksum); restore it from a copy or make it again.")
    return Ids(columns.pop("id")), columns, notes


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
    """Ids and given labels of a run."""
    write_table(path, "examples", ids, {"label": labels}, {"class_names": list(class_names)})


def read_examples(path: Path) -> tuple[Ids, Int[Tensor, " examples"], tuple[str, ...]]:
    """Ids, given labels and class names of a run.

    Raises:
        RunError: Absent or damaged.
    """
    ids, columns, notes = read_table(path, "examples")
    return ids, torch.from_numpy(columns["label"]).to(torch.int64), tuple(notes["class_names"])
