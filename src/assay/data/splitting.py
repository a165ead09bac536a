"""Choose parts of a training set: a test part where the dataset has none, a validation part, or the subset that is used at all."""

import fractions

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.ids import Ids
from ..maths import draws


def held_out(
    ids: Ids, labels: Int[Tensor, " examples"], fraction: float, seed: int, part: str = "test"
) -> Bool[Tensor, " examples"]:
    """Which examples form the test (or validation) part: the same fraction of every class, drawn by id.

    Every class gives floor(fraction * size); the rest, up to round(fraction * examples), comes from the classes with the
    largest remainders. At least one example of every class stays for training. The order of the examples does not enter.

    Raises:
        UsageError: `fraction` is outside (0, 1), or leaves that part empty.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"{part}={fraction} is outside 0..1; it is the fraction of the examples that are set aside.")
    present, sizes = np.unique(labels.numpy(), return_counts=True)
    quota = fraction * sizes
    take = np.minimum(np.floor(quota), sizes - 1).astype(np.int64)
    missing = round(fraction * len(ids)) - int(take.sum())
    for place in np.argsort(take - quota, kind="stable"):
        if missing > 0 and take[place] + 1 < sizes[place]:
            take[place] += 1
            missing -= 1
    if sizes.max() == 1:
        raise UsageError(
            f"{part}={fraction}: each of the {len(ids)} examples has a class of its own, so that none can be set aside and its class stay in "
            "training. Give as labels what several examples share, such as ranges of a number."
        )
    if not take.sum():
        raise UsageError(f"{part}={fraction} of {len(ids)} examples leaves the {part} part empty. Give a larger fraction.")
    mask = torch.zeros(len(ids), dtype=torch.bool)
    shuffled = draws.permutation(ids.keys, seed, f"{part} part")
    for label, count in zip(present.tolist(), take.tolist(), strict=True):
        mask[shuffled[labels[shuffled] == label][:count]] = True
    return mask


def subset(ids: Ids, labels: Int[Tensor, " examples"], fraction: float, seed: int) -> Bool[Tensor, " examples"]:
    """Which examples form a random subset: floor(fraction * size) of every class, at least one, drawn by id.

    A smaller subset is part of a larger one under the same seed. The order of the examples does not enter.

    Raises:
        UsageError: `fraction` is outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"subset={fraction} is outside 0..1, 0 excluded; it is the fraction of the examples that take part.")
    # Of the digits that were written: 0.7 * 45000 is 31499.999... to a computer.
    part = fractions.Fraction(repr(float(fraction)))
    mask = torch.zeros(len(ids), dtype=torch.bool)
    shuffled = draws.permutation(ids.keys, seed, "subset")
    for label in labels.unique().tolist():
        members = shuffled[labels[shuffled] == label]
        mask[members[: max(1, len(members) * part.numerator // part.denominator)]] = True
    return mask


def folds_of(ids: Ids, labels: Int[Tensor, " examples"], folds: int, seed: int) -> Int[Tensor, " examples"]:
    """The fold of each example, from 0: of every class, and of all, the same number in each fold or one more, drawn by id.

    The order of the examples does not enter.

    Raises:
        UsageError: There are fewer than 2 folds, or more than examples.
    """
    if not 2 <= folds <= len(ids):
        raise UsageError(f"folds={folds} is outside 2..{len(ids)}; it is into how many parts {len(ids)} examples are split.")
    found = torch.empty(len(ids), dtype=torch.int64)
    shuffled = draws.permutation(ids.keys, seed, "folds")
    placed = 0
    for label in labels.unique().tolist():
        members = shuffled[labels[shuffled] == label]
        # One class goes on where the one before ended, so that rests do not all come to the first folds.
        found[members] = (placed + torch.arange(len(members))) % folds
        placed += len(members)
    return found
