"""Interval over seeds of a measure that lies in a range, such as an AUC, and is skewed at its end."""

import statistics
from collections.abc import Sequence

from assay.maths.statistics import student_interval, widened

FEWEST_WRONG, LEAST_MISSED = 5, 0.1
"""Of wrong labels, and of wrong labels times the distance of the AUC from its end, below which there is no interval."""


def interval(values: Sequence[float], lowest: float = 0.0) -> list[float] | None:
    """95 % interval of the mean, within the range of lowest to 1; None for fewer than three values, or equal ones."""
    if student_interval(values) is None:
        return None
    mean, half = statistics.fmean(values), widened(len(values)) * statistics.stdev(values)
    return [round(max(mean - half, lowest), 4), round(min(mean + half, 1.0), 4)]


def detection_interval(values: Sequence[float], aucs: Sequence[float], wrong: int) -> list[float] | None:
    """The same of an AUC or of an average precision that stands beside it; None where no interval covers what it says.

    Where wrong labels are few and an AUC is at the end of its range, all its spread comes from the seeds in which one of them is
    missed: of 20 wrong labels at .9994 even the widened interval covers 85 %.

    Args:
        values: By seed.
        aucs: By seed.
        wrong: How many wrong labels there are, at least, in each seed.
    """
    mean = statistics.fmean(aucs)
    if wrong < FEWEST_WRONG or wrong * min(mean, 1 - mean) < LEAST_MISSED:
        return None
    return interval(values)
