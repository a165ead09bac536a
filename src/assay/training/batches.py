"""Which examples each step sees: the order of an epoch and its cut into batches. Depends on ids and seed, never on position."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError
from ..maths import draws
from .recipe import Recipe

Prepare = Callable[[Tensor], Tensor]
"""Turns a batch of stored inputs (uint8 images, say) into what the net takes."""

Augment = Callable[..., Tensor]
"""`augment(batch_inputs, keys, epoch=, step=)`: changes a batch before it is prepared; `keys` are the batch's `Ids.keys`."""


def order(keys: np.ndarray, seed: int, epoch: int) -> Int[Tensor, " examples"]:
    """Positions in the order in which an epoch visits them."""
    return draws.permutation(keys, seed, "order", epoch)


def sizes(examples: int, batch: int, ragged: str) -> tuple[int, ...]:
    """How many examples each step of an epoch sees.

    keep: the last batch holds what is left. drop: what is left is not visited this epoch. even: as many batches as with
    `keep`, whose sizes differ by at most one, larger ones first.

    Raises:
        UsageError: There would be no step at all.
    """
    if examples == 0:
        raise UsageError("There are no examples to train on.")
    full, left = divmod(examples, batch)
    if ragged == "drop":
        if not full:
            raise UsageError(
                f"{examples} examples do not fill one batch of {batch}, and ragged='drop' drops the rest; "
                "use a smaller batch, or ragged='keep'."
            )
        return (batch,) * full
    count = full + (left > 0)
    if ragged == "even":
        low, larger = divmod(examples, count)
        return (low + 1,) * larger + (low,) * (count - larger)
    return (batch,) * full + ((left,) if left else ())


def batches(keys: np.ndarray, recipe: Recipe, epoch: int) -> tuple[Int[Tensor, " batch"], ...]:
    """The positions that each step of an epoch sees."""
    cut = sizes(len(keys), recipe.batch, recipe.ragged)
    return order(keys, recipe.seed, epoch)[: sum(cut)].split(list(cut))
