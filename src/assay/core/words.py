"""Values as text for people."""

import re
from collections.abc import Callable, Mapping

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters other than tab and line end, marks that turn the direction of writing, and halves of characters."""


def printable(text: str) -> str:
    r"""A text that no terminal takes for a command: control characters become visible, as in `\x1b`."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def lasted(seconds: float) -> str:
    """A time in words, to two units: `3 h 20 min`."""
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.2g} s"
    if whole < 60:
        return f"{whole} s"
    large, small, words = (
        (whole // 60, whole % 60, ("min", "s")) if whole < 3600 else (whole // 3600, whole % 3600 // 60, ("h", "min"))
    )
    return f"{large:,} {words[0]}" + (f" {small} {words[1]}" if small else "")


def worded(value: object, number: Callable[[float], str] = "{:.4g}".format) -> str:
    """A diagnostic in words: numbers to four digits, the middle of a long list left out, settings by name.

    Args:
        value: As JSON holds it.
        number: How a single number is written.

    Returns:
        Items of a list with commas between, settings as `NAME VALUE` with semicolons between.
    """
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {worded(one, number)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        shown = [worded(one, number) for one in value]
        return (
            ", ".join(shown)
            if len(shown) <= 8
            else f"{', '.join(shown[:4])}, ..., {', '.join(shown[-3:])} ({len(shown)} numbers)"
        )
    return number(value) if isinstance(value, float) else str(value)
