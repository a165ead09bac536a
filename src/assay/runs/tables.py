"""Parquet files keyed by id: the examples of a run, and columns beside them."""

import io
import json
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


def write_table(path: Path, kind: str, ids: Ids, columns: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Save columns in the order of `ids`, with notes as JSON in the file's metadata.

    Raises:
        NotWritten: The operating system refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {"id": ids.values.tolist() if not ids.numeric else ids.values, **columns}
    table = pa.table({name: value.numpy() if isinstance(value, Tensor) else value for name, value in arrays.items()})
    head = {"format": f"assay-{kind}", "schema_version": SCHEMA, **notes}
    table = table.replace_schema_metadata({"assay": json.dumps(head)})
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
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; make it first.") from error
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} is damaged or no Parquet file ({error}); make it again.") from error
    try:
        notes = json.loads((table.schema.metadata or {}).get(b"assay", b"{}"))
    except ValueError as error:
        raise RunError(f"{path} is damaged (its notes are not JSON); make it again.") from error
    if notes.get("format") != f"assay-{kind}":
        raise RunError(f"{path} holds no {kind} of assay (it says {notes.get('format', 'nothing')!r}).")
    if notes.get("schema_version", 0) > SCHEMA:
        raise RunError(f"{path} has schema {notes['schema_version']}, this assay reads up to {SCHEMA}; upgrade assay to open it.")
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            columns[name] = column.to_pylist()
        else:
            columns[name] = np.array(column.to_numpy())
    return Ids(columns.pop("id")), columns, notes


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
