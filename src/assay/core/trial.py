"""Trials, outcomes and the verdict that they add up to."""

import dataclasses
from collections.abc import Mapping

from .arguments import checked_fields
from .errors import UsageError
from .lineage import Lineage, fingerprint

KEPT, RANDOM, ALL = "kept", "random", "all"
"""The three arms: the decision; random removal of equal size; every example as given."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One retraining: what it scored on the test examples.

    Attributes:
        arm: `kept`, `random` or `all`.
        seed: Seed of initialisation, order and, in the random arm, of the removal.
        accuracy: Fraction of test examples predicted right after the last epoch.
        loss: Mean cross-entropy on the test examples, in nats; None where the user's own training does not tell.
        examples: How many training examples took part.
        steps: How many optimizer steps were taken; None where the user's own training does not tell.
        seconds: How long it took.
    """

    arm: str
    seed: int
    accuracy: float
    loss: float | None
    examples: int
    steps: int | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two arms compared in test accuracy, paired over seeds.

    Attributes:
        treatment: The arm asked about.
        baseline: The arm it is held against.
        effect: Mean over seeds of treatment minus baseline, as a fraction (0.01 is one percentage point).
        low: Lower end of the 95 % bootstrap interval of the effect.
        high: Upper end.
        p: Two-sided p of the paired test.
        test: Which paired test.
        n: How many seeds.
    """

    treatment: str
    baseline: str
    effect: float
    low: float
    high: float
    p: float
    test: str
    n: int
    alpha: float = 0.05

    def __post_init__(self):
        if self.n < 2:
            raise UsageError(f"{self.n} seed cannot tell an effect from chance; verify with at least 2.")

    @property
    def significant(self) -> bool:
        """Whether both the test and the interval exclude no difference."""
        return self.p < self.alpha and (self.low > 0 or self.high < 0)

    @property
    def sentence(self) -> str:
        """The finding in words, which says so when there is none."""
        numbers = (
            f"{100 * self.effect:+.2f} points of test accuracy, 95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}, "
            f"p = {self.p:.3g}, {self.n} seeds"
        )
        names = {KEPT: "the decision", RANDOM: "random removal of equal size", ALL: "all examples as given"}
        one, other = names.get(self.treatment, self.treatment), names.get(self.baseline, self.baseline)
        one = one[0].upper() + one[1:]
        if not self.significant:
            return f"{one} and {other}: no significant difference ({numbers})."
        return f"{one} is {'better' if self.effect > 0 else 'worse'} than {other} ({numbers})."


@dataclasses.dataclass(frozen=True)
class Detection:
    """How well one score finds the examples whose given label is known to be wrong.

    Attributes:
        title: Title of the score.
        auc: Chance that a wrong label ranks before a right one (ties count half).
        average_precision: Mean precision over the wrong labels, in ranking order.
        precision_at_planted: Fraction of wrong labels among the first k, with k the number of wrong labels.
        recovered: Fraction of the wrong labels that stand in the first 20 % of the ranking.
        claims_suspicion: Whether the method claims to rank suspects; otherwise it ranks difficulty.
        curve: (fraction inspected, fraction of wrong labels found) along the ranking.
    """

    title: str
    auc: float
    average_precision: float
    precision_at_planted: float
    recovered: float
    claims_suspicion: bool
    curve: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """How a decision meets the planted truth.

    Attributes:
        planted: How many given labels are wrong.
        touched: How many examples the decision drops, relabels or weights.
        hit: How many of those touched have a wrong label.
        mended: How many are relabelled to the true class.
    """

    planted: int
    touched: int
    hit: int
    mended: int

    @property
    def precision(self) -> float:
        """Fraction of the touched examples whose label is wrong; 0 if none is touched."""
        return self.hit / self.touched if self.touched else 0.0

    @property
    def recovered(self) -> float:
        """Fraction of the wrong labels that are touched; 0 if none was planted."""
        return self.hit / self.planted if self.planted else 0.0


@dataclasses.dataclass(frozen=True)
@checked_fields
class Verdict:
    """Whether a decision was right.

    Attributes:
        decision: Title of the decision.
        outcomes: Every retraining.
        comparisons: kept against random, kept against all.
        detections: One per score, when the truth is known.
        cleaning: The decision against the truth, when it is known.
        plan: What was retrained: data, net, recipe.
        lineage: Where the verdict comes from.
    """

    decision: str
    outcomes: tuple[Outcome, ...]
    comparisons: tuple[Comparison, ...]
    detections: tuple[Detection, ...] = ()
    cleaning: Cleaning | None = None
    plan: Mapping[str, object] = dataclasses.field(default_factory=dict)
    lineage: Lineage | None = None

    def __repr__(self) -> str:
        return "\n".join(
            [f"Verdict on {self.decision}, {len(self.outcomes)} trainings:", *(one.sentence for one in self.comparisons)]
        )

    @property
    def fingerprint(self) -> str:
        """Hash over the decision's title, the plan and what every retraining measured; not over seconds."""
        measured = [(one.arm, one.seed, one.accuracy, one.loss, one.examples) for one in self.outcomes]
        return fingerprint(self.decision, repr(sorted(self.plan.items())), repr(measured))
