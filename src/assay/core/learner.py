"""Learners: classifiers that are trained anew on some of the examples, many times over."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from . import options
from .errors import UsageError


@runtime_checkable
class Fitted(Protocol):
    """A trained classifier."""

    @property
    def remarks(self) -> Sequence[str]:
        """Remarks on the training, such as that it did not converge; one sentence each."""
        ...

    def predict_probs(self, rows: Float[Tensor, "examples dims"]) -> Float64[Tensor, "examples classes"]:
        """Probability of every class for each row; each row adds up to 1."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """Predicts the same probabilities for every row; used where the examples are of fewer than two classes.

    Attributes:
        probs: Probability of each class.
        remarks: Remarks on the training, as in `Fitted`.
    """

    probs: Float64[Tensor, " classes"]
    remarks: Sequence[str] = ()

    def predict_probs(self, rows: Float[Tensor, "examples dims"]) -> Float64[Tensor, "examples classes"]:
        """The same probabilities for each row."""
        return self.probs.expand(len(rows), -1).clone()


@dataclasses.dataclass(frozen=True, eq=False)
class _Spread:
    """A classifier of the classes that occur, as one of all classes: those that it never saw have probability 0."""

    inner: Fitted
    there: Int[Tensor, " present"]
    classes: int

    @property
    def remarks(self) -> Sequence[str]:
        return self.inner.remarks

    def predict_probs(self, rows: Float[Tensor, "examples dims"]) -> Float64[Tensor, "examples classes"]:
        probs = torch.zeros(len(rows), self.classes, dtype=torch.float64)
        probs[:, self.there] = self.inner.predict_probs(rows)
        return probs


@runtime_checkable
class Growing(Protocol):
    """Classifiers that are trained on coalitions which grow by an example at a time, without being trained anew.

    Each is the classifier that `AbstractLearner.fit` gives for its examples, to rounding or to the tolerance of its solver.
    """

    @property
    def remarks(self) -> Mapping[str, int]:
        """Remarks on the trainings, as in `Fitted`, with the number of trainings for each."""
        ...

    def add(self, places: Int[Tensor, " coalitions"]) -> None:
        """One more example to each coalition: its position among the rows."""
        ...

    def keep(self, kept: Bool[Tensor, " coalitions"]) -> None:
        """Go on with some of the coalitions only."""
        ...

    def predict_probs(self) -> Float64[Tensor, "coalitions queries classes"]:
        """Probabilities of the queries by the classifier of each coalition."""
        ...


class AbstractLearner(abc.ABC):
    """Trains a classifier on rows of numbers. Subclasses are final frozen dataclasses whose fields are the options.

    Training is a pure function: the same rows, labels, weights and seed give the same classifier, and no random state moves.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for the table of learners."""

    def __post_init__(self):
        """Refuse options of the wrong type. Subclasses check ranges after this.

        Raises:
            UsageError: An option is not what its type says.
        """
        options.coerce(self, "learner")

    def fit(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float[Tensor, " examples"] | Int[Tensor, " examples"] | None = None,
        seed: int = 0,
    ) -> Fitted:
        """Train a classifier.

        Args:
            rows: One row of finite numbers per example.
            labels: Class of each, in [0, classes).
            classes: How many classes there are, seen here or not.
            weights: How often each example counts, at least 0: 2 counts it twice, 0 leaves it out. All 1 by default.
            seed: Seed of all random draws of the training.

        Returns:
            The classifier. A class that no example has gets probability 0; if all examples are of one class, it is always predicted.

        Raises:
            UsageError: No example is left, or a weight is negative or not finite.
            AssayError: The training failed; the learner says why.
        """
        counts = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.to(torch.float64)
        if not bool((counts.isfinite() & (counts >= 0)).all()):
            raise UsageError(f"{self.title}: a weight is negative or not finite; give weights of at least 0.")
        kept = counts > 0
        if not bool(kept.any()):
            raise UsageError(f"{self.title}: there is no example to learn from; give at least one with a weight above 0.")
        there, places = labels[kept].unique(return_inverse=True)
        if len(there) == 1:
            return Constant(torch.nn.functional.one_hot(there[0], classes).to(torch.float64))
        with torch.no_grad():
            inner = self.train(rows[kept], places, len(there), counts[kept], seed)
        return inner if len(there) == classes else _Spread(inner, there, classes)

    @abc.abstractmethod
    def train(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, " examples"],
        seed: int,
    ) -> Fitted:
        """Train, with at least two classes, all of which occur, and all weights above 0; the arguments are otherwise those of `fit`."""

    def train_many(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, "coalitions examples"],
        seeds: Sequence[int],
        queries: Float[Tensor, "queries dims"],
    ) -> tuple[Float64[Tensor, "coalitions queries classes"], Sequence[Sequence[str]]] | None:
        """Probabilities of the queries by the classifier that `fit` gives for each row of weights, trained side by side.

        Args:
            rows: As `fit` takes them.
            labels: As `fit` takes them.
            classes: As `fit` takes them.
            weights: How often each example counts in each coalition, each with examples of at least two classes.
            seeds: Seed of each training.
            queries: Rows to predict.

        Returns:
            The probabilities and the remarks on each training; None where the learner has no form for it, which by default it has not.
        """
        return None

    def grow(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        coalitions: int,
        queries: Float[Tensor, "queries dims"],
    ) -> Growing | None:
        """Empty coalitions that grow; None where the learner has no form for it, which by default it has not."""
        return None

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `knn:k=3`."""
        return options.join(self.name, options.changed(self)).replace(",", "+")


def repeated(
    rows: Float[Tensor, "examples dims"], labels: Int[Tensor, " examples"], weights: Float64[Tensor, " examples"]
) -> tuple[Float[Tensor, "more dims"], Int[Tensor, " more"]] | None:
    """Each example as often as its weight says; None where a weight is no whole number."""
    if bool((weights != weights.round()).any()):
        return None
    often = weights.to(torch.int64)
    return rows.repeat_interleave(often, 0), labels.repeat_interleave(often)


def magnitude(rows: Float[Tensor, "examples dims"]) -> Float64[Tensor, " dims"]:
    """The largest power of 2 that is no larger than the largest number of each column, so that dividing by it does not round; 1 for columns of zeros."""
    largest = rows.to(torch.float64).abs().amax(0)
    return torch.where(largest > 0, largest / (2 * largest.frexp().mantissa.where(largest > 0, 1.0)), 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """Standardisation: each column minus its mean, divided by its standard deviation; constant columns become 0.

    Attributes:
        mean: Mean of each column.
        factor: Factor by which each column is then multiplied.
    """

    mean: Float64[Tensor, " dims"]
    factor: Float64[Tensor, " dims"]

    @classmethod
    def of(cls, rows: Float[Tensor, "examples dims"], weights: Float64[Tensor, " examples"]) -> "Scale":
        """The scale computed from these rows and their weights."""
        rows, share = rows.to(torch.float64), (weights / weights.sum())[:, None]
        mean = (rows * share).sum(0)
        # Of very large or small numbers the square would be infinite or 0, and the column look constant.
        unit = magnitude(rows)
        deviation = ((rows - mean) / unit).square().mul(share).sum(0).sqrt() * unit
        # Rounding leaves a deviation to columns that are constant.
        constant = deviation <= 1e-12 * rows.abs().amax(0)
        return cls(mean, torch.where(constant, 0.0, 1 / deviation.where(~constant, 1.0)))

    def __call__(self, rows: Float[Tensor, "examples dims"]) -> Float64[Tensor, "examples dims"]:
        """Rows on this scale."""
        return (rows.to(torch.float64) - self.mean) * self.factor
