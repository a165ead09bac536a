"""The results of a pruning study: trainings on parts of the data, the power law of their error, and the choices that beat this law."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import UsageError
from .lineage import fingerprint
from .published import PublishedNumber, measured_beside
from .report_data import Agreement
from .trial import FEWEST, Comparison

HARD, EASY, RANDOM, ALL = "hard", "easy", "random", "all"
"""The arms: the hardest examples are kept, the easiest, as many at random, or all that are available."""
ACCURACY, LOSS, EXAMPLES, LAW, AGREEMENT = "Test accuracy", "Test loss", "Examples", "Power law", "Agreement"
"""The sections of the table of a pruning study."""


@dataclasses.dataclass(frozen=True)
class Pruned:
    """One training on a part of the data.

    Attributes:
        arm: `hard`, `easy`, `random` or `all`.
        metric: Title of the score that says what is hard; empty for `random` and `all`, which use no score.
        size: Available part of the training examples, from which the kept ones are chosen, as a fraction in (0, 1].
        fraction: Fraction of the available examples that was kept, in (0, 1].
        seed: Number of the repetition; each has its own part of the data, scores and training.
        examples: How many were kept.
        steps: Optimizer steps taken, the same number in all trainings.
        accuracy: Fraction of test examples predicted right at the end.
        loss: Mean cross-entropy on the test examples, in nats.
        seconds: How long the training took.
    """

    arm: str
    metric: str
    size: float
    fraction: float
    seed: int
    examples: int
    steps: int
    accuracy: float
    loss: float
    seconds: float

    @property
    def error(self) -> float:
        """Fraction of test examples predicted wrong."""
        return 1 - self.accuracy


@dataclasses.dataclass(frozen=True)
class PowerLawFit:
    """Power law of the mean test error of an arm: error = scale * examples ** -exponent + floor.

    Attributes:
        arm: `all`: fitted to trainings on all available examples of each size; `random`: also to trainings on random parts of them.
        scale: The error at one example, if the law held so far down.
        exponent: How fast the error falls with the number of examples.
        floor: Error that is left however many examples there are; 0 where none was fitted.
        low: Lower end of Student's 95 % interval over the exponents of single seeds; None with fewer than 3 seeds, with a floor, or if all
            seeds have the same exponent.
        high: Upper end.
        points: Number of different training set sizes that the law is fitted to.
        seeds: Number of seeds that the errors are means over.
    """

    arm: str
    scale: float
    exponent: float
    floor: float
    low: float | None
    high: float | None
    points: int
    seeds: int

    def __call__(self, examples: float | int) -> float:
        """The error of so many examples."""
        return self.scale * examples**-self.exponent + self.floor

    @property
    def sentence(self) -> str:
        """The law in words."""
        within = f", 95 % interval {self.low:.3f} to {self.high:.3f} over {self.seeds} seeds" if self.low is not None else ""
        floor = f" + {self.floor:.4f}" if self.floor else ""
        what = "everything" if self.arm == ALL else "everything or a random part"
        return f"Trained on {what}, the test error is {self.scale:.3g} n^{-self.exponent:.3f}{floor} at n examples (exponent {self.exponent:.3f}{within})."


@dataclasses.dataclass(frozen=True)
class FrontierPoint:
    """One point of a metric's Pareto frontier: no other choice with at most as many examples has a smaller error.

    Attributes:
        metric: Title of the score.
        arm: Which examples were kept.
        size: Available part of the training examples, as a fraction.
        fraction: Fraction of the available examples that was kept.
        examples: How many examples were kept.
        error: Mean test error over the seeds that were not used to choose the point; with fewer than 4 seeds, over all of them.
        slope: d log error / d log examples, from the point before; None for the first.
        gain: Mean over the seeds that did not choose the point of the law's error minus the point's, each seed with its own law of `all`;
            above 0 is better than the law. None where there is no law, fewer than 4 seeds, or fewer or more examples than the law was fitted to.
        low: Lower end of Student's 95 % interval of the gain, for this point alone; None where all seeds have the same gain.
        high: Upper end.
        p: Two-sided p of a paired test, of this point alone.
        adjusted: p corrected for everything that the study tests (Holm).
    """

    metric: str
    arm: str
    size: float
    fraction: float
    examples: int
    error: float
    slope: float | None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None

    @property
    def below(self) -> bool:
        """Whether the point lies below the law by more than chance explains, among everything that the study tests."""
        if self.gain is None or self.adjusted is None or (self.low is not None and self.low <= 0):
            return False
        return self.gain > 0 and self.adjusted < 0.05


@dataclasses.dataclass(frozen=True)
class ArmComparison:
    """Two arms with equally many examples of the same part of the data, compared in pairs over seeds.

    Attributes:
        metric: Title of the score.
        size: Available part of the training examples, as a fraction.
        fraction: Fraction of the available examples that was kept.
        examples: How many examples were kept.
        comparison: The difference in test accuracy.
    """

    metric: str
    size: float
    fraction: float
    examples: int
    comparison: Comparison


@dataclasses.dataclass(frozen=True)
class Theory:
    """Generalisation error of the perceptron of pruning theory, for one way of keeping examples.

    Attributes:
        keep: `hard` or `easy`.
        fraction: Fraction of the examples that is kept.
        angle: Between the probe that tells hard from easy and the teacher, in degrees.
        alphas: Kept examples per input dimension, rising.
        errors: Generalisation error at each of `alphas`, in 0..1/2.
    """

    keep: str
    fraction: float
    angle: float
    alphas: tuple[float, ...]
    errors: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A pruning study: its settings, trainings and conclusions.

    Attributes:
        name: Name of the study.
        settings: How it was made, as plain values.
        facts: Data, net, machine and the like, for people.
        trained: Every training.
        laws: Power laws of the error against the number of examples.
        frontiers: Frontier points of each metric, by rising number of examples.
        contests: Comparisons of hard with easy, and of each with random.
        agreement: How alike the metrics rank the examples; None with one metric.
        theory: Curves of the perceptron; empty where they were not asked for.
        notes: What could not be computed or tested, and why; a sentence each.
        claims: How many frontier points and comparisons were tested; their p-values are corrected together for that number.
        published: Published numbers, each with how it is known.
        deviations: Where the study does other things than its sources, a sentence each.
    """

    name: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    trained: tuple[Pruned, ...]
    laws: tuple[PowerLawFit, ...] = ()
    frontiers: tuple[FrontierPoint, ...] = ()
    contests: tuple[ArmComparison, ...] = ()
    agreement: Agreement | None = None
    theory: tuple[Theory, ...] = ()
    notes: tuple[str, ...] = ()
    claims: int = 0
    published: tuple[PublishedNumber, ...] = ()
    deviations: tuple[str, ...] = ()

    def __post_init__(self):
        """Refuse a study with missing trainings.

        Raises:
            UsageError: A part of the data lacks an arm that the others have, or a seed.
        """
        seeds = {one.seed for one in self.trained}
        cells: dict[tuple[str, str, float, float], list[int]] = {}
        for one in self.trained:
            cells.setdefault((one.arm, one.metric, one.size, one.fraction), []).append(one.seed)
        for cell, found in cells.items():
            if len(found) != len(seeds):
                raise UsageError(
                    f"The arm {cell[0]} at size {cell[2]:g}, kept {cell[3]:g}, has {len(found)} of {len(seeds)} seeds."
                )
        pruned = {(size, fraction) for _, _, size, fraction in cells if fraction < 1}
        arms = {(arm, metric) for arm, metric, _, fraction in cells if fraction < 1}
        for size, fraction in pruned:
            for arm, metric in arms:
                if (arm, metric, size, fraction) not in cells:
                    raise UsageError(f"The arm {arm} {metric} is missing at size {size:g}, kept {fraction:g}.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Titles of the scores, in the order in which they were asked for."""
        return tuple(dict.fromkeys(one.metric for one in self.trained if one.metric))

    @property
    def sizes(self) -> tuple[float, ...]:
        """Available parts of the training examples, as fractions, rising."""
        return tuple(sorted({one.size for one in self.trained}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The repetitions."""
        return tuple(sorted({one.seed for one in self.trained}))

    def errors(self, arm: str, metric: str, size: float, fraction: float) -> list[float]:
        """Test error of one choice, by seed; empty where it was not trained."""
        found = [one for one in self.trained if (one.arm, one.metric, one.size, one.fraction) == (arm, metric, size, fraction)]
        return [one.error for one in sorted(found, key=lambda one: one.seed)]

    def examples(self, size: float, fraction: float) -> float:
        """Number of examples kept at this size and fraction, mean over seeds and arms."""
        counts = [one.examples for one in self.trained if (one.size, one.fraction) == (size, fraction)]
        return sum(counts) / len(counts)

    @property
    def numbers(self) -> Iterator[tuple[str, str, str, int | str, float]]:
        """Every number as section, row, column, seed and value: of each training its accuracy, loss and examples; the laws and agreements, which are of `all` seeds."""
        for one in self.trained:
            row = f"{one.arm} by {one.metric}" if one.metric else one.arm
            for section, value in ((ACCURACY, one.accuracy), (LOSS, one.loss), (EXAMPLES, one.examples)):
                yield section, row, f"{one.fraction:g} of {one.size:g}", one.seed, value
        for law in self.laws:
            row = f"{law.arm}, with a floor" if law.floor else law.arm
            yield LAW, row, "exponent", "all", law.exponent
            yield LAW, row, "scale", "all", law.scale
            if law.floor:
                yield LAW, row, "floor", "all", law.floor
        if self.agreement is not None:
            for title, values in zip(self.agreement.titles, self.agreement.correlations.tolist(), strict=True):
                for other, value in zip(self.agreement.titles, values, strict=True):
                    # NaN is where a metric ranks nothing.
                    if other != title and value == value:
                        yield AGREEMENT, title, other, "all", value

    def beside(self, one: PublishedNumber) -> float | None:
        """What this study measured of a published number, as `measured_beside`."""
        return measured_beside(one, self.numbers)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings in words."""
        said = [law.sentence for law in self.laws]
        for metric in self.metrics:
            points = [one for one in self.frontiers if one.metric == metric and one.gain is not None]
            if points:
                below = sum(one.below for one in points)
                said.append(
                    f"By {metric}, {below} of the {len(points)} pruned points of the frontier within the sizes of the law of all lie "
                    "significantly below it."
                )
            against = [one for one in self.contests if one.metric == metric and one.comparison.baseline == EASY]
            # Of the smallest and the largest size, between which hard and easy may change places; the others stand in the tables.
            ends = dict.fromkeys((self.sizes[0], self.sizes[-1])) if against else {}
            said += [_winners(metric, size, [one for one in against if one.size == size]) for size in ends]
        if self.claims:
            said.append(f"Significance is corrected (Holm) for all {self.claims} points and comparisons that this study tests.")
        if self.claims or any(law.low is not None for law in self.laws):
            said.append(
                "Intervals and p are over seeds, by Student: they hold for differences that are about normal, and of ones as skewed as an exponential "
                "distribution an interval covers 88 to 92 %. All trainings are judged by the same test examples; others may tell otherwise."
            )
        return tuple(said)

    @property
    def fingerprint(self) -> str:
        """Hash over what every training measured; not over seconds."""
        return fingerprint(self.name, repr([dataclasses.replace(one, seconds=0.0) for one in self.trained]))


def _winners(metric: str, size: float, contests: Sequence[ArmComparison]) -> str:
    """Who wins at which fractions, in words."""
    groups: dict[str, list[str]] = {}
    for one in sorted(contests, key=lambda one: -one.fraction):
        found = one.comparison
        who = (
            f"{found.n} seeds cannot tell at"
            if found.n < FEWEST
            else "undecided"
            if not found.significant
            else "hard"
            if found.effect > 0
            else "easy"
        )
        groups.setdefault(who, []).append(f"{one.fraction:.0%}")
    words = {
        "hard": "keeping the hard is better at",
        "easy": "keeping the easy is better at",
        "undecided": "no significant difference at",
    }
    order = [*(who for who in words if who in groups), *(who for who in groups if who not in words)]
    parts = [f"{words.get(who, who)} {', '.join(groups[who])}" for who in order]
    return f"By {metric}, chosen from {size:.0%} of the data: {'; '.join(parts)} kept."
