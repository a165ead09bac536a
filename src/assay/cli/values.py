"""Converters of flag values, for types that the command-line library does not read as needed."""

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter


def whole(kind: Any, tokens: Sequence[Any]) -> int:
    """Convert a token to a whole number; cyclopts by itself would round 2.5 to 2.

    Raises:
        ValueError: The token is not a whole number.
    """
    try:
        return int(tokens[0].value)
    except ValueError as error:
        raise ValueError(f"{tokens[0].value!r} is no whole number; give one such as 3.") from error


Whole = Annotated[int, Parameter(converter=whole)]
MaybeWhole = Annotated[int | None, Parameter(converter=whole)]
Switch = Annotated[bool, Parameter(negative=())]
"""A flag that is given or not, without a `--no-` of its own."""
