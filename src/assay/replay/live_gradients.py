"""Compares the gradients that a loop steps along with those of the losses that live methods are shown, so that no value rests on another loss."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.errors import AssayError, UsageError
from ..training.batches import MicroBatches, parts_of, size_of
from .losses import without_weights
from .model_batches import LiveStep
from .reduction import AGREES_HALF

LOOKED_AT = 3
"""How many steps of each number of batches are compared."""
STEADY = 1e-3
"""How far factors, or lengths of gradients, may be apart as a part of their size to count as one: of a division that was said wrongly the factor is the
same in every step; of gradients that were clipped by their norm the length is."""


class LiveGradients:
    """Compares the first steps of a training with what its live methods are shown of them.

    A loop may clip its gradients: a factor between 0 and 1 is a wrong division only where it is the same in all steps that are looked at and the length is
    not. Gradients clipped by value, or parameter by parameter, are those of the losses too.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]):
        """Look at the gradients of some parameters of a model that somebody else trains."""
        self._model, self._names = model, names
        self._held: Tensor | None = None
        self._states: list[Tensor] = []
        self._factors: dict[int, list[float]] = defaultdict(list)
        self._lengths: dict[int, list[float]] = defaultdict(list)
        self._looked: dict[int, int] = defaultdict(int)

    def begin(self, number: int) -> None:
        """Note the random state with which the batch of this number in its step, from 0, is handed out, so that dropout can be drawn again."""
        self._states = [*self._states[:number], _random_state(next(self._model.parameters()).device)]

    def hold(self, optimizer: Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Keep the gradients with which the optimizer is about to step, if this step is to be compared.

        Args:
            optimizer: That steps.
            args: What its `step` is called with, itself first.
            kwargs: The same, by name.

        Returns:
            What to call `step` with instead, where it is given a closure that makes the gradients only then: one that keeps the first of them.
        """
        self._held = None
        if self._looked[len(self._states)] >= LOOKED_AT:
            return None
        if callable(closure := kwargs.get("closure")):
            return tuple(args), {**kwargs, "closure": self._kept_after(closure, optimizer)}
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._kept_after(args[1], optimizer), *args[2:]), dict(kwargs)
        self._keep(optimizer)
        return None

    def thrown_away(self) -> bool:
        """Whether the gradients of the batches since the last step will be in none: they were cleared, or an infinity kept a GradScaler from the step."""
        own = dict(self._model.named_parameters())
        found = [gradient.to_dense() for name in self._names if (gradient := own[name].grad) is not None]
        with torch.no_grad():
            return not all(bool(one.isfinite().all()) for one in found) or not any(bool((one != 0).any()) for one in found)

    def _kept_after(self, closure: Callable[[], Any], optimizer: Optimizer) -> Callable[[], Any]:
        def keeping() -> Any:
            made = closure()
            if self._held is None:
                self._keep(optimizer)
            return made

        return keeping

    def _keep(self, optimizer: Optimizer) -> None:
        own = dict(self._model.named_parameters())
        held = _flat([own[name].grad for name in self._names], [own[name] for name in self._names])
        # A fused optimizer is handed the factor of a GradScaler, and divides by it inside its step.
        scale = getattr(optimizer, "grad_scale", None)
        self._held = held if scale is None else held / float(scale)

    def compare(self, step: LiveStep) -> str:
        """Compare the gradients kept with those of the step's losses.

        Returns:
            A doubt in a sentence: the two point elsewhere, though nothing is drawn at random, or cannot be compared; empty where there is none.

        Raises:
            UsageError: The loop divides its losses by something else than was said; says by how much.
        """
        held, self._held = self._held, None
        number = len(parts_of(step.batch))
        if held is None:
            return ""
        self._looked[number] += 1
        try:
            expected, again = _gradient(step, self._states), _gradient(step, None)
        except (RuntimeError, TypeError, ValueError, IndexError, AssayError) as error:
            self._looked[number] = LOOKED_AT
            return f"the gradients of your loop cannot be compared with those of the losses that live values rest on: {str(error).strip().rstrip('.')}."
        if not float(expected.norm()) > 0 or not 0 < float(held.norm()) < math.inf:
            return ""
        factor = float(held @ expected / expected.square().sum())
        if float((held - factor * expected).norm()) > AGREES_HALF * float(held.norm()):
            if not torch.equal(expected, again) or _clipped(held, expected, [value.numel() for value in step.params.values()]):
                return ""
            self._looked[number] = LOOKED_AT
            return _elsewhere(float(held @ expected / (held.norm() * expected.norm())))
        factors, lengths = self._factors[number], self._lengths[number]
        factors.append(factor)
        lengths.append(float(held.norm()))
        off = abs(factor - 1) > AGREES_HALF
        if off and (not 0 < factor < 1 or (len(factors) == LOOKED_AT and _steady(factors) and not _steady(lengths))):
            raise UsageError(_scaled(factor, step))
        return ""


def _steady(values: list[float]) -> bool:
    return max(values) - min(values) <= STEADY * max(values)


def _clipped(held: Tensor, expected: Tensor, sizes: Sequence[int]) -> bool:
    """Whether gradients are the expected ones clipped by value, or each parameter's times a factor of at most 1, as where some are clipped alone."""
    bound = float(held.abs().max())
    if float((held - expected.clamp(-bound, bound)).norm()) <= AGREES_HALF * float(held.norm()):
        return True
    for ours, theirs in zip(held.split(list(sizes)), expected.split(list(sizes)), strict=True):
        factor = float(ours @ theirs / theirs.square().sum()) if bool(theirs.any()) else 1.0
        if not 0 < factor <= 1 + AGREES_HALF or float((ours - factor * theirs).norm()) > AGREES_HALF * float(ours.norm()):
            return False
    return True


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _gradient(step: LiveStep, states: Sequence[Tensor] | None) -> Tensor:
    """Gradient of what the step's losses are reduced to, in train mode, each batch from its random state; the model stays as it is."""
    parts = parts_of(step.batch)
    divisors = step.batch.divisors if isinstance(step.batch, MicroBatches) else (float(size_of(without_weights(step.batch))),)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in step.params.items()}
    total = torch.zeros(())
    with torch.enable_grad():
        for place, (part, divisor) in enumerate(zip(parts, divisors, strict=True)):
            if states is not None:
                device = next(iter(leaves.values())).device
                torch.cuda.set_rng_state(states[place], device) if device.type == "cuda" else torch.set_rng_state(states[place])
            losses = step.functional(leaves, step.buffers, part, training=True)
            total = total.to(losses) + losses.sum() / divisor
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return _flat(found, list(leaves.values()))


def _flat(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    parts = [torch.zeros_like(value) if one is None else one.to_dense() for one, value in zip(gradients, like, strict=True)]
    return torch.cat([part.detach().to("cpu", torch.float64).flatten() for part in parts])


def _scaled(factor: float, step: LiveStep) -> str:
    number = len(parts_of(step.batch))
    what = f"a step of {number} batches" if number > 1 else "a step"
    return (
        f"the gradients of {what} of your loop are {factor:.4g} times those of its losses, divided as data=assay.DataSpec says, so that values of steps would "
        "be of another loss; say what your loop divides by as DataSpec(reduction=..., accumulate=...), or the losses themselves as losses=."
    )


def _elsewhere(cosine: float) -> str:
    return (
        f"the gradients of your loop do not point where those of the losses do (cosine {cosine:.3f}), so that live values are of another loss than the one trained "
        "on: a penalty, smoothed labels, weights of classes, inputs changed in the loop, or gradients changed after backward; say the losses as "
        "data=assay.DataSpec(losses=...)."
    )
