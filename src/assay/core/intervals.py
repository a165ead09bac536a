"""Intervals of numbers that may have none: checked, and in words."""

from .errors import UsageError


def check_interval(low: float | None, high: float | None) -> None:
    """Refuse an interval of one end.

    Raises:
        UsageError: Only one of the ends is None.
    """
    if (low is None) != (high is None):
        raise UsageError("An interval has two ends or none.")


def with_interval(value: float, low: float | None, high: float | None, digits: int) -> str:
    """A number, with its interval in brackets where it has one."""
    words = f"{value:.{digits}f}"
    return words if low is None or high is None else f"{words} [{low:.{digits}f}, {high:.{digits}f}]"
