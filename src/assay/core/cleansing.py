"""The results of a study of cleansing: trainings without the worst examples, the counts chosen on validation data, and what was kept on disk."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .curve import RANDOM, By
from .errors import UsageError
from .lineage import fingerprint
from .published import Known
from .trial import Comparison

NO_REMOVAL = "no removal"
"""In the place of a method: the training from which nothing is left out."""
MEASURES = {
    "val_loss": "validation_loss", "test_loss": "test_loss", "val_accuracy": "validation_accuracy", "test_accuracy": "test_accuracy"
}  # fmt: skip
"""Columns of the summary table as the released example names them, and the fields that they hold."""
SUMMARY = (*MEASURES, "method", "seed", "n_drops", "mean", "std")
"""All columns of the summary table."""


@dataclasses.dataclass(frozen=True)
class Cleansed:
    """One training without the worst examples by a method, or without random ones, or with all.

    Attributes:
        method: Title of the score, `random`, or `no removal`.
        removed: How many examples were left out.
        seed: Number of the trial; each has its own split, initial weights, order, influence and random choice.
        validation_loss: Mean cross-entropy on the validation examples, in nats.
        test_loss: Mean cross-entropy on the test examples, in nats; never used to choose.
        validation_accuracy: Fraction of validation examples predicted right after the last step.
        test_accuracy: Fraction of test examples predicted right; never used to choose.
        seconds: How long the training took.
    """

    method: str
    removed: int
    seed: int
    validation_loss: float
    test_loss: float
    validation_accuracy: float
    test_accuracy: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class ChosenCount:
    """How many of the worst examples a method removes in one trial, chosen on the validation examples.

    Attributes:
        method: Title of the score.
        seed: Number of the trial.
        harmful: How many examples the method predicts to do harm; None where it only ranks.
        removed: The count with the best validation result; at most `harmful`, and 0 where removing nothing is best.
    """

    method: str
    seed: int
    harmful: int | None
    removed: int


@dataclasses.dataclass(frozen=True)
class Storage:
    """What must be on disk for a method to score the recorded training, or a published one.

    Attributes:
        method: Title of the score, or a way of the original codes.
        what: What is kept, in words.
        states: How many states of the training that is.
        bytes: How large they are; the order of the examples, which a seed gives again, is not counted.
        measured: Whether these are sizes of files; otherwise they are published, or worked out from one state's tensors.
        source: The publication that says so of its own training; None for what is of the recorded one.
    """

    method: str
    what: str
    states: int
    bytes: int
    measured: bool
    source: str | None = None

    @property
    def known(self) -> str:
        """How the bytes are known, in words."""
        return self.source or ("measured" if self.measured else "worked out")


@dataclasses.dataclass(frozen=True)
class CountComparison:
    """A method against no removal, or against as many random examples left out, in test accuracy and in pairs over trials.

    Attributes:
        method: Title of the score.
        removed: How many of the worst were left out; None for the count that each trial chose on validation examples.
        comparison: The difference in test accuracy.
    """

    method: str
    removed: int | None
    comparison: Comparison


@dataclasses.dataclass(frozen=True)
class ReadOff:
    """A published test accuracy that was read off a figure.

    Attributes:
        what: The method, as its source calls it.
        removed: How many examples were removed there, in words where the figure does not say exactly.
        accuracy: Fraction of test examples predicted right, as far as a figure can be read.
        source: The figure.
        known: How it is known.
    """

    what: str
    removed: str
    accuracy: float
    source: str
    known: Known = "read off a figure"


@dataclasses.dataclass(frozen=True, eq=False)
class CleansingStudy:
    """A study of cleansing: its settings, trainings and conclusions.

    Attributes:
        name: Name of the study.
        settings: How it was made, as plain values.
        facts: Data, net, machine and the like, for people.
        trained: Every training: of each trial one of `no removal`, and one of each method and of `random` for each count.
        chosen: The count that each method chose in each trial.
        storage: What each method needs on disk.
        contests: Comparisons with no removal and with random removal.
        published: Published numbers on these data, read off figures.
        notes: What could not be trained or tested, and why; a sentence each.
        claims: How many comparisons were tested; their p-values are corrected together for that number.
        deviations: Where the study does other things than its sources, a sentence each.
    """

    name: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    trained: tuple[Cleansed, ...]
    chosen: tuple[ChosenCount, ...]
    storage: tuple[Storage, ...] = ()
    contests: tuple[CountComparison, ...] = ()
    published: tuple[ReadOff, ...] = ()
    notes: tuple[str, ...] = ()
    claims: int = 0
    deviations: tuple[str, ...] = ()

    def __post_init__(self):
        """Refuse a study with missing trainings.

        Raises:
            UsageError: A trial lacks a training that others have, or a choice is of no count that was trained.
        """
        cells = {(one.method, one.removed) for one in self.trained}
        held = {(one.method, one.removed, one.seed) for one in self.trained}
        for method, removed in sorted(cells | {(method, count) for method in (*self.methods, RANDOM) for count in self.counts}):
            if absent := [seed for seed in self.seeds if (method, removed, seed) not in held]:
                raise UsageError(f"The training of {method} without {removed} examples is missing in trial {absent[0]}.")
        if len(held) < len(self.trained):
            raise UsageError("A training is there twice.")
        for one in self.chosen:
            if (one.method if one.removed else NO_REMOVAL, one.removed, one.seed) not in held:
                raise UsageError(f"{one.method} chose {one.removed} in trial {one.seed}, a count without a training.")

    @property
    def methods(self) -> tuple[str, ...]:
        """Titles of the scores, in the order in which they were asked for."""
        return tuple(dict.fromkeys(one.method for one in self.trained if one.method not in (NO_REMOVAL, RANDOM)))

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of examples that were left out, rising, without 0."""
        return tuple(sorted({one.removed for one in self.trained if one.method != NO_REMOVAL}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The trials."""
        return tuple(sorted({one.seed for one in self.trained}))

    def of(self, method: str, removed: int) -> list[Cleansed]:
        """The trainings of one method and count, by trial; for 0 those from which nothing was left out."""
        wanted = (method, removed) if removed else (NO_REMOVAL, 0)
        return sorted((one for one in self.trained if (one.method, one.removed) == wanted), key=lambda one: one.seed)

    def at_choice(self, method: str) -> list[Cleansed]:
        """The training with the count that the method chose, by trial."""
        by_seed = {one.seed: one.removed for one in self.chosen if one.method == method}
        return [next(each for each in self.of(method, by_seed[seed]) if each.seed == seed) for seed in sorted(by_seed)]

    @property
    def summary(self) -> list[dict[str, object]]:
        """Rows of the summary table, with the columns `SUMMARY`: every training, then mean and standard deviation (n - 1) over trials.

        Only a training's own row has a seed; only rows of means say `mean`, and rows of deviations `std`. A deviation of one trial is empty.
        """
        rows: list[dict[str, object]] = []
        groups = dict.fromkeys((one.method, one.removed) for one in self.trained)
        shared = dict.fromkeys(SUMMARY, "")
        for method, removed in groups:
            for one in self.of(method, removed):
                values = {column: getattr(one, field) for column, field in MEASURES.items()}
                rows.append({**shared, **values, "method": method, "seed": one.seed, "n_drops": removed})
        for what, function in (("mean", statistics.fmean), ("std", _deviation)):
            for method, removed in groups:
                found = self.of(method, removed)
                values = {column: function([getattr(one, field) for one in found]) for column, field in MEASURES.items()}
                rows.append({**shared, **values, "method": method, "n_drops": removed, what: what})
        return rows

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings in words."""
        said = []
        by = self.settings.get("chosen_by", "loss")
        trials = f"{len(self.seeds)} {'trial' if len(self.seeds) == 1 else 'trials'}"
        none = statistics.fmean(one.test_accuracy for one in self.of(NO_REMOVAL, 0))
        for method in self.methods:
            counts = [f"{one.removed:,}" for one in sorted(self.chosen, key=lambda one: one.seed) if one.method == method]
            found = statistics.fmean(one.test_accuracy for one in self.at_choice(method))
            said.append(
                f"By {method}, with the count chosen by validation {by} in each trial ({', '.join(counts)}), test accuracy is {100 * found:.2f} %, "
                f"against {100 * none:.2f} % with nothing removed (means over {trials})."
            )
            said += [one.comparison.sentence for one in self.contests if one.method == method and one.removed is None]
            at = [one for one in self.contests if one.method == method and one.removed is not None and one.comparison.significant]
            for baseline in dict.fromkeys(one.comparison.baseline for one in self.contests if one.removed is not None):
                here = [one for one in at if one.comparison.baseline == baseline]
                words = [
                    f"{word} at {', '.join(f'{one.removed:,}' for one in here if (one.comparison.effect > 0) == better)} removed"
                    for word, better in (("better", True), ("worse", False))
                    if any((one.comparison.effect > 0) == better for one in here)
                ]
                said.append(f"{method} against {baseline}: {' and '.join(words) or 'no significant difference at any count'}.")
        if self.claims:
            said.append(
                f"Significance is corrected (Holm) for all {self.claims} comparisons that this study tests. Intervals and p are over trials, by "
                "Student; all trials are judged by the same test examples, and others may tell otherwise."
            )
        return tuple(said)

    @property
    def fingerprint(self) -> str:
        """Hash over what every training measured and the choices; not over seconds."""
        measured = [dataclasses.replace(one, seconds=0.0) for one in self.trained]
        return fingerprint(self.name, repr(measured), repr(self.chosen))


def chosen_count(trained: Sequence[Cleansed], by: By, harmful: int | None) -> int:
    """The count that is best on validation examples, among the trainings of one method and trial; of equally good ones the smallest.

    Args:
        trained: Trainings with one count each, that of 0 among them.
        by: Whether the best has the least validation `loss` or the highest validation `accuracy`.
        harmful: Counts above this are not chosen, because they remove examples that are predicted to help; None for no such limit.

    Returns:
        One of the counts. A training whose loss is NaN is never better than another.
    """
    allowed = [one for one in trained if harmful is None or one.removed <= harmful]

    def badness(one: Cleansed) -> tuple[float, int]:
        value = one.validation_loss if by == "loss" else -one.validation_accuracy
        return (value if value == value else float("inf"), one.removed)

    return min(allowed, key=badness).removed


def _deviation(values: Sequence[float]) -> float | str:
    return statistics.stdev(values) if len(values) > 1 else ""
