"""Results as tables: columns for NumPy, Arrow, pandas and polars, files, and what a notebook shows."""

import abc
import html
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arguments import checked_arguments
from .errors import UsageError
from .words import printable

FIRST = 10
"""Rows that a notebook shows."""
WIDEST = 200
"""Letters of a cell that a notebook shows."""


class Tabular(abc.ABC):
    """A result that can be seen as a table with a row for each of its examples.

    Libraries that read Arrow's streams take it as it is: `pyarrow.table(scores)`, `polars.DataFrame(scores)`, `pandas.DataFrame.from_arrow(scores)`.
    """

    @abc.abstractmethod
    def to_numpy(self) -> dict[str, np.ndarray]:
        """The columns by name, all of the same length: numbers as they are, texts as objects, and a mask over cells that are empty."""

    def shown_first(self) -> Sequence[int] | np.ndarray:
        """Positions of the rows that a reader wants to see first."""
        return range(len(next(iter(self.to_numpy().values()))))

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`; cells that are empty are null."""
        import pyarrow as pa

        return pa.table({name: pa.array(_nothing_lost(column)) for name, column in self.to_numpy().items()})

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> Any:
        """A frame of pandas.

        Returns:
            A `pandas.DataFrame` with the ids as its index, named `id`, so that it joins frames whose index is the id.

        Raises:
            UsageError: pandas is not installed.
        """
        pandas = _library("pandas")
        columns = {
            name: pandas.arrays.IntegerArray(column.data, np.ma.getmaskarray(column).copy())
            if isinstance(column, np.ma.MaskedArray) and column.dtype.kind == "i"
            else _nothing_lost(np.ma.filled(column, np.nan) if isinstance(column, np.ma.MaskedArray) else column)
            for name, column in self.to_numpy().items()
        }
        frame = pandas.DataFrame(columns)
        return frame.set_index("id") if "id" in columns else frame

    def to_polars(self) -> Any:
        """A frame of polars.

        Returns:
            A `polars.DataFrame`; the ids are the column `id`.

        Raises:
            UsageError: polars is not installed.
        """
        return _library("polars").from_arrow(self.to_arrow())

    def to_csv(self, path: Any) -> None:
        """Write a CSV file in UTF-8 that a spreadsheet can open without running what a cell says.

        Texts that begin with `=`, `+`, `-`, `@`, a tab, a line end or `'` get a `'` before them, which `assay import` takes off again. A
        file that is there is replaced.

        Args:
            path: The file.

        Raises:
            NotWritten: The operating system refuses.
        """
        from ..runs.table_files import write_csv

        write_csv(self, path)

    def to_jsonl(self, path: Any) -> None:
        """Write a file of JSON Lines: an object for each row; cells that are empty, and numbers that are NaN, are null.

        Args:
            path: The file. One that is there is replaced.

        Raises:
            NotWritten: The operating system refuses.
        """
        from ..runs.table_files import write_jsonl

        write_jsonl(self, path)

    def to_parquet(self, path: Any) -> None:
        """Write a Parquet file of the columns alone; `assay.save_scores` and `assay.save_decision` keep everything.

        Args:
            path: The file. One that is there is replaced.

        Raises:
            NotWritten: The operating system refuses.
        """
        from ..runs.table_files import write_parquet

        write_parquet(self, path)

    def _repr_html_(self) -> str:
        columns, order = self.to_numpy(), self.shown_first()
        rows = len(next(iter(columns.values())))
        body = "".join(
            f"<tr>{''.join(f'<td>{_cell(column[at])}</td>' for column in columns.values())}</tr>" for at in list(order[:FIRST])
        )
        head = "".join(f"<th>{_escaped(name)}</th>" for name in columns)
        rest = f"<p>The first {FIRST} of {rows:,} rows.</p>" if rows > FIRST else ""
        return f"<p>{_escaped(repr(self))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


class Table(Tabular):
    """Columns by name that several results were joined into.

    Attributes:
        title: What the table is, in words.
        notes: What a reader must know of its columns, a sentence each.
    """

    @checked_arguments
    def __init__(self, title: str, columns: Mapping[str, np.ndarray], notes: Sequence[str] = ()):
        self.title, self._columns, self.notes = title, dict(columns), tuple(notes)

    def to_numpy(self) -> dict[str, np.ndarray]:
        return dict(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __repr__(self) -> str:
        return f"Table({self.title}: {len(self):,} rows; {', '.join(self._columns)})"


def texts(values: Sequence[str]) -> np.ndarray:
    """Texts as a column: an array of objects, because one of NumPy's texts takes as much room for each as for the longest."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def whole_or_none(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Whole numbers as a column that is empty where `there` is false."""
    return np.ma.MaskedArray(values.astype(np.int64), ~there)


def _nothing_lost(column: np.ndarray) -> Any:
    return column.astype(object) if column.dtype.kind == "U" else column


def _cell(value: object) -> str:
    if value is np.ma.masked:
        return ""
    text = f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
    return _escaped(text if len(text) <= WIDEST else f"{text[:WIDEST]}...")


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{name} is not installed, and to_{name} makes one of its frames; pip install {name}, or take to_numpy or to_arrow."
        ) from error
