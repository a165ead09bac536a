"""How values are said to people."""

from collections.abc import Callable, Mapping


def worded(value: object, number: Callable[[float], str] = "{:.4g}".format) -> str:
    """A diagnostic in words: numbers to four digits, the middle of a long list left out, settings by name.

    Args:
        value: As JSON holds it.
        number: How a single number is written.
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
