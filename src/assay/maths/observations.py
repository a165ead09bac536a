"""What one forward pass says of each example: the facts that a run keeps instead of its logits."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .divergences import error_norm
from .margins import label_margin, top_two


def observe(logits: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]) -> dict[str, Tensor]:
    """Facts per example, keyed as in `core.evidence.Need`, in the precision of `logits` and at least float32.

    Half precision would round the probability of an easy example to 1 and lose how it moves.

    Returns:
        target_probs: softmax probability of the given label.
        margins: logit of the given label minus the best other logit.
        losses: cross-entropy, nats.
        correct: whether the first of the largest logits is the given label.
        entropies: -sum p ln p, nats.
        error_norms: Euclidean distance from p to the one-hot label.
        top_probs, second_probs: the two largest probabilities.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(torch.int64)
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    losses = F.nll_loss(log_probs, labels, reduction="none")
    top, second = top_two(probs)
    return {
        "target_probs": torch.exp(-losses),
        "margins": label_margin(logits, labels),
        "losses": losses,
        "correct": logits.argmax(-1) == labels,
        "entropies": -(probs * log_probs).sum(-1),
        "error_norms": error_norm(probs, labels),
        "top_probs": top,
        "second_probs": second,
    }
