"""Keep the examples whose value lies between two bounds, or drop as many of the most suspect as have a wrong label."""

import dataclasses
import math
from typing import ClassVar, Literal

import torch

from ..core.errors import UsageError, listed
from ..core.method import Source
from ..core.needs import Need
from ..core.selection import AbstractSelector, By, Pool, Selection, suspects_stay, worst
from ..core.wrong_labels import READS


@dataclasses.dataclass(frozen=True)
class Threshold(AbstractSelector):
    """Keeps the examples with at_least <= value <= at_most, or drops as many of the most suspect as have a wrong label.

    With `count` and `fdr` no bound is given: the most suspect are dropped.

    Args:
        at_least: Lower bound, inclusive, in the unit of the score; none for no bound.
        at_most: Upper bound, inclusive; none for no bound.
        by: Whether the values or the suspicion are compared with the bounds.
        count: How many of the most suspect are dropped: a number, or auto for as many labels as seem to be wrong (`assay.count_wrong`).
        fdr: Part of right labels that is expected among the dropped at most, in 0..1; as many of the most suspect are dropped as that allows. With count=auto or
            fdr none is dropped where the interval of the count of wrong labels holds 0.
    """

    at_least: float | None = None
    at_most: float | None = None
    by: By = "values"
    count: int | Literal["auto"] | None = None
    fdr: float | None = None
    name: ClassVar[str] = "threshold"
    nests: ClassVar[bool] = True
    counts_wrong: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Pleiss et al. 2020, AUM (removal below a threshold)",
        "https://arxiv.org/abs/2001.10528",
        "the bound is given, or read off a mixture fitted to the margins; the paper reads it off examples with a planted extra class",
    )

    def __post_init__(self):
        super().__post_init__()
        bounded = self.at_least is not None or self.at_most is not None
        if bounded + (self.count is not None) + (self.fdr is not None) > 1:
            raise UsageError("threshold takes bounds (at_least, at_most), or count, or fdr; give one of the three.")
        if not bounded and self.count is None and self.fdr is None:
            raise UsageError(
                "threshold needs at_least, at_most or both, or count or fdr; without a bound every example would stay."
            )
        if not bounded and self.by != "values":
            raise UsageError(
                f"by={self.by} says what bounds are compared with; count and fdr drop the most suspect, so leave by out."
            )
        if isinstance(self.count, int) and self.count < 0:
            raise UsageError(f"count={self.count} drops less than none; give 0 or more, or auto.")
        if self.fdr is not None and not 0 <= self.fdr <= 1:
            raise UsageError(f"fdr={self.fdr} is outside 0..1; it is the part of right labels among the dropped.")
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        if not low <= high:
            raise UsageError(f"at_least={self.at_least} and at_most={self.at_most} leave no value; give at_least <= at_most.")

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """The facts by which wrong labels are counted, where the data say how many are dropped."""
        return READS if self.count == "auto" or self.fdr is not None else frozenset()

    def select(self, pool: Pool) -> Selection:
        if self.count is not None or self.fdr is not None:
            return self._most_suspect(pool)
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

    def _most_suspect(self, pool: Pool) -> Selection:
        """Without the most suspect, however many these are to be."""
        n = len(pool)
        warnings: tuple[str, ...] = ()
        if self.count is not None and self.count != "auto":
            if self.count > n:
                raise UsageError(f"count={self.count} is more than the {n} examples; give at most as many.")
            dropped, why = self.count, "as asked for"
        else:
            counted = pool.wrong_labels
            if self.fdr is None:
                dropped, why = counted.among(pool.ids), f"as labels seem wrong ({counted.low:.0f} to {counted.high:.0f})"
            else:
                right = counted.false_discoveries(pool.scores)
                fits = (right <= self.fdr).nonzero()
                dropped, why = int(fits.max()) + 1 if len(fits) else 0, f"as leave at most {self.fdr:g} of them right"
            if not counted.seen:
                if dropped or not counted.clear:
                    warnings = (f"{counted.sentence} None is dropped; look at the most suspect before any is.",)
                dropped = 0
            elif dropped and counted.low < counted.count / 4:
                warnings = (
                    f"{counted.sentence} Its lower end is less than a quarter of that, so that most of the {dropped:,} dropped may be right: "
                    "look at them first, or train longer and count again.",
                )
        kept = torch.ones(n, dtype=torch.bool)
        kept[worst(pool.scores, dropped)] = False
        what = f"among the {dropped:,} most suspect by {pool.scores.title}, as many {why}"
        return Selection(kept, f"not {what}", what, warnings=warnings)
