"""Tables as files for other programs: CSV that spreadsheets can open safely, JSON Lines and Parquet; and the rows of such files again."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..core.arguments import checked_arguments
from ..core.errors import RunError, UsageError, listed, reading
from ..core.tabular import Tabular
from .disk import read_bytes, replace

RISKY = "=+-@\t\r\n'"
"""First letters of a text that a spreadsheet may run as a formula, and the one that says that it must not."""
MOST_FILE = 2**30
"""Bytes of the largest table that is read."""
CURE = "Name a table with a line of column names and one row for each example, as `assay export` writes it."


def guarded(text: str) -> str:
    """A text that no spreadsheet takes for a formula: with `'` before it where it begins like one, or with `'` itself."""
    return f"'{text}" if text[:1] and text[0] in RISKY else text


def unguarded(text: str) -> str:
    """The inverse of `guarded`."""
    return text[1:] if text[:1] == "'" and text[1:2] and text[1] in RISKY else text


def _plain(column: np.ndarray) -> list[Any]:
    """The cells as Python has them; None for those that are empty."""
    return column.tolist()


@checked_arguments
def write_csv(table: Tabular, path: str | Path) -> None:
    """Write a table as CSV, texts guarded against spreadsheets; numbers have as many digits as they need to be read back exactly."""
    columns = table.to_numpy()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(guarded, columns))
    cells = ([guarded(cell) if isinstance(cell, str) else cell for cell in _plain(column)] for column in columns.values())
    writer.writerows(zip(*cells, strict=True))
    replace(Path(path), text.getvalue().encode(errors="backslashreplace"))


@checked_arguments
def write_jsonl(table: Tabular, path: str | Path) -> None:
    """Write a table as JSON Lines."""
    columns = table.to_numpy()
    cells = (
        [None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in _plain(one)]
        for one in columns.values()
    )
    rows = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in zip(*cells, strict=True))
    replace(Path(path), "".join(f"{row}\n" for row in rows).encode(errors="backslashreplace"))


@checked_arguments
def write_parquet(table: Tabular, path: str | Path) -> None:
    """Write a table as Parquet."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table.to_arrow(), sink, compression="zstd")
    replace(Path(path), sink.getvalue())


WRITERS: dict[str, Callable[[Tabular, Path], None]] = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}
"""How a table is written, by the kind of file."""


def read_rows(path: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of a file of one of the kinds of `WRITERS`, by column name; cells of CSV are texts, and empty ones None.

    Raises:
        UsageError: The file cannot be read, or is no such table; names the line.
    """
    with reading(path, UsageError, CURE):
        try:
            body = read_bytes(path, MOST_FILE)
        except FileNotFoundError as error:
            raise UsageError(f"{path} does not exist; name the file to import.") from error
        except RunError as error:
            raise UsageError(str(error)) from error
        return _READERS[kind](path, body)


def _csv_rows(path: Path, body: bytes) -> list[dict[str, Any]]:
    # Spreadsheets begin their files with a mark of the byte order.
    lines = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
    names = [unguarded(name) for name in next(lines, [])]
    _check_names(path, names)
    rows = []
    for cells in lines:
        if not cells:
            continue
        if len(cells) != len(names):
            raise UsageError(f"{path}, line {lines.line_num}: {len(cells)} cells under {len(names)} column names. {CURE}")
        rows.append({name: unguarded(cell) if cell else None for name, cell in zip(names, cells, strict=True)})
    return rows


def _jsonl_rows(path: Path, body: bytes) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(body.decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number} is no object of column names and cells. {CURE}")
        rows.append(row)
    return rows


def _parquet_rows(path: Path, body: bytes) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(io.BytesIO(body), pre_buffer=False) as file:
        _check_names(path, file.schema_arrow.names)
        return file.read(use_threads=False).to_pylist()


def _check_names(path: Path, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{path} has several columns named {listed(twice, len(twice))}. {CURE}")


_READERS: dict[str, Callable[[Path, bytes], list[dict[str, Any]]]] = {
    "csv": _csv_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
}
