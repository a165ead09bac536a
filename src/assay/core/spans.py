"""Checks of the epochs and labels that a method takes: windows, as texts or numbers, against the recorded epochs."""

from jaxtyping import Int
from torch import Tensor

from .errors import UsageError, listed
from .steps import StepSource


def span(window: str, epochs: int, title: str) -> range:
    """The epochs of a window: `all`, `last`, or `FIRST-LAST` counted from 0, such as `3-5`.

    Returns:
        Rising, within the recorded epochs.

    Raises:
        UsageError: None of these, or outside the recorded epochs.
    """
    if window == "all":
        return range(epochs)
    if window == "last":
        return range(epochs - 1, epochs)
    first, _, last = window.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise UsageError(f"{title}: window={window!r} is not all, last, or epochs such as 3-5.")
    if not int(first) <= int(last) < epochs:
        raise UsageError(f"{title}: window={window} is outside the {epochs} recorded epochs, 0-{epochs - 1}.")
    return range(int(first), int(last) + 1)


def checked_span(window: str, title: str) -> None:
    """Refuse a text that is not a window of any run.

    Raises:
        UsageError: It is not `all`, `last` or `FIRST-LAST`.
    """
    last = window.partition("-")[2]
    span(window, int(last) + 1 if last.isdecimal() else 1, title)


def steps_of(source: StepSource, epochs: range) -> range:
    """The steps of consecutive epochs."""
    return range(source.epochs[epochs.start].start, source.epochs[epochs.stop - 1].stop)


LONGEST_WINDOW = 100_000
"""More epochs than any window spans: a live method keeps one number for each epoch of the window and each example."""


def checked_window(window: int, epochs: int | None = None, smallest: int = 2) -> int:
    """`window`, if there are enough epochs for it.

    Returns:
        The window itself, in epochs.

    Raises:
        UsageError: The window is shorter than `smallest`, or longer than the recorded epochs.
    """
    if window < smallest:
        raise UsageError(f"window={window} is too short; a window needs at least {smallest} epochs.")
    if window > LONGEST_WINDOW:
        raise UsageError(f"window={window} is more than {LONGEST_WINDOW:,} epochs; give fewer.")
    if epochs is not None and epochs < window:
        raise UsageError(f"{epochs} epochs are fewer than window={window}; give more epochs or a window of at most {epochs}.")
    return window


def checked_labels(labels: Int[Tensor, " examples"], classes: int) -> Int[Tensor, " examples"]:
    """`labels`, if each is one of the classes.

    Returns:
        The labels themselves.

    Raises:
        UsageError: One is outside 0..classes - 1; names values and positions.
    """
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        values, where = labels[outside].unique().tolist(), outside.nonzero().flatten().tolist()
        raise UsageError(
            f"{len(where)} labels are outside 0..{classes - 1} ({listed(values, len(values))}), at positions "
            f"{listed(where, len(where))}; give every example one of the classes."
        )
    return labels
