"""Where what a command says goes: to people, or with `--json` as one document to stdout. `app` opens it, `console` writes to it."""

import contextlib
import dataclasses
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

_NUMBER = re.compile(r"-?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?(e[+-]?\d+)?")


@dataclasses.dataclass(frozen=True)
class Written:
    """A cell that people read in other words than a document has it.

    Attributes:
        text: For people.
        value: A number or None, or several: with its interval [number, low, high], a mean [mean, deviation].
    """

    text: str
    value: object

    def __str__(self) -> str:
        return self.text


def written(value: float | None, form: str, factor: float = 1.0, unit: str = "") -> Written:
    """A number that people read in this form, times a factor, with a unit."""
    return Written("–" if value is None else f"{factor * value:{form}}{unit}", value)


def percent(fraction: float | None, digits: int = 2) -> Written:
    """A fraction, which people read in percent."""
    return written(fraction, f".{digits}f", 100, " %")


@dataclasses.dataclass
class Output:
    """What a command said.

    Attributes:
        json: Whether it becomes a document.
        quiet: Whether progress and sentences are left out for people.
        tables: Tables, as the document has them.
        sentences: What was said beside tables.
        warnings: What was warned of.
        error: Kind, message and exit code of the error that ended the command.
    """

    json: bool = False
    quiet: bool = False
    tables: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sentences: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    error: dict[str, Any] | None = None

    def add_table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str]) -> None:
        """Keep a table for the document; cells of the columns in `right` that read as numbers become numbers."""
        cells = [[value_of(cell, column in right) for column, cell in zip(columns, row, strict=False)] for row in rows]
        self.tables.append({"title": title, "columns": list(columns), "rows": cells})

    def document(self, command: str, code: int) -> str:
        """The document, on one line."""
        parts = {"tables": self.tables, "sentences": self.sentences, "warnings": self.warnings, "error": self.error}
        return json.dumps({"command": command, "exit_code": code, **parts}, ensure_ascii=False, allow_nan=False)


now = Output()
"""The output of the command that runs."""


def value_of(cell: object, number: bool) -> object:
    """A cell as JSON has it; a number that is none (NaN) is null."""
    if isinstance(cell, Written):
        return value_of(cell.value, number)
    if isinstance(cell, (list, tuple)):
        return [value_of(one, number) for one in cell]
    if hasattr(cell, "item"):
        cell = cell.item()
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if cell is None or isinstance(cell, (bool, int, float)):
        return cell
    text = str(cell)
    if number and _NUMBER.fullmatch(text):
        plain = text.replace(",", "")
        return int(plain) if re.fullmatch(r"-?\d+", plain) else float(plain)
    return text


def shown(cell: object) -> str:
    """A cell as people read it: numbers with decimals to four digits."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


@contextlib.contextmanager
def opened(json: bool, quiet: bool) -> Iterator[TextIO]:
    """Context in which a command runs; gives the stream that the document goes to.

    With `json`, whatever else is printed while it runs, also by other libraries and by other processes that it starts, goes to stderr.
    """
    global now
    now = Output(json, quiet)
    stream = sys.stdout
    with contextlib.ExitStack() as last:
        last.callback(_close)
        if not json:
            yield stream
            return
        with contextlib.suppress(OSError, AttributeError, io.UnsupportedOperation):
            if stream.fileno() == 1 and sys.stderr.fileno() == 2:
                # In a process of our own; other processes that it starts inherit what stdout is.
                stream.flush()
                kept = os.dup(1)
                last.callback(os.close, kept)
                last.callback(os.dup2, kept, 1)
                os.dup2(2, 1)
                stream = last.enter_context(open(os.dup(kept), "w", encoding="utf-8"))
        with contextlib.redirect_stdout(sys.stderr):
            yield stream


def _close() -> None:
    global now
    now = Output()
