"""Tables of numbers and categories, from CSV or Parquet.

A column is numeric if every training cell that is not missing reads as a finite number, else it is categorical.

* Numeric columns are standardised by mean and population standard deviation of the training cells (divided by 1 if constant).
  A missing cell becomes 0, the training mean. If a training cell is missing, a column of 0 and 1 says where.
* Categorical columns become one column of 0 and 1 per category of the training part, in sorted order. Missing is a category of
  its own if it occurs in the training part. A test cell of a category that training lacks is 0 in all of them; how many such
  cells there are in which column is said in `Split.notes`.
* Dates (ISO 8601, `2024-01-31` or `2024-01-31 12:30`) are numbers, in days: of columns named in `dates=`, and of those with more different
  texts than categories may have, which is said in `Split.notes`. Without a time zone UTC is meant.
* Texts of columns named in `text=` are bags of words, hashed into `text_dims` columns by scikit-learn's HashingVectorizer (words of two letters
  or more in lower case, with signs, each row divided by its length). Nothing is fitted, and a missing text is a row of 0.
"""

import csv
import dataclasses
import datetime
import math
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from ..core.errors import UnknownName, UsageError, listed, reading
from ..core.ids import Ids
from . import labels as given
from .dataset import AbstractDataset
from .examples import Examples, Split
from .files import file_at
from .splitting import held_out

Row = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Cells:
    """A table as text.

    Attributes:
        source: The file, for messages.
        columns: Name of each column.
        rows: Cells of each row; None is missing.
        places: Line (CSV) or row (Parquet, from 0) of each row in the file.
        place: What `places` holds: `line` or `row`.
        numbers: Number of each row, from 0, among all that the file holds, also those that were skipped; None where none was.
        skipped: What was skipped and why, one by one.
    """

    source: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    places: Sequence[int]
    place: Literal["line", "row"]
    numbers: Sequence[int] | None = None
    skipped: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """How many rows the file holds, also those that were skipped."""
        return len(self.rows) + len(self.skipped)

    def column(self, index: int) -> list[str | None]:
        """The cells of one column."""
        return [row[index] for row in self.rows]

    def where(self, row: int) -> str:
        """A text that names the place of this row in the file."""
        return f"{self.source}, {self.place} {self.places[row]}"

    def take(self, positions: Sequence[int]) -> "Cells":
        """The rows at these positions."""
        numbers = None if self.numbers is None else [self.numbers[i] for i in positions]
        return dataclasses.replace(
            self, rows=[self.rows[i] for i in positions], places=[self.places[i] for i in positions], numbers=numbers
        )

    def without(self, faults: Mapping[int, str]) -> "Cells":
        """The rows that have no fault; `faults` says what is wrong with the others, by position."""
        if not faults:
            return self
        numbers = self.numbers or range(len(self.rows))
        kept = [i for i in range(len(self.rows)) if i not in faults]
        found = tuple(f"{self.place} {self.places[i]} ({why})" for i, why in faults.items())
        return dataclasses.replace(dataclasses.replace(self, numbers=numbers).take(kept), skipped=(*self.skipped, *found))


@dataclasses.dataclass(frozen=True)
class Table(AbstractDataset):
    """Ids are the `id` column, or row numbers from 0; those of a test file continue after the training file.

    Attributes:
        path: The CSV file, or the Parquet file (by its ending `.parquet` or `.pq`).
        label: Column of the given label: its name, or its position from 0 (negative from the end).
        test: The test file, or the fraction of every class that is set aside, drawn by id.
        id: Column of the ids, by name or position: whole numbers or texts.
        seed: Random seed of the draw of the test part.
        header: Whether the first row of a CSV names the columns; if not, their names are their positions.
        delimiter: What stands between the cells of a CSV: one character, or `tab`.
        skip: How many lines at the top of a CSV are skipped, in both files.
        comment: Lines of a CSV that begin with this text are skipped.
        missing: Texts that mean a missing cell, separated by `+`. An empty cell, a null and a NaN of Parquet always do.
        on_missing: `encode` them as described at the top of `data.table`, or `refuse` them in columns that are used.
        categorical: Columns of numbers to treat as categories (codes), names separated by `+`.
        drop: Columns that are neither inputs nor shown to anybody, on pages and in exports; names separated by `+`.
        show: Columns that are no inputs and are shown to people, such as a link or a note; names separated by `+`.
        most_categories: Largest number of categories; a column with more is refused, as it is likely an identifier or free text.
        dates: Columns of dates, names separated by `+`.
        text: Columns of texts to read as bags of words, names separated by `+`.
        text_dims: How many columns the words of one such column are hashed into.
        on_error: `refuse` a CSV with lines that have more or fewer cells than columns, and tables with rows that have no id; or `skip` those rows, and
            say how many and which.
        unlabelled: `refuse` rows without a label, or `skip` them, and say how many and which.
    """

    path: str
    label: int | str
    test: float | str = 0.2
    id: int | str | None = None
    seed: int = 0
    header: bool = True
    delimiter: str = ","
    skip: int = 0
    comment: str = ""
    missing: str = "?"
    on_missing: Literal["encode", "refuse"] = "encode"
    categorical: str = ""
    drop: str = ""
    show: str = ""
    most_categories: int = 200
    dates: str = ""
    text: str = ""
    text_dims: int = 256
    on_error: Literal["refuse", "skip"] = "refuse"
    unlabelled: Literal["refuse", "skip"] = "refuse"
    name: ClassVar[str] = "table"
    summary: ClassVar[str] = "a CSV or Parquet table: numbers standardised, categories one-hot, both fitted on train only"

    def __post_init__(self):
        if self.delimiter != "tab" and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise UsageError(f"delimiter={self.delimiter!r} is neither one character (no quote, no line end) nor 'tab'.")
        if self.skip < 0:
            raise UsageError(f"skip={self.skip} is below 0; it is how many lines are passed over.")
        if self.on_missing not in ("encode", "refuse"):
            raise UsageError(f"on_missing={self.on_missing!r} is neither 'encode' nor 'refuse'.")
        for key in ("on_error", "unlabelled"):
            if getattr(self, key) not in ("refuse", "skip"):
                raise UsageError(f"{key}={getattr(self, key)!r} is neither 'refuse' nor 'skip'.")
        if self.text_dims < 1:
            raise UsageError(
                f"text_dims={self.text_dims} is below 1; it is how many columns the words of a text are hashed into."
            )

    def load(self) -> Split:
        """Read one or two files and encode them."""
        train = self._read(self.path)
        test = self._read(self.test) if isinstance(self.test, str) else None
        made = split(
            train,
            test if test is not None else float(self.test),
            Columns(
                self.label,
                self.id,
                self.on_missing,
                _names(self.categorical),
                _names(self.drop),
                _names(self.show),
                self.most_categories,
                _names(self.dates),
                _names(self.text),
                self.text_dims,
                frozenset(what for what, how in (("id", self.on_error), ("label", self.unlabelled)) if how == "skip"),
            ),
            seed=self.seed,
        )
        assert isinstance(made.own, OwnRow)
        delimiter = "\t" if self.delimiter == "tab" else self.delimiter
        return dataclasses.replace(made, own=dataclasses.replace(made.own, missing=_names(self.missing), delimiter=delimiter))

    def _read(self, path: str) -> Cells:
        file = file_at(path)
        if file.suffix.lower() in (".parquet", ".pq"):
            idle = [key for key in ("header", "delimiter", "skip", "comment") if getattr(self, key) != _default(key)]
            if idle:
                raise UsageError(f"{file} is Parquet, to which {', '.join(idle)} cannot apply. Leave them out.")
            return read_parquet(file, _names(self.missing))
        delimiter = "\t" if self.delimiter == "tab" else self.delimiter
        return read_csv(
            file,
            header=self.header,
            delimiter=delimiter,
            skip=self.skip,
            comment=self.comment,
            missing=_names(self.missing),
            on_error=self.on_error,
        )


def _default(key: str) -> object:
    return {field.name: field.default for field in dataclasses.fields(Table)}[key]


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split("+") if part)


def read_csv(
    path: pathlib.Path,
    *,
    header: bool | tuple[str, ...] = True,
    delimiter: str = ",",
    skip: int = 0,
    comment: str = "",
    missing: Sequence[str] = ("?",),
    on_error: Literal["refuse", "skip"] = "refuse",
    cure: str = "",
) -> Cells:
    """A CSV file (UTF-8, quotes doubled inside quotes) as text cells without surrounding spaces; blank lines are skipped.

    Args:
        path: The file.
        header: Whether the first row names the columns; or their names, for a file without such a row.
        delimiter: What stands between cells.
        skip: Lines skipped at the top.
        comment: Rows that begin with this are skipped; empty for none.
        missing: Texts that mean a missing cell.
        on_error: Whether rows that differ in length from the others are refused or skipped.
        cure: What helps where the file is damaged, a sentence; empty for what helps with a table of one's own.

    Raises:
        UsageError: The file is unreadable or has no rows, a row differs in length from the others, or two columns have one name; names the line.
    """
    names = header if isinstance(header, tuple) else None
    rows: list[Row] = []
    places: list[int] = []
    faults: dict[int, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for _ in range(skip):
                file.readline()
            # strict: a stray quote is an error, not a cell that swallows the following lines.
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for parsed in reader:
                cells = [cell.strip() for cell in parsed]
                if cells in ([], [""]) or (comment and parsed[0].startswith(comment)):
                    continue
                line = skip + reader.line_num
                if names is None:
                    names = tuple(cells) if header else tuple(str(position) for position in range(len(cells)))
                    if header:
                        continue
                if len(cells) != len(names):
                    if on_error == "skip":
                        faults[len(rows)] = f"{len(cells)} cells where there are {len(names)} columns"
                        rows.append(())
                        places.append(line)
                        continue
                    raise UsageError(
                        f"{path}, line {line}: {len(cells)} cells where there are {len(names)} columns. "
                        f"{cure or 'Mend the line, or skip such lines by on_error=skip.'}"
                    )
                rows.append(tuple(None if cell == "" or cell in missing else cell for cell in cells))
                places.append(line)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        cures = {
            UnicodeDecodeError: "Save it as UTF-8.",
            csv.Error: "Put cells with quotes or line ends in quotes, and leave out overlong texts.",
        }
        cure = cure or next((cure for kind, cure in cures.items() if isinstance(error, kind)), "Make it readable.")
        raise UsageError(f"{path} cannot be read as CSV ({error}, near line {places[-1] if places else 1}). {cure}") from error
    if cure and not rows:
        raise UsageError(f"{path} holds no rows. {cure}")
    return _table(str(path), names or (), rows, places, "line", faults)


def read_parquet(path: pathlib.Path, missing: Sequence[str] = ("?",)) -> Cells:
    """A Parquet file as text cells; numbers keep all their digits.

    Raises:
        UsageError: The file is unreadable, or has no rows, or a column of lists, structures or bytes.
    """
    import pyarrow
    from pyarrow import parquet

    size = path.stat().st_size
    with reading(path, UsageError, "Write it again as a plain table."):
        try:
            with parquet.ParquetFile(path) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
                for field in schema:
                    kinds = pyarrow.types
                    if any(
                        check(field.type)
                        for check in (kinds.is_nested, kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view)
                    ):
                        raise UsageError(
                            f"{path}: column {field.name!r} holds {field.type}; a table holds numbers and texts. Leave it out."
                        )
                if rows * len(schema) > max(MOST_CELLS, CELLS_PER_BYTE * size):
                    raise UsageError(
                        f"{path} claims {rows:,} rows of {len(schema)} columns in {size:,} bytes; a table of so many cells has more "
                        "bytes. Write it again as a plain table."
                    )
            texts = [
                field.name for field in schema if pyarrow.types.is_string(field.type) or pyarrow.types.is_large_string(field.type)
            ]
            columns = []
            # As dictionaries, in which a long text that stands in every row is one text.
            with parquet.ParquetFile(path, read_dictionary=texts) as file:
                for place in range(len(schema)):
                    columns.append(_cells(file.read([schema.names[place]]).column(0), missing))
        except (OSError, pyarrow.ArrowException) as error:
            raise UsageError(f"{path} cannot be read as Parquet ({error}).") from error
        return _table(str(path), tuple(schema.names), list(zip(*columns, strict=True)), range(rows), "row")


MOST_CELLS, CELLS_PER_BYTE = 4_000_000, 20
"""Cells that any Parquet file may hold, and beyond that by byte of the file: equal cells cost nothing in the file and much in memory."""


def _cells(column: Any, missing: Sequence[str]) -> list[str | None]:
    import pyarrow

    if not pyarrow.types.is_dictionary(column.type):
        return [_cell(value, missing) for value in column.to_pylist()]
    cells: list[str | None] = []
    for chunk in column.chunks:
        words = [_cell(value, missing) for value in chunk.dictionary.to_pylist()]
        cells += [None if place is None else words[place] for place in chunk.indices.to_pylist()]
    return cells


def _cell(value: object, missing: Sequence[str]) -> str | None:
    if value is None or value != value:
        return None
    text = str(value).strip()
    return None if text == "" or text in missing else text


def _table(
    source: str,
    names: tuple[str, ...],
    rows: Sequence[Row],
    places: Sequence[int],
    place: Literal["line", "row"],
    faults: Mapping[int, str] | None = None,
) -> Cells:
    if len(rows) == len(faults or {}):
        raise UsageError(f"{source} holds no rows.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"{source}: the column names {', '.join(map(repr, twice))} occur more than once. Name each column differently."
        )
    return Cells(source, names, rows, places, place).without(faults or {})


@dataclasses.dataclass(frozen=True)
class NumericColumn:
    """(x - mean) / std, and where `flagged` a second column that is 1 where x is missing; of `dates` x is in days."""

    index: int
    mean: float
    std: float
    flagged: bool
    dates: bool = False

    def apply(self, cells: Cells) -> np.ndarray:
        """float64 (rows, 1 or 2).

        Raises:
            UsageError: A cell is no finite number; names its place.
        """
        column = cells.column(self.index)
        values = np.zeros((len(column), 1 + self.flagged))
        for row, cell in enumerate(column):
            if cell is None:
                values[row, 1:] = 1
                continue
            number = _days(cell) if self.dates else _number(cell)
            if number is None and self.dates:
                raise UsageError(
                    f"{cells.where(row)}: {cell!r} in column {cells.columns[self.index]!r} is no date such as 2024-01-31, as the column's cells in training "
                    "are. Mend the cell, or name its text in missing=."
                )
            if number is None or not math.isfinite(number):
                raise UsageError(
                    f"{cells.where(row)}: {cell!r} in column {cells.columns[self.index]!r} is no finite number, as the column's cells in training are. "
                    "Mend the cell, name its text in missing=, or the column in categorical=."
                )
            values[row, 0] = (number - self.mean) / self.std
        return values


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
    """1 in the column of its category, 0 elsewhere. None stands for missing."""

    index: int
    categories: tuple[str | None, ...]

    def apply(self, cells: Cells) -> np.ndarray:
        """float64 (rows, categories)."""
        from sklearn.preprocessing import OneHotEncoder

        known = [np.array(self.categories, dtype=object)]
        encoder = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
        return encoder.fit_transform(np.array(cells.column(self.index), dtype=object)[:, None])

    def unknown(self, cells: Cells) -> int:
        """How many cells are of no known category."""
        return sum(cell not in self.categories for cell in cells.column(self.index))


@dataclasses.dataclass(frozen=True)
class TextColumn:
    """How often each word occurs, hashed into `dims` columns, each row divided by its length; 0 where the text is missing."""

    index: int
    dims: int

    def apply(self, cells: Cells) -> np.ndarray:
        """float64 (rows, dims)."""
        from sklearn.feature_extraction.text import HashingVectorizer

        words = HashingVectorizer(n_features=self.dims)
        return words.transform([cell or "" for cell in cells.column(self.index)]).toarray()


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Columns as they were fitted on a training part."""

    columns: tuple[NumericColumn | CategoricalColumn | TextColumn, ...]

    def apply(self, cells: Cells) -> Float32[Tensor, "examples dims"]:
        """The inputs of these rows."""
        return torch.from_numpy(np.concatenate([column.apply(cells) for column in self.columns], 1).astype(np.float32))

    def notes(self, cells: Cells) -> tuple[str, ...]:
        """A sentence for each column in which `cells` has categories that the training part lacks, or missing cells where it has none."""
        said = []
        for column in self.columns:
            name = cells.columns[column.index]
            if isinstance(column, TextColumn):
                continue
            if isinstance(column, CategoricalColumn):
                n, what = column.unknown(cells), "hold a category that training lacks, and are 0 in all its columns"
            else:
                n = 0 if column.flagged else sum(cell is None for cell in cells.column(column.index))
                what = "are missing where no training cell is, and stand at the training mean"
            if n:
                said.append(f"{cells.source}, column {name!r}: {n} of {len(cells.rows)} cells {what}.")
        return tuple(said)


@dataclasses.dataclass(frozen=True)
class OwnRow:
    """Reads a row of a user's own as the rows of the training part were read.

    Attributes:
        encoder: Columns as they were fitted.
        columns: Name of each column of the table.
        inputs: Positions of those that are inputs.
        shown: Positions of those that people are shown.
        target: Position of the label.
        class_names: The classes.
        missing: Texts that mean a missing cell.
        delimiter: What stands between cells.
    """

    encoder: Encoder
    columns: tuple[str, ...]
    inputs: tuple[int, ...]
    shown: tuple[int, ...]
    target: int
    class_names: tuple[str, ...]
    missing: tuple[str, ...] = ("?",)
    delimiter: str = ","

    def read(self, path: str) -> tuple[Tensor, int | None, tuple[str, ...]]:
        """The one row of a CSV file with a header, whose columns may stand in any order; those that are no input may be left out.

        Returns:
            The encoded row, (1, dims); its class if the file has the label's column; and its cells as people are shown them.

        Raises:
            UsageError: Not one row, a column that is lacking or unknown, or a cell that cannot be used.
        """
        cells = read_csv(file_at(path), delimiter=self.delimiter, missing=self.missing)
        if len(cells.rows) != 1:
            raise UsageError(f"{path} holds {len(cells.rows)} rows; give one, below a header that names its columns.")
        if absent := [self.columns[i] for i in self.inputs if self.columns[i] not in cells.columns]:
            raise UsageError(f"{path} lacks the columns {listed(absent, len(absent))}; its header must name all inputs.")
        if alien := [name for name in cells.columns if name not in self.columns]:
            raise UsageError(f"{path}: the table trained on has no columns {listed(alien, len(alien))}; leave them out.")
        (row,) = cells.rows
        whole = tuple(row[cells.columns.index(name)] if name in cells.columns else None for name in self.columns)
        cells = dataclasses.replace(cells, columns=self.columns, rows=[whole])
        known = whole[self.target] is not None
        label = int(_encoded(cells, _labels(cells, self.target), self.target, self.class_names)[0]) if known else None
        return self.encoder.apply(cells), label, _shown(cells, self.shown)[0]


def fit(
    cells: Cells,
    inputs: Sequence[int],
    categorical: Sequence[int] = (),
    most_categories: int = 200,
    *,
    dates: Sequence[int] = (),
    texts: Mapping[int, int] | None = None,
) -> Encoder:
    """Means, deviations and categories of the columns `inputs` of a training part.

    Args:
        cells: The training part.
        inputs: Positions of the columns.
        categorical: Those of them whose numbers are codes.
        most_categories: Largest number of categories of a column.
        dates: Those of them that hold dates.
        texts: Those of them that hold texts, with the number of columns to hash their words into.

    Raises:
        UsageError: A column has only missing cells, numbers that are not finite, or too many categories.
    """
    return Encoder(
        tuple(
            TextColumn(index, texts[index])
            if texts and index in texts
            else _fitted(cells, index, "date" if index in dates else "category" if index in categorical else "", most_categories)
            for index in inputs
        )
    )


def _mixed(cells: Cells, encoder: Encoder, categorical: Sequence[int]) -> tuple[str, ...]:
    """A sentence for each column that is mostly numbers and counts as categories because of a few cells."""
    said = []
    for column in encoder.columns:
        if not isinstance(column, CategoricalColumn) or column.index in categorical:
            continue
        present = [row for row, cell in enumerate(cells.column(column.index)) if cell is not None]
        texts = [row for row in present if _number(str(cells.rows[row][column.index])) is None]
        if texts and 2 * len(texts) < len(present):
            said.append(
                f"{cells.source}, column {cells.columns[column.index]!r}: {len(present) - len(texts)} of {len(present)} cells are numbers, and all "
                f"count as categories, because {cells.rows[texts[0]][column.index]!r} ({cells.place} {cells.places[texts[0]]}) is none; mend it or "
                "name such texts in missing=, or name the column in categorical= if its numbers are codes."
            )
    return tuple(said)


def _told(cells: Cells, encoder: Encoder, dates: Sequence[int]) -> tuple[str, ...]:
    """A sentence for each column that was found to hold dates, and for each whose numbers look like the rows' ids."""
    said = []
    for column in encoder.columns:
        name = cells.columns[column.index]
        if not isinstance(column, NumericColumn):
            continue
        if column.dates and column.index not in dates:
            said.append(
                f"{cells.source}, column {name!r}: its cells are dates, and count in days; name it in drop= if time must not matter."
            )
        present = [cell for cell in cells.column(column.index) if cell is not None]
        named = name.lower() in ID_NAMES or name.lower().endswith("_id")
        if named and len(present) > 2 and len(set(present)) == len(present) and all(_whole(cell) for cell in present):
            said.append(
                f"{cells.source}, column {name!r}: its whole numbers are all different, as those of ids are, and count as an input; name it in id= if they "
                "are the rows' ids, or in drop=."
            )
    return tuple(said)


ID_NAMES = ("id", "index", "unnamed: 0", "row", "key", "uuid")
"""Names that columns of ids have."""


def _whole(cell: str) -> bool:
    return cell.isascii() and cell.removeprefix("-").isdigit()


def _days(cell: str) -> float | None:
    """A date in days since 1970, in UTC unless it names another zone; None if it is no date of ISO 8601."""
    try:
        moment = datetime.datetime.fromisoformat(cell)
    except ValueError:
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) / datetime.timedelta(days=1)


def _fitted(cells: Cells, index: int, kind: Literal["", "category", "date"], most: int) -> NumericColumn | CategoricalColumn:
    column, where = cells.column(index), f"{cells.source}, column {cells.columns[index]!r}"
    present = [cell for cell in column if cell is not None]
    if not present:
        raise UsageError(f"{where}: every training cell is missing. Name the column in drop=.")
    different = len(set(present))
    numbers = [None] if kind == "date" else [_number(cell) for cell in present]
    dates = kind == "date"
    if kind != "category" and None in numbers and (dates or different > most):
        numbers = [_days(cell) for cell in present]
        if dates and None in numbers:
            row = next(row for row, cell in enumerate(column) if cell is not None and _days(cell) is None)
            raise UsageError(
                f"{where}: {column[row]!r} ({cells.place} {cells.places[row]}) is no date such as 2024-01-31 or 2024-01-31 12:30, as columns in dates= hold. "
                "Write dates in that form, name such texts in missing=, or name the column in drop=."
            )
        dates = None not in numbers
    if kind != "category" and None not in numbers:
        values = np.array(numbers, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = float(values.mean()), float(values.std())
        if not math.isfinite(std):
            raise UsageError(f"{where}: its numbers are infinite, NaN or too large to standardise. Name such texts in missing=.")
        constant = bool((values == values[0]).all())
        # The mean of equal numbers may be off by rounding.
        mean, std = (float(values[0]), 1.0) if constant else (mean, std)
        return NumericColumn(index, mean, std, len(present) < len(column), dates)
    categories: list[str | None] = [*sorted(set(present))]
    if len(categories) > most:
        text = next((row for row, cell in enumerate(column) if cell is not None and _number(cell) is None), None)
        hint = "" if text is None else f" (not a number: {column[text]!r}, {cells.place} {cells.places[text]})"
        cure = "name the column in text= to read its words, or in drop="
        if different == len(present):
            cure = f"no two are equal, so if they name the rows give id={cells.columns[index]}; else {cure}"
        raise UsageError(
            f"{where}: {len(categories)} different texts{hint} are too many categories. Name such texts in missing= if "
            f"the column is numeric; {cure}, or raise most_categories={most}."
        )
    return CategoricalColumn(index, tuple(categories + [None] * (len(present) < len(column))))


def _number(cell: str) -> float | None:
    try:
        # Python reads 1_000 as a number; in a table it is a code.
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns of a table are. `Table` says what each field means."""

    label: int | str
    id: int | str | None = None
    on_missing: Literal["encode", "refuse"] = "encode"
    categorical: Sequence[str] = ()
    drop: Sequence[str] = ()
    show: Sequence[str] = ()
    most_categories: int = 200
    dates: Sequence[str] = ()
    text: Sequence[str] = ()
    text_dims: int = 256
    skip: frozenset[str] = frozenset()
    """Of which cells (`id`, `label`) rows are skipped that lack them, instead of refused."""


def split(train: Cells, test: Cells | float, has: Columns, *, seed: int = 0) -> Split:
    """Two tables, or one and the fraction to set aside, as encoded examples.

    `Examples.rows` holds the cells as they were read, missing ones empty, without label and id, so that the original label does not
    stand beside one that was planted wrong; and without dropped columns, which may hold what nobody is to see.

    Raises:
        UsageError: Columns that do not fit, labels or cells that cannot be used; names file, line and column.
    """
    target, key = _position(train, has.label), None if has.id is None else _position(train, has.id)
    if target == key:
        raise UsageError(f"{train.source}: column {train.columns[target]!r} cannot be both label and id.")
    dropped, beside = ({_position(train, name) for name in names} for names in (has.drop, has.show))
    codes, days, texts = ({_position(train, name) for name in names} for names in (has.categorical, has.dates, has.text))
    inputs = [i for i in range(len(train.columns)) if i not in dropped | beside | {target, key}]
    if not inputs:
        raise UsageError(f"{train.source}: no column is left as an input. Name fewer in drop= and show=.")
    if odd := sorted(train.columns[i] for i in beside & (dropped | {target, key})):
        raise UsageError(
            f"{train.source}: {listed(odd, len(odd))} in show= stand also in drop=, or are label or id; name each once."
        )
    for option, named in (("categorical", codes), ("dates", days), ("text", texts)):
        if not named <= set(inputs):
            odd = sorted(train.columns[i] for i in named - set(inputs))
            raise UsageError(
                f"{train.source}: {listed(odd, len(odd))} in {option}= are no inputs, but dropped, shown, label or id."
            )
    if twice := (codes & days) | (codes & texts) | (days & texts):
        odd = sorted(train.columns[i] for i in twice)
        raise UsageError(
            f"{train.source}: {listed(odd, len(odd))} stand in more than one of categorical=, dates= and text=; name each in one."
        )
    if isinstance(test, Cells) and test.columns != train.columns:
        raise UsageError(
            f"{test.source} has the columns {listed(test.columns, len(test.columns), 20)}; "
            f"{train.source} has {listed(train.columns, len(train.columns), 20)}. Both need the same in the same order."
        )
    train = _complete(train, target, key, has.skip)
    test = _complete(test, target, key, has.skip) if isinstance(test, Cells) else test
    if has.on_missing == "refuse":
        for cells in (train, test) if isinstance(test, Cells) else (train,):
            _refuse_missing(cells, inputs)

    values = _labels(train, target)
    names = given.class_names(f"{train.source}, column {train.columns[target]!r}", values)
    classes, ids = _encoded(train, values, target, names), _ids(train, key, 0)
    skipped = [_skipped(cells) for cells in (train, test) if isinstance(cells, Cells) and cells.skipped]
    drawn = not isinstance(test, Cells)
    if isinstance(test, Cells):
        test_classes = _encoded(test, _labels(test, target), target, names)
        test_ids = _ids(test, key, train.total)
    else:
        aside = held_out(ids, classes, test, seed)
        full, full_ids, full_classes = train, ids, classes
        train, ids, classes = full.take((~aside).nonzero().flatten().tolist()), full_ids.take(~aside), full_classes[~aside]
        test, test_ids, test_classes = full.take(aside.nonzero().flatten().tolist()), full_ids.take(aside), full_classes[aside]

    encoder = fit(train, inputs, tuple(codes), has.most_categories, dates=tuple(days), texts=dict.fromkeys(texts, has.text_dims))
    shown = tuple(sorted({*inputs, *beside}))
    columns = tuple(train.columns[i] for i in shown)
    parts = [
        Examples(which, encoder.apply(cells), numbers, names, rows=_shown(cells, shown), columns=columns)
        for cells, which, numbers in ((train, ids, classes), (test, test_ids, test_classes))
    ]
    own = OwnRow(encoder, train.columns, tuple(inputs), shown, target, names)
    for sentence in skipped:
        warnings.warn(sentence, stacklevel=2)
    notes = (*skipped, *_mixed(train, encoder, tuple(codes)), *_told(train, encoder, tuple(days)), *encoder.notes(test))
    return Split(parts[0], parts[1], notes=notes, own=own, drawn=drawn)


def _complete(cells: Cells, target: int, key: int | None, skip: frozenset[str]) -> Cells:
    """The rows without those that lack a label or an id and are to be skipped."""
    faults: dict[int, str] = {}
    for place, what in ((target, "label"), (key, "id")):
        if place is not None and what in skip:
            faults |= {row: f"no {what}" for row, cell in enumerate(cells.column(place)) if cell is None and row not in faults}
    if len(faults) == len(cells.rows):
        raise UsageError(
            f"{cells.source}: none of its {len(cells.rows)} rows has what is needed; the first has {next(iter(faults.values()))}. Mend the file."
        )
    return cells.without(dict(sorted(faults.items())))


def _skipped(cells: Cells) -> str:
    return f"{cells.source}: {len(cells.skipped):,} of {cells.total:,} rows were skipped: {listed(cells.skipped, len(cells.skipped))}."


def _position(cells: Cells, column: int | str) -> int:
    if isinstance(column, str):
        if column not in cells.columns:
            raise UnknownName(f"column of {cells.source}", column, cells.columns)
        return cells.columns.index(column)
    count = len(cells.columns)
    if not -count <= column < count:
        raise UsageError(f"{cells.source} has no column {column}: positions run from 0 to {count - 1}, or by name.")
    return column % count


def _refuse_missing(cells: Cells, inputs: Sequence[int]) -> None:
    for row, values in enumerate(cells.rows):
        for index in inputs:
            if values[index] is None:
                raise UsageError(
                    f"{cells.where(row)}: the cell in column {cells.columns[index]!r} is missing. "
                    "Fill it, or give on_missing=encode."
                )


def _labels(cells: Cells, target: int) -> np.ndarray:
    origin = _origin(cells, target)
    texts = given.checked(cells.column(target), origin)
    numbers = [_number(text) for text in texts.tolist()]
    if all(number is not None and math.isfinite(number) for number in numbers) and any(number % 1 for number in numbers):  # type: ignore[operator]
        # As numbers they are refused in the words of all readers; whole ones keep the names that the file has.
        given.checked(np.array(numbers, np.float64), origin)
    return texts


def _encoded(cells: Cells, values: np.ndarray, target: int, names: tuple[str, ...]) -> Int[Tensor, " examples"]:
    return given.encode(values, names, _origin(cells, target))


def _origin(cells: Cells, column: int) -> given.Origin:
    cure = "Label these rows, or skip them by unlabelled=skip."
    return given.Origin(f"{cells.source}, column {cells.columns[column]!r}", cells.places, cells.place, cure)


def _ids(cells: Cells, key: int | None, start: int) -> Ids:
    if key is None:
        return Ids([start + number for number in cells.numbers or range(len(cells.rows))])
    column, where = cells.column(key), f"{cells.source}, column {cells.columns[key]!r}"
    absent = [cells.places[row] for row, cell in enumerate(column) if cell is None]
    if absent:
        raise UsageError(
            f"{where}: {len(absent)} ids are missing; {cells.place} {listed(absent, len(absent))}. Give every row an id, or skip these by on_error=skip."
        )
    texts = [cell for cell in column if cell is not None]
    # 007 and 7 are two ids: only texts that read back the same are taken as numbers.
    numeric = all(text.isascii() and text.removeprefix("-").isdigit() and str(int(text)) == text for text in texts)
    try:
        return Ids([int(text) for text in texts] if numeric and all(abs(int(text)) < 2**63 for text in texts) else texts)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _shown(cells: Cells, shown: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row[i] or "" for i in shown) for row in cells.rows)
