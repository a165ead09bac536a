"""The results of a study of fidelity: how well methods rank what leaving an example out really does."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ..maths.statistics import student_interval, widened
from .errors import UsageError
from .lineage import fingerprint
from .published import Known, PublishedNumber

Measure = Literal["tau", "spearman", "jaccard"]
NOTHING = "Hara et al. 2019: nothing of this measure, setting and number of examples was at hand"
"""The source of a number that could not be obtained."""
LOWEST: dict[Measure, float] = {"tau": -1.0, "spearman": -1.0, "jaccard": 0.0}
"""What an agreement is measured by, and its lowest value; the highest is 1."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How alike a method and leave-one-out rank the examples, in one seed.

    Attributes:
        setting: Data and net, such as `adult-dnn`.
        method: Title of the score.
        seed: Number of the repetition.
        tau: Kendall's tau over all examples, in -1..1.
        spearman: Spearman's rank correlation over all examples, in -1..1.
        jaccard: Overlap of the ten smallest and ten largest together, in 0..1.
    """

    setting: str
    method: str
    seed: int
    tau: float
    spearman: float
    jaccard: float


@dataclasses.dataclass(frozen=True)
class Truth:
    """The training of one seed, and leave-one-out on it.

    Attributes:
        setting: Data and net.
        seed: Number of the repetition.
        alpha: Strength of the regulariser in every example's loss.
        validation_loss: Mean loss on the validation examples after training on all, in nats.
        validation_accuracy: Fraction of them predicted right.
        seconds: How long the trainings without each example took.
    """

    setting: str
    seed: int
    alpha: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Refused:
    """A method that gave no score in one seed, and why."""

    setting: str
    method: str
    seed: int
    why: str


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """Everything that one seed of one setting came to."""

    truth: Truth
    agreements: tuple[Agreement, ...]
    refused: tuple[Refused, ...] = ()


@dataclasses.dataclass(frozen=True)
class Spread:
    """A measure over seeds.

    Attributes:
        mean: Mean over seeds.
        std: Standard deviation over seeds (n - 1); None for one seed.
        low: Lower end of a 95 % interval of the mean, 1 + 4 / (n + 2) times as wide as Student's because the measure is skewed near its ends; None with
            fewer than 3 seeds, or equal values.
        high: Upper end.
        n: How many seeds.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class PublishedAgreement:
    """A published mean and standard deviation over seeds.

    Attributes:
        setting: Data and net.
        what: The method, as its source calls it.
        measure: `tau` or `jaccard`.
        mean: Mean over seeds.
        std: Standard deviation over seeds; None where the source has none.
        source: Where it stands.
        known: How it is known.
    """

    setting: str
    what: str
    measure: Measure
    mean: float
    std: float | None
    source: str
    known: Known = "exact"


@dataclasses.dataclass(frozen=True, eq=False)
class FidelityStudy:
    """A study of fidelity: its settings, what was measured and what was published.

    Attributes:
        name: Name of the study.
        settings: How it was made, as plain values.
        facts: Data, machine and the like, for people.
        truths: Every training, with leave-one-out.
        measured: The agreement of every method with leave-one-out, by setting and seed.
        refused: Where a method gave no score; means are over the other seeds.
        published: Published numbers of the same settings.
        notes: What a reader must know, a sentence each.
        deviations: Where the study does other things than its sources, a sentence each.
    """

    name: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    truths: tuple[Truth, ...]
    measured: tuple[Agreement, ...]
    refused: tuple[Refused, ...] = ()
    published: tuple[PublishedAgreement, ...] = ()
    notes: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()

    def __post_init__(self):
        """Refuse a study with a hole: in every seed of a setting each method has a result or a refusal.

        Raises:
            UsageError: There is a hole; names setting, seed and method.
        """
        told: list[Agreement | Refused] = [*self.measured, *self.refused]
        known = {(one.setting, one.seed, one.method) for one in told}
        for truth in self.truths:
            methods = {one.method for one in told if one.setting == truth.setting}
            if absent := sorted(method for method in methods if (truth.setting, truth.seed, method) not in known):
                raise UsageError(f"{absent[0]} has no result in {truth.setting}, seed {truth.seed}.")

    @property
    def cells(self) -> tuple[str, ...]:
        """The settings, in the order in which they were asked for."""
        return tuple(dict.fromkeys(one.setting for one in self.truths))

    @property
    def methods(self) -> tuple[str, ...]:
        """Titles of the scores that have a result somewhere, in the order in which they were asked for."""
        return tuple(dict.fromkeys(one.method for one in self.measured))

    def spread(self, setting: str, method: str, measure: Measure) -> Spread | None:
        """A measure of one method in one setting, over seeds; None where the method has no result."""
        values = [getattr(one, measure) for one in self.measured if (one.setting, one.method) == (setting, method)]
        return spread(values, LOWEST[measure]) if values else None

    @property
    def numbers(self) -> Iterator[tuple[str, str, str, int | str, float]]:
        """Every number as section, row, column, seed and value."""
        for one in self.measured:
            for measure in LOWEST:
                yield measure, one.method, one.setting, one.seed, getattr(one, measure)

    @property
    def published_numbers(self) -> Iterator[PublishedNumber]:
        """The published means and deviations, and of what nothing was published."""
        for one in self.published:
            yield PublishedNumber(one.measure, one.what, one.setting, one.mean, one.known, one.source)
            if one.std is not None:
                yield PublishedNumber(one.measure, one.what, f"{one.setting}, standard deviation", one.std, one.known, one.source)
        told = {(one.measure, one.setting) for one in self.published}
        for measure in LOWEST:
            for setting in self.cells:
                if (measure, setting) not in told:
                    yield PublishedNumber(measure, "every method", setting, None, "not obtainable", NOTHING)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings in words."""
        said = []
        for setting in self.cells:
            found = {method: self.spread(setting, method, "tau") for method in self.methods}
            means = {method: one.mean for method, one in found.items() if one is not None}
            ranked = ", ".join(f"{method} {mean:.3f}" for method, mean in sorted(means.items(), key=lambda item: -item[1]))
            seeds = sum(one.setting == setting for one in self.truths)
            said.append(
                f"{setting}: Kendall's tau with leave-one-out, mean over {seeds} {'seed' if seeds == 1 else 'seeds'}: {ranked or 'no method'}."
            )
        return tuple(said)

    @property
    def fingerprint(self) -> str:
        """Hash over what every seed measured; not over seconds."""
        truths = [dataclasses.replace(one, seconds=0.0) for one in self.truths]
        return fingerprint(self.name, repr(truths), repr(self.measured), repr(self.refused))


def spread(values: Sequence[float], lowest: float | None, highest: float | None = 1.0) -> Spread:
    """Mean, deviation and interval of a measure that lies in lowest..highest, over seeds; None for no such bound."""
    mean, n = statistics.fmean(values), len(values)
    std = statistics.stdev(values) if n > 1 else None
    if std is None or student_interval(values) is None:
        return Spread(mean, std, None, None, n)
    half = widened(n) * std
    low, high = mean - half, mean + half
    return Spread(mean, std, low if lowest is None else max(low, lowest), high if highest is None else min(high, highest), n)
