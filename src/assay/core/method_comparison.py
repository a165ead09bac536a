"""Methods compared on one run: how alike they rank the examples, how much their first parts overlap, and how well each finds what is known to be wrong."""

import dataclasses

from .arguments import checked_fields
from .errors import UsageError
from .intervals import check_interval, with_interval
from .lineage import Lineage, fingerprint


@dataclasses.dataclass(frozen=True)
class ComparedPair:
    """How alike two methods rank the examples, the most suspect or hardest first in both.

    Attributes:
        one: Title of a score.
        other: Title of another.
        spearman: Spearman's rank correlation, in -1..1; NaN where a score has no spread, like the ends of its interval.
        low: Lower end of its 95 % interval, over the draw of examples.
        high: Upper end.
        kendall: Kendall's tau-b, in -1..1.
        kendall_low: Lower end of its 95 % interval.
        kendall_high: Upper end.
        overlap: Part of the first `budget` examples of one that are among those of the other, in 0..1.
    """

    one: str
    other: str
    spearman: float
    low: float
    high: float
    kendall: float
    kendall_low: float
    kendall_high: float
    overlap: float


@dataclasses.dataclass(frozen=True)
class ComparedMethod:
    """How well one method finds the labels that are known to be wrong, or the inputs that were damaged on purpose.

    Attributes:
        title: Title of the score.
        claims_suspicion: Whether it claims to rank suspects; otherwise it ranks difficulty.
        auc: Chance that a wrong label ranks before a right one (ties count half).
        low: Lower end of its 95 % interval, over the draw of examples; None where there is none to give.
        high: Upper end.
        average_precision: Mean precision over the wrong labels, in ranking order.
        precision: Fraction of wrong labels among as many of the first as are wrong.
        missed: How many wrong labels are not among these.
    """

    title: str
    claims_suspicion: bool
    auc: float
    low: float | None
    high: float | None
    average_precision: float
    precision: float
    missed: int

    def __post_init__(self):
        check_interval(self.low, self.high)

    @property
    def words(self) -> str:
        """The AUC and its interval."""
        return with_interval(self.auc, self.low, self.high, 4)


@dataclasses.dataclass(frozen=True)
@checked_fields
class MethodComparison:
    """Methods compared on one run.

    Attributes:
        titles: Titles of the scores.
        examples: How many examples all of them scored.
        budget: Length of the first part of each ranking whose overlap is told.
        pairs: Every two methods.
        wrong: How many labels are known to be wrong; None where the truth is not known.
        detections: How well each method finds these, the best first; empty where the truth is not known.
        lineage: Where it comes from.
        corrupted: How many inputs were damaged on purpose; None where none were.
        corruptions: How well each method finds these, the best first.
    """

    titles: tuple[str, ...]
    examples: int
    budget: int
    pairs: tuple[ComparedPair, ...]
    wrong: int | None = None
    detections: tuple[ComparedMethod, ...] = ()
    lineage: Lineage | None = None
    corrupted: int | None = None
    corruptions: tuple[ComparedMethod, ...] = ()

    @property
    def chance(self) -> float:
        """The overlap of two rankings by chance: the budget as a part of the examples."""
        return self.budget / self.examples

    def of(self, one: str, other: str) -> ComparedPair:
        """The comparison of two methods.

        Returns:
            The pair, in whichever order it is kept.

        Raises:
            UsageError: They were not compared.
        """
        for pair in self.pairs:
            if {pair.one, pair.other} == {one, other} and one != other:
                return pair
        raise UsageError(f"{one} and {other} were not compared; there are: {', '.join(self.titles)}.")

    def __repr__(self) -> str:
        known = "" if self.wrong is None else f", {self.wrong:,} known to be wrong"
        return f"MethodComparison({', '.join(self.titles)}: {self.examples:,} examples{known})"

    @property
    def fingerprint(self) -> str:
        """Hash over what was compared and found."""
        damage = () if self.corrupted is None else (self.corrupted, self.corruptions)
        return fingerprint(repr((self.titles, self.examples, self.budget, self.pairs, self.wrong, self.detections, *damage)))
