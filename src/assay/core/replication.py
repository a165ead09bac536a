"""The results of a study that measures several things over seeds: numbers by section, row and column, beside what was published."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import UsageError, listed
from .fidelity import Spread, spread
from .lineage import fingerprint
from .published import PublishedNumber, measured_beside
from .trial import Comparison

NAMED = 6
"""How many rows a finding names."""
FEW = 4
"""From so many columns on a finding counts them."""


@dataclasses.dataclass(frozen=True)
class Section:
    """One table of a study.

    Attributes:
        name: Its heading.
        words: What was done, in a sentence or two.
        measure: What the numbers are, such as `test accuracy`.
        columns: What the columns differ in, such as `kept`; where all of them are numbers, the figure has a line for each row.
        control: The row that all others are compared with in pairs over seeds; empty for none.
        percent: Whether numbers are shown in percent.
        lowest: The smallest value that there can be; None for none.
        highest: The largest.
    """

    name: str
    words: str
    measure: str
    columns: str = ""
    control: str = ""
    percent: bool = False
    lowest: float | None = 0.0
    highest: float | None = 1.0


@dataclasses.dataclass(frozen=True)
class Measured:
    """One number of one seed.

    Attributes:
        section: Name of the section.
        row: What it is about, such as the title of a score.
        column: Under which condition, such as a fraction that was kept.
        seed: Seed of the repetition.
        value: The number.
    """

    section: str
    row: str
    column: str
    seed: int
    value: float


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A row that has no number in a column, and why."""

    section: str
    row: str
    column: str
    why: str


@dataclasses.dataclass(frozen=True)
class RowComparison:
    """A row of a section against its control, in pairs over seeds."""

    section: str
    row: str
    column: str
    comparison: Comparison


@dataclasses.dataclass(frozen=True, eq=False)
class ReplicationStudy:
    """A study of several sections: its settings, what was measured and what was published.

    Attributes:
        name: Name of the study.
        settings: How it was made, as plain values.
        facts: Data, machine and the like, for people.
        sections: The tables, in the order in which they are shown.
        measured: Every number of every seed.
        contests: Rows against the control of their section.
        published: Published numbers, each with how it is known.
        left_out: What has no number, and why.
        deviations: Where the study does other things than its sources, a sentence each.
        notes: What a reader must know, a sentence each.
        claims: How many comparisons are corrected together.
    """

    name: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    sections: tuple[Section, ...]
    measured: tuple[Measured, ...]
    contests: tuple[RowComparison, ...] = ()
    published: tuple[PublishedNumber, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    deviations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    claims: int = 0

    def __post_init__(self):
        """Refuse numbers of no section, and a row that lacks a seed which others of its section have and that is not told to be left out.

        Raises:
            UsageError: Names section, row and column.
        """
        names = [section.name for section in self.sections]
        told = {(one.section, one.row, one.column) for one in self.left_out}
        by_cell: dict[tuple[str, str, str], set[int]] = {}
        by_column: dict[tuple[str, str], set[int]] = {}
        for one in self.measured:
            if one.section not in names:
                raise UsageError(f"{one.row} has a number in {one.section!r}, which is none of the sections {', '.join(names)}.")
            by_cell.setdefault((one.section, one.row, one.column), set()).add(one.seed)
            by_column.setdefault((one.section, one.column), set()).add(one.seed)
        for (section, row, column), seeds in by_cell.items():
            if (absent := by_column[section, column] - seeds) and (section, row, column) not in told:
                raise UsageError(f"{row} has no number in {section}, {column}, seed {min(absent)}.")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the repetitions, rising."""
        return tuple(sorted({one.seed for one in self.measured}))

    @property
    def numbers(self) -> Iterator[tuple[str, str, str, int | str, float]]:
        """Every number as section, row, column, seed and value."""
        return ((one.section, one.row, one.column, one.seed, one.value) for one in self.measured)

    def beside(self, one: PublishedNumber) -> float | None:
        """What this study measured of a published number, as `measured_beside`."""
        return measured_beside(one, self.numbers)

    def rows(self, section: str) -> tuple[str, ...]:
        """The rows of a section, in the order in which they were measured."""
        return tuple(dict.fromkeys(one.row for one in self.measured if one.section == section))

    def columns(self, section: str) -> tuple[str, ...]:
        """The columns of a section, in the order in which they were measured."""
        return tuple(dict.fromkeys(one.column for one in self.measured if one.section == section))

    def values(self, section: str, row: str, column: str) -> dict[int, float]:
        """The numbers of one cell, by seed."""
        cell = section, row, column
        return {one.seed: one.value for one in self.measured if (one.section, one.row, one.column) == cell}

    def spread(self, section: Section, row: str, column: str) -> Spread | None:
        """One cell over seeds; None where nothing was measured."""
        values = list(self.values(section.name, row, column).values())
        return spread(values, section.lowest, section.highest) if values else None

    def told(self, section: str, row: str, column: str) -> str:
        """How a row compares with its control: `above`, `below`, `not told apart`, or nothing where they were not compared."""
        for one in self.contests:
            if (one.section, one.row, one.column) == (section, row, column):
                if not one.comparison.significant:
                    return "not told apart"
                return "above" if one.comparison.effect > 0 else "below"
        return ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings in words, one for each section: which rows are above and below the control, or which are the highest, and in which columns."""
        said = (self._contests(section) if section.control else self._highest(section) for section in self.sections)
        return tuple(words for words in said if words)

    def _contests(self, section: Section) -> str:
        """Which rows are told from the control."""
        told = {
            (row, column): which
            for column in self.columns(section.name)
            for row in self.rows(section.name)
            if (which := self.told(section.name, row, column))
        }
        if not told:
            return ""
        columns = tuple(dict.fromkeys(column for _, column in told))
        words = []
        for which in ("above", "below"):
            found: dict[str, list[str]] = {}
            for (row, column), how in told.items():
                if how == which:
                    found.setdefault(row, []).append(column)
            rows = [row + _in_columns(found[row], columns) for row in found]
            words.append(f"{which} {section.control}: {listed(rows, len(rows), NAMED) if rows else 'none'}")
        rest = sum(how == "not told apart" for how in told.values())
        where = f"{section.name}, {columns[0]}" if len(columns) == 1 and columns[0] else section.name
        return f"{where}: {'; '.join(words)}; {rest} of {len(told)} are not told apart from it."

    def _highest(self, section: Section) -> str:
        """Which rows have the highest mean."""
        best: dict[str, list[str]] = {}
        largest: dict[str, float] = {}
        for column in self.columns(section.name):
            # With itself a score agrees wholly.
            rows = [row for row in self.rows(section.name) if row != column]
            means = {row: one.mean for row in rows if (one := self.spread(section, row, column)) is not None}
            if len(set(means.values())) > 1:
                row = max(means, key=lambda row: means[row])
                best.setdefault(row, []).append(column)
                largest[row] = max(largest.get(row, -math.inf), means[row])
        if not best:
            return ""
        columns = [column for found in best.values() for column in found]
        where = f"{section.name}, {columns[0]}" if len(columns) == 1 and columns[0] else section.name
        words = []
        for row in sorted(best, key=lambda row: -len(best[row])):
            shown = f"{100 * largest[row]:.1f} %" if section.percent else f"{largest[row]:.3f}"
            most = "up to " if len(best[row]) > 1 else ""
            words.append(f"{row}{_in_columns(best[row], columns)} ({most}{shown}, mean over seeds)")
        return f"{where}: highest for {listed(words, len(words), NAMED)}."

    @property
    def fingerprint(self) -> str:
        """Hash over everything that was measured."""
        return fingerprint(self.name, repr(self.measured), repr(self.left_out))


def _in_columns(found: Sequence[str], columns: Sequence[str]) -> str:
    """In which columns something holds, where it does not in all."""
    if len(found) == len(columns):
        return ""
    return f" at {' and '.join(found)}" if len(found) < FEW else f" at {len(found)} of {len(columns)}"
