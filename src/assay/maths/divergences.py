"""How far probabilities stand from a label, or from the probabilities of the epoch before."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def error_norm(
    probs: Float[Tensor, "*batch examples classes"], labels: Int[Tensor, " examples"]
) -> Float[Tensor, "*batch examples"]:
    """Euclidean distance from `probs` to the one-hot label; in [0, sqrt 2]."""
    return torch.linalg.vector_norm(probs - F.one_hot(labels.to(torch.int64), probs.shape[-1]).to(probs.dtype), dim=-1)


def weighted_change(
    probs: Float[Tensor, "*batch classes"], change: Float[Tensor, "*batch classes"], *, absolute: bool
) -> Float[Tensor, "*batch"]:
    """Sum over classes of probs * change, or of |probs * change| if `absolute`. Overwrites `change`.

    If `change` is the change of the log probabilities since the epoch before, the sum without absolute values is the KL divergence.

    Returns:
        In the unit of `change`; with absolute terms at least 0.
    """
    terms = change.mul_(probs)
    return (terms.abs_() if absolute else terms).sum(-1)
