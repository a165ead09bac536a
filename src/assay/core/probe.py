"""What a probe comes to: labels that were flipped on purpose in the user's own data, and how well each method found them."""

import dataclasses

from .arguments import checked_fields
from .errors import UsageError
from .intervals import check_interval, with_interval
from .lineage import Lineage, fingerprint

ALPHA = 0.05
"""Level at which two methods are told apart, all pairs together."""


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
    """

    title: str
    auc: float
    low: float | None
    high: float | None
    average_precision: float
    recovered: float
    adjusted: float | None = None

    def __post_init__(self):
        check_interval(self.low, self.high)

    @property
    def words(self) -> str:
        """The AUC and its interval."""
        return with_interval(self.auc, self.low, self.high, 4)


@dataclasses.dataclass(frozen=True)
@checked_fields
class Probe:
    """Which method finds flipped labels best in one's own data.

    Attributes:
        kind: How labels were flipped: `confusion` (to a class that the model confuses the given one with) or `uniform`.
        flipped: How many labels were flipped.
        inspected: How long the first part of each ranking is in which they are counted: as long as labels seem to be wrong, the flipped among them.
        examples: Of how many examples.
        seed: Seed by which they were drawn.
        methods: How well each method found them, the best first.
        lineage: Where it comes from.
        recall: Mean chance of being wrong that the count of wrong labels gives the flipped ones; None where it cannot tell.
    """

    kind: str
    flipped: int
    inspected: int
    examples: int
    seed: int
    methods: tuple[ProbedMethod, ...]
    lineage: Lineage | None = None
    recall: float | None = None

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
    def sentence(self) -> str:
        """The finding in words."""
        first, others, near = self.methods[0], self.methods[1:], self.not_told_apart
        found = round(first.recovered * self.flipped)
        words = f"Of {self.flipped:,} labels flipped among {self.examples:,}, {first.title} finds {found:,} in the first {self.inspected:,} (AUC {first.words})"
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
        return fingerprint(repr((self.kind, self.flipped, self.inspected, self.examples, self.seed, self.methods, self.recall)))
