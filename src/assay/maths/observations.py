"""Facts of each example from one forward pass, which a run keeps instead of the logits."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .margins import label_margin, top_two


def observe(logits: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]) -> dict[str, Tensor]:
    """Facts per example, keyed as in `core.needs.Need`, in the precision of `logits` and at least float32.

    Half precision would round the probability of an easy example to 1 and lose how it moves. Losses, entropies and error norms of examples
    whose probability rounds to 1 keep their relative precision. A logit of -inf, as of a masked class, is a probability of 0.

    Returns:
        target_probs: softmax probability of the given label.
        margins: logit of the given label minus the best other logit.
        losses: cross-entropy, nats; above 0: one that rounds to 0 is the smallest number above it.
        correct: whether the first of the largest logits is the given label.
        entropies: -sum p ln p, nats.
        error_norms: Euclidean distance from p to the one-hot label.
        top_probs, second_probs: the two largest probabilities.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    index = labels.to(torch.int64).unsqueeze(-1)
    best = logits.argmax(-1, keepdim=True)
    below = logits - logits.gather(-1, best)
    shares = below.exp()
    # What the best class leaves over is summed without its 1, in which it would be lost.
    rest = shares.scatter(-1, best, 0).sum(-1)
    total = torch.log1p(rest)
    losses = total - below.gather(-1, index).squeeze(-1)
    # No logits that are finite make a loss of 0: it only rounds to it.
    losses = torch.where(losses == 0, torch.nextafter(losses, torch.ones_like(losses)), losses)
    probs = shares / (1 + rest).unsqueeze(-1)
    top, second = top_two(probs)
    return {
        "target_probs": torch.exp(-losses),
        "margins": label_margin(logits, labels),
        "losses": losses,
        "correct": best.squeeze(-1) == labels,
        # A masked class has a logit of -inf and adds nothing.
        "entropies": total - (probs * below.masked_fill(probs == 0, 0)).sum(-1),
        "error_norms": torch.linalg.vector_norm(probs.scatter(-1, index, torch.expm1(-losses).unsqueeze(-1)), dim=-1),
        "top_probs": top,
        "second_probs": second,
    }


def two_classes(
    logits: Float[Tensor, " examples"] | Float[Tensor, "examples 1"],
) -> Float[Tensor, "examples 2"]:
    """The logits (0, z) of a binary model with one logit z: the softmax of class 1 is the sigmoid of z, and cross-entropies are those of z."""
    column = logits.reshape(-1, 1)
    return torch.cat([torch.zeros_like(column), column], 1)


def faults(
    logits: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]
) -> list[tuple[Bool[Tensor, " examples"], str, str]]:
    """Kinds of logits from which no facts can be computed, with the examples that have them and what to do. Empty if there are none.

    A class may be masked by a logit of -inf, as long as the label's and one more are not.

    Returns:
        (mask, what they are, cure) for each kind of fault that is there.
    """
    if bool(logits.isfinite().all()):
        return []
    masked = logits == -torch.inf
    own = masked.gather(-1, labels.to(torch.int64).unsqueeze(-1)).squeeze(-1)
    found = [
        (
            (logits.isnan() | (logits == torch.inf)).any(-1),
            "are NaN or infinite",
            "Lower the learning rate or mend these inputs",
        ),
        (own, "are -inf for the given label: the class is masked", "Do not mask the class of the label, or correct the label"),
        (
            (~masked).sum(-1) < 2,
            "are -inf for every class but the label, so that no margin is finite",
            "Mask with a number such as -1e4, or leave a second class",
        ),
    ]
    return [fault for fault in found if bool(fault[0].any())]
