"""The loss of each example of a batch, and the logits and labels that it is made of: of pairs of tensors, or by a user's function."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import UsageError

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
    return F.cross_entropy(logits_alone(model(inputs)), labels, reduction="none")


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
        return F.cross_entropy(logits, labels, reduction="none")
