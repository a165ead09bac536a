"""Margins between outputs. Pure functions on tensors."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def label_margin(
    outputs: Float[Tensor, "*batch examples classes"], labels: Int[Tensor, " examples"]
) -> Float[Tensor, "*batch examples"]:
    """Output of the given class minus the best other class, in the unit of `outputs`; 0 is a tie, below 0 is wrong.

    The given class is masked with -inf, not with 0: logits of the other classes may all be negative.

    Returns:
        One per example.
    """
    index = labels.to(torch.int64).expand(outputs.shape[:-1]).unsqueeze(-1)
    given = outputs.gather(-1, index).squeeze(-1)
    other = outputs.scatter(-1, index, -float("inf")).amax(-1)
    return given - other


def top_two(outputs: Float[Tensor, "*batch classes"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """The largest and the second largest output; equal at a tie."""
    best = outputs.topk(2, dim=-1).values
    return best[..., 0], best[..., 1]


def log_odds_derivative(
    outputs: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]
) -> Float[Tensor, "examples classes"]:
    """Derivative of log p - log(1 - p) with respect to logits, where p is the softmax probability of the given class.

    The log odds are the logit of the given class minus the logarithm of the summed exponentials of the others, which has no 0 to divide by
    however certain the model is.

    Returns:
        1 for the given class, for the others minus their softmax among themselves.
    """
    index = labels.to(torch.int64).unsqueeze(-1)
    others = outputs.scatter(-1, index, -float("inf")).softmax(-1)
    return -others.scatter(-1, index, -1.0)
