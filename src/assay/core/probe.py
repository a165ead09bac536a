"""What a probe comes to: labels that were made wrong on purpose in the user's own data, how well each method found them, and how many others are wrong."""

import dataclasses
from collections.abc import Sequence

from ..maths.planted_counts import PlantedCount
from .arguments import checked_fields
from .errors import UsageError
from .intervals import check_interval, with_interval
from .lineage import Lineage, fingerprint
from .wrong_labels import ClassCount, WrongCount

ALPHA = 0.05
"""Level at which two methods are told apart, all pairs together."""
EXTRA = "extra_class"
"""Kind of a probe that gives examples a class which none truly has."""


HARDER = "Errors that are harder to find, as people's on unclear examples are, are not all counted."


@dataclasses.dataclass(frozen=True)
class ProbedMethod:
    """How well one method found the flipped labels.

    Attributes:
        title: Title of the score.
        auc: Chance that a flipped label ranks before one that was left alone (ties count half).
        low: Lower end of its 95 % interval, over the draw of examples; None where there is none to give.
        high: Upper end.
        average_precision: Mean precision over the flipped labels, in ranking order.
        recovered: Fraction of the flipped labels in the inspected first part of the ranking.
        adjusted: p that this method and the best one find them equally well, corrected for all pairs of methods (Holm); None for the best itself.
        counted: How many labels were wrong before, by where the flipped ones rank among the others; None of a probe of before this was counted.
    """

    title: str
    auc: float
    low: float | None
    high: float | None
    average_precision: float
    recovered: float
    adjusted: float | None = None
    counted: PlantedCount | None = None

    def __post_init__(self):
        check_interval(self.low, self.high)

    @property
    def words(self) -> str:
        """The AUC and its interval."""
        return with_interval(self.auc, self.low, self.high, 4)

    @property
    def wrong(self) -> str:
        """How many labels were wrong before, with the interval."""
        one = self.counted
        if one is None or not one.told:
            return "" if one is None else "cannot be told"
        return f"{round(one.count):,} ({round(one.low):,} to {round(one.high):,})" if one.seen else f"at most {round(one.high):,}"


@dataclasses.dataclass(frozen=True)
class ThresholdExamples:
    """What AUM's threshold examples come to: how many labels the model resists as much as a class that no example truly has.

    Attributes:
        margin: Mean margin below which 99 % of the threshold examples lie, in logits.
        count: How many of all labels lie below it.
        low: Lower end of the 95 % interval, over the draw of threshold examples and of the others.
        high: Upper end.
        by_class: The same for each given class.
    """

    margin: float
    count: float
    low: float
    high: float
    by_class: tuple[ClassCount, ...] = ()


@dataclasses.dataclass(frozen=True)
@checked_fields
class Probe:
    """Which method finds flipped labels best in one's own data.

    Attributes:
        kind: How labels were flipped: `confusion` (to a class that the model confuses the given one with), `uniform`, or `extra_class` (to a class of their own).
        flipped: How many labels were flipped.
        inspected: How long the first part of each ranking is in which they are counted: as long as labels seem to be wrong, the flipped among them.
        examples: Of how many examples.
        seed: Seed by which they were drawn.
        methods: How well each method found them, the best first.
        lineage: Where it comes from.
        recall: Mean chance of being wrong that the count of wrong labels gives the flipped ones; None where it cannot tell.
        threshold: How many labels lie below AUM's threshold; None of other kinds.
    """

    kind: str
    flipped: int
    inspected: int
    examples: int
    seed: int
    methods: tuple[ProbedMethod, ...]
    lineage: Lineage | None = None
    recall: float | None = None
    threshold: ThresholdExamples | None = None

    def __post_init__(self):
        if not self.methods:
            raise UsageError("A probe compares methods; give at least one.")

    @property
    def best(self) -> str:
        """Title of the method with the largest AUC."""
        return self.methods[0].title

    @property
    def not_told_apart(self) -> tuple[str, ...]:
        """Titles of the methods that cannot be told from the best."""
        return tuple(one.title for one in self.methods[1:] if one.adjusted is None or one.adjusted >= ALPHA)

    @property
    def planted(self) -> str:
        """What was done to the labels, in a word."""
        return "given an extra class" if self.kind == EXTRA else "flipped"

    @property
    def count_sentence(self) -> str:
        """How many labels were wrong before, by the best method's ranking, in words; empty of a probe of before this was counted."""
        best = self.methods[0]
        counted, n = best.counted, self.examples
        if counted is None:
            return ""
        high = round(counted.high)
        if counted.holds == "overlap":
            return (
                f"How many labels were wrong before the {self.flipped:,} cannot tell: {best.title} ranks too many right labels among them; train longer, or a larger net, and "
                "probe again."
            )
        if counted.holds == "contradicted":
            return (
                "How many labels were wrong before these cannot tell: the count by margins lies outside what their ranks allow, so that wrong labels are not like them; "
                "take the count of `assay score`."
            )
        if counted.holds == "unchecked":
            return (
                "How many labels were wrong before these cannot tell: people's errors are harder to find than they are, and the count by margins, which would show it, cannot be told "
                "either; train longer, or a larger net, and probe again."
            )
        if self.kind == EXTRA:
            return f"If no wrong label is harder to find than these, at most {high:,} of {n:,} labels are wrong (95 % interval, by {best.title})."
        if counted.holds == "upper end":
            return f"At most {high:,} of {n:,} labels were wrong before (95 % interval, by {best.title}): wrong ones rank before the flipped ones, which say no more."
        if not counted.seen:
            return f"If wrong labels rank like the flipped ones, at most {high:,} of {n:,} were wrong before (95 % interval, by {best.title}). {HARDER}"
        return (
            f"If wrong labels rank like the flipped ones, about {round(counted.count):,} of {n:,} were wrong before (95 % interval {round(counted.low):,} to {high:,}), and of the "
            f"first {round(counted.count):,} by {best.title} about {counted.right:.0%} are right. {HARDER}"
        )

    @property
    def threshold_sentence(self) -> str:
        """How many labels lie below AUM's threshold, in words; empty of other kinds."""
        one = self.threshold
        if one is None:
            return ""
        return (
            f"{round(one.count):,} labels (95 % interval {round(one.low):,} to {round(one.high):,}) are resisted as much as 99 % of the threshold examples, with a mean margin of "
            f"at most {one.margin:.3g}: AUM's rule, which counts hard right labels too."
        )

    @property
    def sentence(self) -> str:
        """The finding in words."""
        first, others, near = self.methods[0], self.methods[1:], self.not_told_apart
        found = round(first.recovered * self.flipped)
        words = f"Of {self.flipped:,} labels {self.planted} among {self.examples:,}, {first.title} finds {found:,} in the first {self.inspected:,} (AUC {first.words})"
        if others:
            words += ", as well as or better than every other method"
        if others and len(near) == len(others):
            words += "; no other is told from it"
        elif near:
            words += f"; {', '.join(near)} {'are' if len(near) > 1 else 'is'} not told from it"
        return f"{words}."

    def __repr__(self) -> str:
        return f"Probe({self.sentence.removesuffix('.')})"

    @property
    def fingerprint(self) -> str:
        """Hash over what was flipped and found."""
        made = (self.kind, self.flipped, self.inspected, self.examples, self.seed, self.methods, self.recall, self.threshold)
        return fingerprint(repr(made))


def to_drop(by_margins: WrongCount | None, probes: Sequence[Probe]) -> int:
    """How many labels it may be advised to drop: as many as are counted, and no more than any count says can be wrong.

    Args:
        by_margins: The count of wrong labels; None where they cannot be counted.
        probes: Probes of the same recording, by whose best method labels are counted too.

    Returns:
        The count by margins, or the least upper end of a probe that is below it; 0 where the interval of the count by margins holds 0 or cannot be told.
    """
    if by_margins is None or not by_margins.seen:
        return 0
    counts = [one.methods[0].counted for one in probes]
    # That the interval of a few flipped labels holds 0 is no sign that the margins are wrong.
    return min([by_margins.whole, *(round(one.high) for one in counts if one is not None and one.told)])
