"""Checks the number that a loop calls backward on against the user's description: the loss of each example, and how these become one number."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import AssayError, UsageError
from ..training.batches import size_of, tensors
from .losses import Forward, Losses, forward_pair
from .replayable import ReplayableTraining

AGREES = 1e-3
"""How far value and gradient may be apart, as a part of their size: rounding, and reductions that add up in another order."""
AGREES_HALF = 3e-2
"""The same where numbers of 16 bits have a part in it."""
CLASSES = 64
"""Classes in a batch up to which a weight of each is looked for."""


def check_reduction(
    training: ReplayableTraining, loss: Callable[[nn.Module, Any], Tensor], losses: Losses, forward: Forward, batch: Any
) -> None:
    """Refuse a `loss` that is not the sum of `losses` divided by the training's divisor, in value or gradient. The training stays as it is.

    Args:
        training: The training before a step, in train mode.
        loss: The number that the loop calls backward on.
        losses: The loss of each example.
        forward: Logits and labels of a batch, to find out what `loss` may be.
        batch: The batch of the step.

    Raises:
        UsageError: The two differ; the message says how, and what would fit.
    """
    look = _Look(training, batch)
    value, gradient = look.at(lambda: loss(training.model, batch))
    divisor = training.divisor(batch)
    told, expected = look.at(lambda: losses(training.model, batch).sum() / divisor)
    allowed = AGREES_HALF if look.half else AGREES
    if _near(gradient, expected, allowed) and abs(value - told) <= allowed * max(abs(value), abs(told)) + 1e-6:
        return
    size = size_of(batch)
    how = f"In a batch of {size}, loss= is {value:.6g}, and losses= reduced as reduction= says is {told:.6g}"
    factor = float((gradient @ expected) / expected.square().sum().clamp_min(1e-300))
    if factor > 0 and _near(gradient, factor * expected, allowed) and abs(value - factor * told) <= allowed * abs(value) + 1e-6:
        _scaled(how, factor, divisor, size)
    for recognise in (_smoothing, _class_weights):
        try:
            found = recognise(look, forward, batch, value, gradient, allowed)
        except (RuntimeError, TypeError, ValueError, IndexError, AssayError):
            # What only helps to word the refusal must not stand in its way.
            continue
        if found:
            raise UsageError(f"{how}: {found}.")
    raise UsageError(
        f"{how}, and their gradients point elsewhere; give losses= and reduction= such that the sum of losses(model, batch) over the batch, "
        "divided by what reduction= says, is what your loop calls backward on (a regulariser belongs to each example)."
    )


def _scaled(how: str, factor: float, divisor: float, size: int) -> NoReturn:
    wanted = divisor / factor
    if abs(wanted - 1) < AGREES:
        raise UsageError(f"{how}: loss= is the sum of the losses; give reduction='sum'.")
    if abs(wanted / size - 1) < AGREES:
        raise UsageError(f"{how}: loss= is the mean of the losses; give reduction='mean'.")
    raise UsageError(
        f"{how}, {factor:.6g} times as much; multiply losses= by that factor if it is always the same, or give reduction= a function of the "
        f"batch that returns what the sum of its losses is divided by (here {wanted:.6g})."
    )


def _smoothing(look: "_Look", forward: Forward, batch: Any, value: float, gradient: Tensor, allowed: float) -> str:
    """A sentence on label smoothing, if the loss is a mean of such cross-entropies."""
    model = look.training.model

    def plain() -> Tensor:
        return F.cross_entropy(*forward(model, batch))

    def even() -> Tensor:
        return -forward(model, batch)[0].log_softmax(-1).mean()

    (hard, by_hard), (flat, by_flat) = look.at(plain), look.at(even)
    amount = (value - hard) / (flat - hard)
    if not 0 < amount < 1 or not _near(gradient, (1 - amount) * by_hard + amount * by_flat, allowed):
        return ""
    inputs = "model(batch[0]), batch[1]" if forward is forward_pair else "*forward(model, batch)"
    return (
        f"loss= has a label smoothing of {amount:.4g}; give "
        f"losses=lambda model, batch: F.cross_entropy({inputs}, reduction='none', label_smoothing={amount:.4g})"
    )


def _class_weights(look: "_Look", forward: Forward, batch: Any, value: float, gradient: Tensor, allowed: float) -> str:
    """A sentence on weights of the classes, if the loss is a weighted mean of cross-entropies."""
    model = look.training.model
    labels = forward(model, batch)[1]
    present = labels.unique().tolist()
    if not 1 < len(present) <= CLASSES:
        return ""

    def of_class(label: int) -> Callable[[], Tensor]:
        def total() -> Tensor:
            logits, given = forward(model, batch)
            return F.cross_entropy(logits, given, reduction="none")[given == label].sum()

        return total

    parts = [look.at(of_class(label)) for label in present]
    columns = torch.stack([part for _, part in parts], 1)
    shares = torch.linalg.lstsq(columns, gradient[:, None], driver="gelsd").solution[:, 0]
    if not bool((shares > 0).all()) or not _near(gradient, columns @ shares, allowed):
        return ""
    if abs(value - float(shares @ torch.tensor([part for part, _ in parts], dtype=torch.float64))) > allowed * abs(value) + 1e-6:
        return ""
    weights = ", ".join(f"{label}: {float(share / shares.min()):.4g}" for label, share in zip(present, shares, strict=True))
    counts = torch.tensor([int((labels == label).sum()) for label in present], dtype=torch.float64)
    inputs = "model(batch[0]), batch[1]" if forward is forward_pair else "*forward(model, batch)"
    own = "batch[1]" if forward is forward_pair else "forward(model, batch)[1]"
    sentence = (
        f"loss= weighs the classes (in proportion {weights}); give "
        f"losses=lambda model, batch: W[{own}] * F.cross_entropy({inputs}, reduction='none') with your weights W"
    )
    if abs(float(shares @ counts) - 1) < allowed:
        return f"{sentence}, and reduction= the sum of the weights in the batch, as lambda batch: W[batch[1]].sum()"
    return sentence


class _Look:
    """Values and gradients of functions of the model before a step, which leave neither buffers nor random states changed.

    Attributes:
        half: Whether numbers of 16 bits had a part in one of them.
    """

    def __init__(self, training: ReplayableTraining, batch: Any):
        self.training, self.half = training, False
        self._buffers = {name: value.clone() for name, value in training.buffers.items()}
        self._generators = training.generators()
        self._leaves = [p for name, p in training.model.named_parameters() if name in training.functional.names]
        self._note(batch)

    def _note(self, value: Any) -> Any:
        halves = (torch.float16, torch.bfloat16)
        self.half = self.half or any(part.dtype in halves for part in tensors(value))
        return value

    def at(self, function: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """Value and gradient, in double precision.

        Raises:
            UsageError: It is no single number that depends on the parameters.
        """
        try:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(self._note, lambda part: part):
                value = function()
                if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                    shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                    raise UsageError(f"loss= or losses= of Loop gives {shape}, not numbers that depend on the model it is given.")
                gradients = torch.autograd.grad(value.sum(), self._leaves, allow_unused=True)
        finally:
            with torch.no_grad():
                for name, buffer in self.training.buffers.items():
                    buffer.copy_(self._buffers[name])
            self.training.set_generators(self._generators)
        return float(value.detach()), _flat(gradients, self._leaves)


def _flat(gradients: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> Tensor:
    parts = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)]
    return torch.cat([part.detach().to("cpu", torch.float64).flatten() for part in parts])


def _near(one: Tensor, other: Tensor, allowed: float) -> bool:
    return float((one - other).norm()) <= allowed * max(float(one.norm()), float(other.norm())) + 1e-12
