"""Keep the examples whose value lies between two bounds."""

import dataclasses
import math
from typing import ClassVar, Literal

from ..core.errors import UsageError, listed
from ..core.method import Source
from ..core.needs import Need
from ..core.selection import AbstractSelector, By, Pool, Selection, suspects_stay


@dataclasses.dataclass(frozen=True)
class Threshold(AbstractSelector):
    """Keeps the examples with at_least <= value <= at_most, however many these are.

    Args:
        at_least: Lower bound, inclusive, in the unit of the score; none for no bound.
        at_most: Upper bound, inclusive; none for no bound.
        by: Whether the values or the suspicion are compared.
    """

    at_least: float | None = None
    at_most: float | None = None
    by: By = "values"
    name: ClassVar[str] = "threshold"
    reads: ClassVar[frozenset[Need]] = frozenset()
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Pleiss et al. 2020, AUM (removal below a threshold)",
        "https://arxiv.org/abs/2001.10528",
        "the bound is given; the paper reads it off examples with a planted extra class",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.at_least is None and self.at_most is None:
            raise UsageError("threshold needs at_least, at_most or both; without a bound every example would stay.")
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        if not low <= high:
            raise UsageError(f"at_least={self.at_least} and at_most={self.at_most} leave no value; give at_least <= at_most.")

    def select(self, pool: Pool) -> Selection:
        values = pool.by(self.by)
        # A NaN compares false with any bound and would be dropped as if it had been looked at.
        if bool(values.isnan().any()):
            bad = pool.ids.take(values.isnan())
            raise UsageError(f"{len(bad)} values are NaN and cannot be compared; ids {listed(bad, len(bad))}.")
        kept = ~values.isnan()
        bounds = []
        if self.at_least is not None:
            kept &= values >= self.at_least
            bounds.append(f"at least {self.at_least}")
        if self.at_most is not None:
            kept &= values <= self.at_most
            bounds.append(f"at most {self.at_most}")
        what = f"{self.by} of {pool.scores.title} {' and '.join(bounds)}"
        warnings: tuple[str, ...] = ()
        if len(bounds) == 1:
            end: Literal["high", "low"] = "high" if self.at_least is not None else "low"
            warnings = suspects_stay(
                pool, int(kept.sum()), self.by, end, "at_most" if end == "high" else "at_least", "by=suspicion"
            )
        return Selection(kept, what, f"not {what}", warnings=warnings)
