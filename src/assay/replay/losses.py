"""The loss of each example of a batch, and the logits and labels that it is made of: of pairs of tensors, or by a user's function."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.arguments import described
from ..core.errors import UsageError, listed

Losses = Callable[[nn.Module, Any], Tensor]
"""`losses(model, batch)`: the loss of each example of a batch, (batch,)."""
Forward = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
"""`forward(model, batch)`: logits, (batch, classes), and the class of each example, (batch,)."""


def cross_entropies(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of each example of a batch `(inputs, labels)`, in nats.

    Raises:
        UsageError: The batch is something else.
    """
    inputs, labels = pair(batch)
    return _cross_entropy(logits_alone(model(inputs)), labels)


def logits_alone(output: Any) -> Tensor:
    """What a model returned, if it is a tensor.

    Raises:
        UsageError: It is something else, as the outputs of Hugging Face's models are.
    """
    if isinstance(output, Tensor):
        return output
    named = [name for name in ("logits", "scores", "out") if isinstance(getattr(output, name, None), Tensor)]
    if named or not isinstance(output, (tuple, list, dict)):
        part = f".{(named or ['logits'])[0]}"
    else:
        part = f"[{next(iter(output), 'logits')!r}]" if isinstance(output, dict) else "[0]"
    raise UsageError(
        f"The model returns a {type(output).__name__}, no tensor of logits; give forward=lambda model, batch: (model(batch[0]){part}, batch[1]) to "
        "assay.Loop, or to assay.DataSpec while recording."
    )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if isinstance(logits, Tensor) and (logits.ndim < 2 or logits.shape[1] == 1):
        # torch would give 0, whatever the output is.
        raise UsageError(
            f"The model returns {tuple(logits.shape)}, one number for each example, of which there is no cross-entropy of classes; give losses=, a "
            "function (model, batch) that returns the loss of each example as your loop has it."
        )
    if isinstance(labels, Tensor) and labels.is_floating_point() and not torch._C._functorch.is_functorch_wrapped_tensor(labels):
        sums = labels.detach().sum(1) if labels.ndim > 1 else labels.detach()
        if labels.ndim < 2 or bool((labels < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
            # torch would give a number of them too.
            raise UsageError(
                f"Labels of {labels.dtype} and shape {tuple(labels.shape)} are no classes and no probabilities of classes, so there is no cross-entropy of them; "
                "give losses=, a function (model, batch) that returns the loss of each example as your loop has it."
            )
    return F.cross_entropy(logits, labels, reduction="none")


def token_losses(
    logits: Float[Tensor, "batch *tokens classes"],
    labels: Int[Tensor, "batch *tokens"],
    ignore_index: int = -100,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, " batch"]:
    """One loss for each sequence: the cross-entropy of its tokens, in nats, over those that count. At least 0.

    Of a causal language model give `logits[:, :-1]` and `labels[:, 1:]`; of pictures whose every pixel has a class `logits.movedim(1, -1)`. A loss over
    a batch that is the mean over all its tokens is the sum of the losses with `reduction="sum"`, divided by the number of tokens that count: give that
    to `Loop` as `reduction=`.

    Args:
        logits: One row of class logits for each token.
        labels: The class of each token.
        ignore_index: The label of tokens that do not count, such as padding.
        reduction: The mean over the tokens that count, or their sum.

    Raises:
        UsageError: Shapes do not fit, or a sequence has no token that counts, so that there is no mean.
    """
    if (
        not isinstance(logits, Tensor)
        or not isinstance(labels, Tensor)
        or labels.is_floating_point()
        or labels.dtype == torch.bool
    ):
        kinds = [str(part.dtype) if isinstance(part, Tensor) else type(part).__name__ for part in (logits, labels)]
        raise UsageError(
            f"token_losses: logits are {kinds[0]} and labels {kinds[1]}; give a tensor of logits and one of whole numbers, the class of each token."
        )
    if labels.ndim < 2 or logits.shape[:-1] != labels.shape:
        raise UsageError(
            f"token_losses: logits of shape {tuple(logits.shape)} do not fit labels of shape {tuple(labels.shape)}; give (batch, tokens, classes) "
            "and (batch, tokens)."
        )
    if not isinstance(reduction, str) or reduction not in ("mean", "sum"):
        said = repr(reduction) if isinstance(reduction, str) else described(reduction)
        raise UsageError(f"token_losses: reduction={said} is neither 'mean' nor 'sum'.")
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise UsageError(
            f"token_losses: ignore_index= is {described(ignore_index)}; give a whole number, the label of tokens that do not count."
        )
    # Numbers cannot be asked for where torch takes the examples apart; each of them was seen before.
    asked = not torch._C._functorch.is_functorch_wrapped_tensor(labels)
    if asked and bool((bad := (labels != ignore_index) & ((labels < 0) | (labels >= logits.shape[-1]))).any()):
        strange = labels[bad].unique().tolist()
        raise UsageError(
            f"token_losses: labels hold {listed(strange, len(strange), 2)}, which is none of the {logits.shape[-1]} classes of the logits; give "
            f"ignore_index= if it stands for tokens that do not count (now {ignore_index})."
        )
    flat = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=ignore_index, reduction="none")
    totals = flat.reshape(labels.shape).flatten(1).sum(1)
    if reduction == "sum":
        return totals
    counts = (labels != ignore_index).flatten(1).sum(1)
    if asked and bool((counts == 0).any()):
        rows = (counts == 0).nonzero().flatten().tolist()
        raise UsageError(
            f"token_losses: {len(rows)} of {len(counts)} sequences have no token that counts, each is {ignore_index} (rows {listed(rows, len(rows))}); "
            "leave them out of the dataset, or give reduction='sum', by which their loss is 0."
        )
    return totals / counts


class WeightedBatch(NamedTuple):
    """A batch of an epoch in which a live selector gave losses a weight.

    Attributes:
        batch: The batch as the loop saw it.
        weights: Factor of each example's loss, (batch,).
    """

    batch: Any
    weights: Tensor


def without_weights(batch: Any) -> Any:
    """A batch as the loop saw it."""
    return batch.batch if isinstance(batch, WeightedBatch) else batch


@dataclasses.dataclass(frozen=True)
class WeightedLosses:
    """The losses of a `WeightedBatch`, each times its weight; of any other batch as they are."""

    losses: Losses

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        losses = self.losses(model, without_weights(batch))
        return losses * batch.weights.to(losses.dtype) if isinstance(batch, WeightedBatch) else losses


def losses_without_weights(losses: Losses, batch: Any) -> Losses:
    """The losses function for this batch: the unweighted one where the batch has no weights."""
    return losses.losses if isinstance(losses, WeightedLosses) and not isinstance(batch, WeightedBatch) else losses


def pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a batch that is exactly `(inputs, labels)`.

    Raises:
        UsageError: The batch is something else.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise UsageError(
            "A batch is not (inputs, labels); give losses=... that returns the loss of each example of a batch, or forward=... that returns "
            "(logits, labels), to assay.Loop, or to assay.DataSpec while recording."
        )
    return batch[0], batch[1]


def forward_pair(model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
    """The forward pass of a batch `(inputs, labels)`: logits and labels.

    Raises:
        UsageError: The batch is something else.
    """
    inputs, labels = pair(batch)
    return logits_alone(model(inputs)), labels


def cross_entropies_of(forward: Forward) -> Losses:
    """A loss function: the cross-entropy of each example, in nats, from the logits and labels that `forward` gives."""
    return cross_entropies if forward is forward_pair else _CrossEntropies(forward)


def is_cross_entropies(losses: Losses) -> bool:
    """Whether these losses are the cross-entropies of logits and labels that a `forward` gives, or of a pair."""
    return losses is cross_entropies or isinstance(losses, _CrossEntropies)


@dataclasses.dataclass(frozen=True)
class _CrossEntropies:
    forward: Forward

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        logits, labels = self.forward(model, batch)
        return _cross_entropy(logits, labels)
