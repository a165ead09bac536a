"""Numbers that a source published of what a study measures, and how each is known."""

import dataclasses
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
