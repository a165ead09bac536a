"""Saved probabilities as logits: what their logarithm keeps, and how 0 is counted."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TOLERANCE = 1e-3
"""How far a row of probabilities may be from adding up to 1: what half precision and a few printed digits come to."""
FLOOR = 1e-7
"""The largest number that a probability of 0 counts as."""


def log_probs(
    probs: Float[Tensor, "examples classes"],
) -> tuple[Float[Tensor, "examples classes"], float, Bool[Tensor, " examples"]]:
    """Natural logarithms of probabilities, which are logits of the same softmax.

    Of any logits z, log p = z - log sum exp z: each row is moved by one number, which no margin between two classes, no loss and no softmax feels.
    A probability of 0 counts as half the smallest one above 0, and at most as 1e-7, so that it stays below all others. What is above 0 stays as it is.

    Args:
        probs: At least 0; rows may miss 1 by rounding, which the softmax takes back.

    Returns:
        The logarithms; the number that a 0 counts as (0 if there is none); and which examples have a 0.
    """
    zero = probs == 0
    if not bool(zero.any()):
        return probs.log(), 0.0, zero.any(-1)
    floor = min(FLOOR, float(probs[~zero].min()) / 2)
    # Half of the smallest number that there is would be 0 again.
    floor = max(floor, torch.finfo(probs.dtype).tiny)
    return probs.masked_fill(zero, floor).log(), floor, zero.any(-1)


def are_probs(rows: Float[Tensor, "examples classes"]) -> Bool[Tensor, " examples"]:
    """Which rows can be probabilities: nothing below 0, and a sum of 1 within `TOLERANCE`."""
    return (rows >= 0).all(-1) & ((rows.sum(-1) - 1).abs() <= TOLERANCE)
