"""Trials, outcomes and the verdict that they add up to."""

import dataclasses
from collections.abc import Mapping, Sequence

from .arguments import checked_fields
from .errors import UsageError
from .intervals import check_interval
from .lineage import Lineage, fingerprint

KEPT, RANDOM, ALL = "kept", "random", "all"
"""The three arms: the decision; the same done to examples drawn at random; every example as given. A second control has the title of its live selector."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One retraining: what it scored on the test examples.

    Attributes:
        arm: `kept`, `random` or `all`; or the title of a live selector, of a second control.
        seed: Seed of initialisation, order and, in the random arm, of the draw.
        accuracy: Fraction of test examples predicted right after the last epoch.
        loss: Mean cross-entropy on the test examples, in nats; None where the user's own training does not tell.
        examples: How many training examples took part; in a second control, how many in each epoch.
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


FEWEST = 3
"""With fewer seeds no difference is called significant: two seeds show one gap between their differences, not how far these spread."""

REMOVAL = "random removal of equal size"
"""What the random arm is called where the decision only removes."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two arms compared in test accuracy, paired over seeds.

    Attributes:
        treatment: The arm asked about.
        baseline: The arm that it is compared with.
        effect: Mean over seeds of treatment minus baseline, as a fraction (0.01 is one percentage point).
        low: Lower end of Student's 95 % interval of the effect, for this comparison alone; None with fewer than 3 seeds and where all
            differences are equal, which show no spread to make an interval of.
        high: Upper end.
        p: Two-sided p of the paired test, of all these seeds and of this comparison alone.
        test: Name of the paired test.
        n: How many seeds.
        alpha: Significance level: a corrected p below it is called significant.
        adjusted: p corrected for all comparisons asked for together (Holm) and for the place of the decision among those verified on
            its run; the largest such p over all looks. None where there was only one comparison and one look.
        family: How many comparisons it is corrected for together, this one included.
        looks: Numbers of seeds with which the comparison was tested before.
        control: Name of the random arm, in words.
        place: Place of the decision among those verified on its run, from 1; 0 where there is no such order.
        share: Part of alpha that is spent on the comparisons of this decision, in (0, 1] (`maths.statistics.share`).
        anew: Whether the baseline is a live selector, which chooses its examples anew for every epoch.
    """

    treatment: str
    baseline: str
    effect: float
    low: float | None
    high: float | None
    p: float
    test: str
    n: int
    alpha: float = 0.05
    adjusted: float | None = None
    family: int = 1
    looks: tuple[int, ...] = ()
    control: str = REMOVAL
    place: int = 0
    share: float = 1.0
    anew: bool = False

    def __post_init__(self):
        if self.n < 2:
            raise UsageError(f"{self.n} seed cannot tell an effect from chance; verify with at least 2.")
        check_interval(self.low, self.high)
        if not 0 < self.share <= 1:
            raise UsageError(f"share={self.share} is no part of the level; give a number above 0 and up to 1.")

    @property
    def significant(self) -> bool:
        """Whether there are at least 3 seeds, and the corrected test and the interval, where there is one, exclude a difference of 0."""
        p = self.p if self.adjusted is None else self.adjusted
        excludes = self.low is None or self.high is None or self.low > 0 or self.high < 0
        return self.n >= FEWEST and p < self.alpha and excludes

    @property
    def sentence(self) -> str:
        """The finding in words, which says so when there is none."""
        names = {KEPT: "the decision", RANDOM: self.control, ALL: "all examples as given"}
        one = names.get(self.treatment, self.treatment)
        other = names.get(self.baseline, self.baseline + ", chosen anew for every epoch" * self.anew)
        one = one[0].upper() + one[1:]
        effect = f"{100 * self.effect:+.2f} points of test accuracy"
        if self.n < FEWEST:
            return f"{one} and {other}: {self.n} seeds cannot tell ({effect}); verify with at least {FEWEST}."
        within = "no interval, because every seed shows the same difference"
        if self.low is not None and self.high is not None:
            within = f"95 % interval over seeds {100 * self.low:+.2f} to {100 * self.high:+.2f}"
        corrected = ""
        if self.adjusted is not None:
            causes = [f"{self.family} comparisons" + f" of decision {self.place} on this run" * (self.place > 0)] * (
                self.family > 1
            )
            if self.looks:
                causes.append(f"earlier looks with {_listed(self.looks)} seeds")
            corrected = f", {self.adjusted:.3g} corrected for {' and '.join(causes) or 'one comparison'}"
        numbers = f"{effect}, {within}, p = {self.p:.3g}{corrected}, {self.n} seeds"
        if not self.significant:
            return f"{one} and {other}: no significant difference ({numbers})."
        return f"{one} is {'better' if self.effect > 0 else 'worse'} than {other} ({numbers})."


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + (f" and {numbers[-1]}" if len(numbers) > 1 else str(numbers[-1]))


@dataclasses.dataclass(frozen=True)
class Look:
    """The result of one verification of a decision, kept so that the p-values of later ones can be corrected.

    Attributes:
        seeds: How many seeds, at least 3.
        measured: Hash of what its retrainings measured.
        ps: p of each comparison, uncorrected.
    """

    seeds: int
    measured: str
    ps: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Claim:
    """Every look at one decision with seeds of one range; with the other claims of the run they decide what is called significant.

    Attributes:
        decision: Title of the decision.
        made_of: Fingerprint of the decision, of the training and of the first seed.
        looks: In the order in which they were taken.
        place: Which of the run's claims it is, in the order of their first looks, from 1; 0 in files of an older assay.
    """

    decision: str
    made_of: str
    looks: tuple[Look, ...] = ()
    place: int = 0

    @property
    def ps(self) -> tuple[float, ...]:
        """The largest p over the looks, by comparison: only a comparison that is significant at every look counts as significant.

        A difference that is not significant at the first look then never becomes so: adding seeds until one is significant
        does not raise the rate of false findings.
        """
        return tuple(max(ps) for ps in zip(*(look.ps for look in self.looks), strict=True))

    def seen(self, look: Look) -> "Claim":
        """The claim with this look added, unless it already holds this look."""
        return self if look in self.looks else dataclasses.replace(self, looks=(*self.looks, look))


@dataclasses.dataclass(frozen=True)
class Detection:
    """How well one score finds the examples whose given label is known to be wrong.

    Attributes:
        title: Title of the score.
        auc: Chance that a wrong label ranks before a right one (ties count half).
        average_precision: Mean precision over the wrong labels, in ranking order.
        precision_at_planted: Fraction of wrong labels among the first k, with k the number of wrong labels.
        recovered: Fraction of the wrong labels among the first 20 % of the ranking.
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

    @property
    def missed(self) -> float:
        """Fraction of the wrong labels that are not among the first k; the false-negative rate at the noise rate."""
        return 1 - self.precision_at_planted


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """How well a decision matches the known true labels.

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
        comparisons: kept against random, kept against all, and kept against a second control where there is one.
        detections: One per score, when the truth is known.
        cleaning: The decision against the truth, when it is known.
        plan: What was retrained: data, net, recipe.
        lineage: Where the verdict comes from.
        decisions: How many decisions were verified on this run so far, this one included.
        redrawn: Whether the choice was drawn anew for each seed, as a policy with a seed allows.
        power: How many seeds are needed to find the difference asked for, in words; empty if no difference was asked for.
        control: Title of the live selector that is a second control; empty if there is none.
    """

    decision: str
    outcomes: tuple[Outcome, ...]
    comparisons: tuple[Comparison, ...]
    detections: tuple[Detection, ...] = ()
    cleaning: Cleaning | None = None
    plan: Mapping[str, object] = dataclasses.field(default_factory=dict)
    lineage: Lineage | None = None
    decisions: int = 1
    redrawn: bool = False
    power: str = ""
    control: str = ""

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that were trained, in the order in which they are shown."""
        return (KEPT, RANDOM, *((self.control,) if self.control else ()), ALL)

    @property
    def scope(self) -> tuple[str, ...]:
        """What the comparisons cover and what they were corrected for, a sentence each."""
        if not self.comparisons:
            return ()
        first = self.comparisons[0]
        said = [
            "Each seed had its own draw of the decision, so that this speaks of the policy and not of one draw; the test set is the same for "
            "all seeds, and another one may tell otherwise."
            if self.redrawn
            else "This speaks of these very examples and of this very test set: seeds change the training only, and another choice of as many "
            "examples, or other test examples, may tell otherwise."
        ]
        if self.control:
            said.append(
                f"{self.control} trained each epoch on as many examples as the decision keeps, chosen anew from all of them, with the labels as given: in as many "
                "epochs and steps it sees more of them. A decision that does not beat it saves no time that random parts would not save too."
            )
        if any(one.low is not None for one in self.comparisons):
            said.append(
                "The intervals are Student's: they cover 94 % or more where accuracies are about normal, skewed or counts, and 88 to 92 % where "
                "the differences between arms are as skewed as an exponential distribution."
            )
        if first.place:
            whole = 1 / (first.place * (first.place + 1))
            passed = (
                f", with what decision {first.place - 1} passed on, because all of its comparisons were significant"
                if first.share > 1.001 * whole
                else ""
            )
            said.append(
                f"This is decision {first.place} of {self.decisions} verified on this run so far. Its {first.family} comparisons are corrected together (Holm), "
                f"and their p are multiplied by {1 / first.share:.3g}, its turn{passed}: so a difference that is none is called significant in at "
                "most 5 % of runs, however many decisions are verified, and later ones change nothing of what is said here."
            )
        looks = first.looks
        if looks:
            said.append(
                f"It was looked at with {_listed(looks)} seeds before, and is called significant only if it was so each time; to ask anew, "
                f"verify on fresh seeds (seeds=assay.Seeds(NUMBER, after={max(looks)}) in Python, --after {max(looks)})."
            )
        return tuple(said)

    def __repr__(self) -> str:
        return "\n".join(
            [f"Verdict on {self.decision}, {len(self.outcomes)} trainings:", *(one.sentence for one in self.comparisons)]
        )

    @property
    def fingerprint(self) -> str:
        """Hash over the decision's title, the plan and what every retraining measured; not over seconds."""
        measured = [(one.arm, one.seed, one.accuracy, one.loss, one.examples) for one in self.outcomes]
        return fingerprint(self.decision, repr(sorted(self.plan.items())), repr(measured))
