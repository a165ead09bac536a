"""Texts and tables of the user's own: what a person reads of each example, and their numbers where all cells are numbers."""

import dataclasses
import datetime
import decimal
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..core.arguments import described
from ..core.errors import UsageError, listed
from ..core.ids import Ids

TEXT = "text"
"""Name of the only column of texts."""
FRAMES = ("pandas", "polars")
"""Packages whose DataFrame and Series are known."""
PLAIN = (str, numbers.Number, np.number, np.bool_, np.datetime64, datetime.date, datetime.time, datetime.timedelta)
"""Kinds of values that a cell may hold."""


@dataclasses.dataclass(frozen=True, eq=False)
class Readable:
    """What is read of some examples.

    Attributes:
        rows: The cells of each example as text, missing ones empty.
        columns: Names of the cells.
        numbers: The same cells as numbers (examples, columns); None where a cell is a text, a date, missing or not finite in float32.
    """

    rows: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]
    numbers: np.ndarray | None


def is_frame(values: object) -> bool:
    """Whether this is a DataFrame of pandas or polars."""
    return _of_frames(values, "DataFrame")


def is_texts(values: object) -> bool:
    """Whether this is a list, an array of one axis or a Series with a text in it."""
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.kind in "UTO" and _has_text(values)
    if _of_frames(values, "Series"):
        return _has_text(listed_values(values))
    return isinstance(values, Sequence) and _has_text(values)


def is_plain(value: object) -> bool:
    """Whether a value is one that a cell may hold: a text, a number, a truth value, a date or a time, or nothing."""
    single = isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0
    return value is None or isinstance(value, PLAIN) or single or _missing(value) or _of_pandas(value)


def texts_read(values: Any, ids: Ids, source: str) -> Readable:
    """Texts as rows of one column.

    Raises:
        UsageError: A text is missing or no text; names its id.
    """
    texts = listed_values(values)
    if absent := [at for at, one in enumerate(texts) if _missing(one)]:
        raise UsageError(
            f"{source}: {len(absent)} texts are missing or NaN; id {listed(ids.values[absent], len(absent))}. "
            "Give these examples a text or leave them out."
        )
    for at, one in enumerate(texts):
        if not isinstance(one, str):
            raise UsageError(f"{source}: the text of id {ids.values[at]} is {described(one)}; give each example a text.")
    return Readable(tuple((str(one),) for one in texts), (TEXT,), None)


def frame_read(frame: Any, ids: Ids, source: str) -> Readable:
    """The cells of a DataFrame.

    Raises:
        UsageError: It has no columns or two of one name, or a cell holds something that is no plain value; names it.
    """
    names = [" ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
    # By position, because two columns of pandas may have one name, which is said below.
    parts = [frame.iloc[:, at] if hasattr(frame, "iloc") else frame[:, at] for at in range(len(names))]
    return _read([listed_values(part) for part in parts], names, ids, source)


def table_read(array: np.ndarray, columns: Sequence[str], ids: Ids, source: str) -> Readable:
    """The cells of an array (examples, columns) under these names.

    Raises:
        UsageError: The array has other axes, names do not fit it, or a cell holds something that is no plain value; names it.
    """
    if array.ndim != 2:
        raise UsageError(
            f"{source}: columns= names the cells of rows (examples, columns), and inputs are of shape {array.shape}; leave it out."
        )
    names = [str(name) for name in columns]
    if len(names) != array.shape[1]:
        raise UsageError(f"{source}: {len(names)} names in columns= for {array.shape[1]} columns; give one name for each.")
    return _read([list(array[:, at]) for at in range(len(names))], names, ids, source)


def listed_values(values: Any) -> list[Any]:
    """The values of a list, an array or a Series, one by one."""
    if not _of_frames(values, "Series"):
        return list(values)
    # Of short floats, as those of their own type, which say how many digits mean something.
    if str(values.dtype) in ("float16", "float32", "Float32"):
        return list(values.to_numpy(dtype=np.float32) if hasattr(values, "iloc") else values.to_numpy())
    return values.to_list()


def _read(parts: list[list[Any]], names: list[str], ids: Ids, source: str) -> Readable:
    if not names:
        raise UsageError(f"{source}: the table has no columns; give at least one.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"{source}: {len(twice)} column names occur more than once: {listed(twice, len(twice))}; give each column a name of its own."
        )
    parts = [[one.item() if isinstance(one, (Tensor, np.ndarray)) and one.ndim == 0 else one for one in part] for part in parts]
    cells = [
        [_cell(value, id_, name, source) for value, id_ in zip(part, ids, strict=True)]
        for part, name in zip(parts, names, strict=True)
    ]
    return Readable(tuple(zip(*cells, strict=True)), tuple(names), _numbers(parts))


def _cell(value: Any, id_: int | str, name: str, source: str) -> str:
    """A cell as people write it: numbers without the digits that only their type has, whole ones without a point."""
    if _missing(value):
        return ""
    if not is_plain(value):
        raise UsageError(
            f"{source}: the cell of id {id_} in column {name!r} is {described(value)}; give texts, numbers, truth values or dates, or "
            "leave the column out."
        )
    if isinstance(value, (float, np.floating)):
        number, digits = float(value), 12 if isinstance(value, float) else 7
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.{digits}g}"
    # Midnight is how a date without a time is kept.
    return str(value).removesuffix(" 00:00:00") if isinstance(value, datetime.datetime) else str(value)


def _numbers(parts: list[list[Any]]) -> np.ndarray | None:
    kinds = (numbers.Real, np.bool_)
    if not all(isinstance(value, kinds) and not _missing(value) for part in parts for value in part):
        return None
    array = np.array([[float(value) for value in part] for part in parts]).T
    return array if bool((np.abs(array) <= np.finfo(np.float32).max).all()) else None


def _missing(value: Any) -> bool:
    """Whether this is None, NaN, or what pandas has for it, which is equal to nothing."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, np.datetime64, np.timedelta64, decimal.Decimal)) and bool(value != value)


def _has_text(values: Any) -> bool:
    return any(isinstance(one, str) for one in values)


def _of_frames(values: object, name: str) -> bool:
    """Whether this is of that class of pandas or polars, also through a class of the user's own."""
    return any(cls.__name__ == name and cls.__module__.partition(".")[0] in FRAMES for cls in type(values).__mro__)


def _of_pandas(value: object) -> bool:
    """Whether this is a single value of a kind of pandas, such as a period."""
    return type(value).__name__ in ("Period", "Interval") and type(value).__module__.partition(".")[0] == "pandas"
