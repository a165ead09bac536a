"""Curves: how accuracy and loss of the model change when more and more of the worst examples are left out."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from .arguments import checked_fields
from .errors import UsageError
from .lineage import Lineage, fingerprint

NONE, WORST, RANDOM = "none", "worst", "random"
"""The three arms: nothing left out; the worst by score; as many at random."""

By = Literal["loss", "accuracy"]
"""Which number on the validation examples chooses the count."""


@dataclasses.dataclass(frozen=True)
class Removal:
    """One training without some examples: what it scored on validation and on test examples.

    Attributes:
        arm: Which examples were left out: `none`, the `worst`, or `random` ones.
        count: How many examples were left out.
        seed: In the random arm the seed of the draw; in the others the run's seed. All arms have the start and the order of the run's seed.
        validation_accuracy: Fraction of validation examples predicted right after the last step.
        validation_loss: Mean cross-entropy on the validation examples, in nats.
        test_accuracy: Fraction of test examples predicted right; never used to choose.
        test_loss: Mean cross-entropy on the test examples, in nats; never used to choose.
        seconds: How long the training took.
    """

    arm: str
    count: int
    seed: int
    validation_accuracy: float
    validation_loss: float
    test_accuracy: float
    test_loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
@checked_fields
class Curve:
    """Accuracy and loss against how many of the worst examples are left out.

    Attributes:
        scores: Title of the score that says which are the worst.
        retrained: Which epochs were trained again: the `last` one, or `all`.
        removals: Every training: one of arm `none`, one of arm `worst` for each count, several of arm `random` for each.
        best: The count chosen on validation data; 0 = remove nothing.
        chosen_by: Criterion by which `best` was chosen: validation `loss` or `accuracy`.
        lineage: Where the curve comes from.
    """

    scores: str
    retrained: str
    removals: tuple[Removal, ...]
    best: int
    chosen_by: str
    lineage: Lineage | None = None

    def __post_init__(self):
        if sum(one.arm == NONE for one in self.removals) != 1:
            raise UsageError(f"A curve of {self.scores} needs exactly one training in which nothing is left out.")
        if alone := [count for count in self.counts if not self.random(count)]:
            raise UsageError(f"A curve of {self.scores} needs random removals of {alone[0]} examples too.")
        if self.best not in (0, *self.counts):
            raise UsageError(f"best={self.best} is not one of the counts of this curve: 0, {', '.join(map(str, self.counts))}.")

    def __repr__(self) -> str:
        return f"Curve({self.scores}, {self.retrained} retrained: {len(self.removals)} trainings, best count {self.best:,})"

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of worst examples that were left out, rising."""
        return tuple(sorted(one.count for one in self.removals if one.arm == WORST))

    @property
    def none(self) -> Removal:
        """The training in which nothing was left out."""
        return next(one for one in self.removals if one.arm == NONE)

    def worst(self, count: int) -> Removal:
        """The training without the `count` worst examples; for 0 the training in which nothing was left out.

        Returns:
            The training of arm `worst`, or for 0 of arm `none`.

        Raises:
            UsageError: The curve has no such count.
        """
        found = [one for one in self.removals if one.arm == (WORST if count else NONE) and one.count == count]
        if not found:
            raise UsageError(f"The curve of {self.scores} has no count {count}; it has {', '.join(map(str, self.counts))}.")
        return found[0]

    def random(self, count: int) -> tuple[Removal, ...]:
        """The trainings without `count` random examples, by seed."""
        found = [one for one in self.removals if one.arm == RANDOM and one.count == count]
        return tuple(sorted(found, key=lambda one: one.seed))

    @property
    def sentence(self) -> str:
        """The choice in words; it says so if no example should be removed."""
        field = f"validation_{self.chosen_by}"
        kept = _worded(field, [self.none])
        if not self.best:
            return f"No count is better than removing nothing, by validation {self.chosen_by} ({kept} with nothing removed)."
        worst, drawn = self.worst(self.best), self.random(self.best)
        test = [_worded("test_accuracy", group) for group in ([worst], [self.none], drawn)]
        warned = (
            f" On the test examples this count is worse than removing nothing ({test[0]} against {test[1]})."
            if self.misled
            else ""
        )
        return (
            f"By validation {self.chosen_by} the best count is {self.best:,}: {_worded(field, [worst])}, against {kept} with nothing removed "
            f"and {_worded(field, drawn)} with as many random examples removed. Test accuracy: {test[0]}, {test[1]} and {test[2]}.{warned}"
        )

    @property
    def misled(self) -> bool:
        """Whether the chosen count gives a lower test accuracy than removing nothing. The choice is not changed by this."""
        return self.worst(self.best).test_accuracy < self.none.test_accuracy

    @property
    def fingerprint(self) -> str:
        """Hash over what every training measured and the choice; not over seconds."""
        measured = [dataclasses.replace(one, seconds=0.0) for one in self.removals]
        return fingerprint(self.scores, self.retrained, self.chosen_by, str(self.best), repr(measured))


def best_count(removals: Iterable[Removal], by: By) -> int:
    """How many of the worst to remove: the count that is best on validation data, 0 if none is better than removing nothing.

    Of equally good counts the smallest is taken. Test examples are not used.

    Returns:
        A count that the curve has, at least 0.
    """
    tried = [one for one in removals if one.arm in (NONE, WORST)]
    return min((one.validation_loss if by == "loss" else -one.validation_accuracy, one.count) for one in tried)[1]


def _worded(field: str, removals: Sequence[Removal]) -> str:
    mean = sum(getattr(one, field) for one in removals) / len(removals)
    return f"{100 * mean:.2f} %" if field.endswith("accuracy") else f"{mean:.4f}"
