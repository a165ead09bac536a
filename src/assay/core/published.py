"""Numbers that a source published of what a study measures, and how each is known."""

import dataclasses
import statistics
from collections.abc import Iterable
from typing import Literal

Known = Literal["exact", "read off a figure", "not obtainable"]
"""How a published number is known."""


@dataclasses.dataclass(frozen=True)
class PublishedNumber:
    """A number that a source published of the same thing.

    Attributes:
        section: Name of the section beside which it stands.
        row: The row, as its source calls it.
        column: The column.
        value: The number; None where it could not be obtained.
        known: How it is known.
        source: Where it stands, and under which settings.
    """

    section: str
    row: str
    column: str
    value: float | None
    known: Known
    source: str


def measured_beside(one: PublishedNumber, numbers: Iterable[tuple[str, str, str, int | str, float]]) -> float | None:
    """What a study measured of a published number; a source names scores without their options, such as `hard by el2n`.

    Args:
        one: The published number.
        numbers: Section, row, column, seed and value of each number of the study.

    Returns:
        The mean over seeds; None where nothing of it was measured, or by several scores of that name.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for section, row, column, _, value in numbers:
        if (section, row.partition(":")[0], column.partition(":")[0]) == (one.section, one.row, one.column):
            found.setdefault((row, column), []).append(value)
    return statistics.fmean(next(iter(found.values()))) if len(found) == 1 else None
