"""Planted label noise: labels made wrong on purpose, with the true ones kept aside. No method or policy sees them; they only judge scores and
decisions.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..maths import draws
from .examples import Examples

Kind = Literal["uniform", "pair", "class"]


@dataclasses.dataclass(frozen=True, eq=False)
class Planted:
    """Examples whose given labels are partly wrong, with their true labels.

    Attributes:
        examples: The examples under their given labels. Only these may be trained on.
        true_labels: True class of each, in the same order.
        mask: Which given labels are wrong.
    """

    examples: Examples
    true_labels: Int[Tensor, " examples"]
    mask: Bool[Tensor, " examples"]

    @property
    def count(self) -> int:
        """How many given labels are wrong."""
        return int(self.mask.sum())


def plant(
    examples: Examples,
    kind: Kind = "uniform",
    rate: float | None = None,
    seed: int = 0,
    matrix: Float64[Tensor, "classes classes"] | Sequence[Sequence[float]] | None = None,
) -> Planted:
    """Flip labels at random. Which labels are flipped, and to which class, depends on (seed, id, label) only, not on the order of the examples.

    `uniform`: exactly round(rate * examples) of them move to another class, every other class equally likely.
    `pair`: as many move from class c to (c + 1) mod classes.
    `class`: every example draws its given label from the row of its true label in `matrix`; the number of flips is random.

    Args:
        examples: Their labels are taken as true.
        kind: See above.
        rate: Fraction flipped, in 0..1, for `uniform` and `pair`.
        seed: Random seed of the draws; under one seed, a smaller rate flips a subset of what a larger rate flips.
        matrix: For `class`: entry [i, j] is the probability of given label j under true label i; rows sum to 1.

    Raises:
        UsageError: `rate` or `matrix` is missing, out of range, or given to a kind that does not take it.
    """
    truth = examples.labels.to(torch.int64)
    flipped = flipped_labels(truth, examples.classes, examples.ids.keys, kind, rate, seed, matrix)
    return Planted(examples.with_labels(flipped), truth, flipped != truth)


def flipped_labels(
    truth: Int[Tensor, " examples"],
    classes: int,
    keys: np.ndarray,
    kind: Kind,
    rate: float | None,
    seed: int,
    matrix: Float64[Tensor, "classes classes"] | Sequence[Sequence[float]] | None = None,
) -> Int[Tensor, " examples"]:
    """Labels of which some are flipped, as `plant` does it; keys are those of the ids.

    Raises:
        UsageError: As `plant`.
    """
    if kind == "class":
        if rate is not None or matrix is None:
            raise UsageError("Flips of kind 'class' take a matrix and no rate: the matrix says how often each class is flipped.")
        cumulative = _transitions(matrix, classes).cumsum(1)
        # Dividing by the last entry makes it 1 exactly, above every draw; classes of chance 0 are still never drawn.
        cumulative = cumulative / cumulative[:, -1:]
        drawn = draws.uniform(keys, seed, "class flips")
        flipped = (drawn[:, None] >= cumulative[truth]).sum(1)
    elif kind in ("uniform", "pair"):
        if matrix is not None or rate is None:
            raise UsageError(f"Flips of kind {kind!r} take a rate and no matrix.")
        if not 0 <= rate <= 1:
            raise UsageError(f"rate={rate} is outside 0..1; it is the fraction of labels to flip.")
        if classes < 2:
            raise UsageError("There is only one class, so no label can be flipped. Give examples of at least two classes.")
        chosen = draws.permutation(keys, seed, "which labels flip")[: round(rate * len(truth))]
        shift = draws.integers(keys, classes - 1, seed, "flip to") + 1 if kind == "uniform" else torch.ones_like(truth)
        flipped = truth.clone()
        flipped[chosen] = (truth + shift)[chosen] % classes
    else:
        raise UsageError(f"No kind of flips is named {kind!r}. Known: class, pair, uniform.")
    return flipped


def extra_class(
    labels: Int[Tensor, " examples"], classes: int, keys: np.ndarray, rate: float, seed: int
) -> Int[Tensor, " examples"]:
    """Labels of which round(rate * examples), drawn by (seed, id), have the class `classes`, which no example truly has: AUM's threshold examples.

    Raises:
        UsageError: `rate` is out of range.
    """
    if not 0 <= rate <= 1:
        raise UsageError(f"rate={rate} is outside 0..1; it is the fraction of labels that get an extra class.")
    changed = labels.clone()
    changed[draws.permutation(keys, seed, "threshold examples")[: round(rate * len(labels))]] = classes
    return changed


def _transitions(matrix: Tensor | Sequence[Sequence[float]], classes: int) -> Float64[Tensor, "classes classes"]:
    try:
        chances = torch.as_tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The transition matrix cannot be read as numbers ({error}).") from error
    if chances.shape != (classes, classes):
        raise UsageError(f"The transition matrix has shape {tuple(chances.shape)}; give {classes} rows of {classes} chances.")
    for row, values in enumerate(chances):
        if not bool((values >= 0).all()) or not abs(float(values.sum()) - 1) <= 1e-6:
            raise UsageError(f"Row {row} of the transition matrix is {values.tolist()}; chances are at least 0 and sum to 1.")
    return chances
