"""Compares a step's derivative with central differences of the step itself, in double precision."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.steps import Adjoint
from ..maths.derivatives import mask_padding_rows
from ..maths.differentiable import eager
from ..maths.params import norm as norm_of
from ..training.batches import MicroBatches, mapped, parts_of, rows, size_of, without_rows
from ..training.device import set_random_state
from .replayable import ReplayableTraining, ReplayState
from .steps import ReplayedStep

STEPS = (1e-6, 1e-7, 1e-8, 1e-9)
"""Lengths of the difference, as parts of what is moved; a kink of the model may lie within one of them."""
FEW = 4
"""Examples of a batch that the derivative is checked on: an error of a formula does not need more."""


LOST = 0.01
"""A difference in which more than this part of the derivative's size is lost to rounding says nothing."""
AGREE = 0.2
"""Central differences say nothing where two lengths differ by more than this part of what either differs from the derivative."""


@dataclasses.dataclass(frozen=True)
class Check:
    """How far a step's derivative is from central differences.

    Attributes:
        error: |difference quotient - derivative| beyond what rounding may make of it, relative to the derivative's size along a random direction: the
            largest over the derivatives with respect to the weights of the losses, the parameters and the optimizer's buffers.
        conclusive: Whether the verdict can be trusted: the derivative passes, or quotients of two step lengths agree better with each other than with
            it.
    """

    error: float
    conclusive: bool


def check_derivative(
    training: ReplayableTraining, taken: ReplayedStep, by_group: Sequence[float], adjoint: Adjoint, *, tolerance: float
) -> Check:
    """Compare a step's derivative with central differences: the step itself, in double precision, from slightly shifted states on either side.

    For the differences, model, losses and optimizer run as they ran in training, without any of the code that computes the derivative.

    Args:
        training: The training; it stays as it is.
        taken: The step, which is repeated on a few of its examples only, unless a random layer draws for the whole batch at once.
        by_group: Learning rate of each parameter group.
        adjoint: Derivative of a target with respect to the state after the step.
        tolerance: Largest error with which the derivative passes.

    Raises:
        RuntimeError, TypeError, ValueError: The model or its losses do not work in double precision.
    """
    twin = training.fork()
    twin.model.double()
    batch, count, random = taken.batch, taken.index, taken.random
    if not (taken.drawn or size_of(batch) <= FEW or without_rows(batch)):
        batch = _few(batch)
    batch, state, after = mapped(_double, batch), taken.before.mapped(_double), _mapped(adjoint)
    twin.set_momenta(taken.momenta)
    set_random_state(random)
    ((grad_dots, earlier),) = twin.back(
        batch, state, twin.rates(by_group), count, [after], at=None, curvature="hessian", whole=True
    )
    ones = torch.ones_like(grad_dots)

    def end(start: ReplayState, weights: Tensor) -> Tensor:
        twin.restore(dataclasses.replace(start, random=random))
        with eager():
            twin.step(batch, by_group, weights)
        return _terms(after, twin)

    draw = torch.Generator().manual_seed(count)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=draw, dtype=torch.float64).to(like.device)

    along = noise(grad_dots)
    checks = [
        _compared(
            lambda step: (end(state, ones + step * along), end(state, ones - step * along)),
            float(along @ grad_dots),
            float(along.norm() * grad_dots.norm()) / len(grad_dots) ** 0.5,
            tolerance,
        )
    ]
    # What the step does to the adjoint, and a direction in which that is seen besides a random one.
    change = {name: value - after.params[name] for name, value in earlier.params.items()}
    norm, length = float(norm_of(change)), float(norm_of({name: state.model[name] for name in change}))
    # What torch withholds the gradient of, training does not move.
    random_part = mask_padding_rows(twin.model, {name: noise(value) for name, value in change.items()})
    change = mask_padding_rows(twin.model, change)
    spread = float(norm_of(random_part))
    moved = {
        name: length * (value / norm if norm else value) + length * random_part[name] / spread for name, value in change.items()
    }
    named: dict[int, list[str]] = {}
    for name, value in twin.model.named_parameters(remove_duplicate=False):
        named.setdefault(id(value), []).append(name)
    # A shared parameter stands in the state once for each of its names.
    everywhere = {name: moved[names[0]] for names in named.values() if names[0] in moved for name in names}
    checks.append(
        _compared(
            lambda step: tuple(end(_shifted(state, everywhere, sign * step), ones) for sign in (1, -1)),
            sum(float((earlier.params[name] * value).sum()) for name, value in moved.items()),
            norm * length,
            tolerance,
        )
    )
    buffers = {
        slot: {name: noise(value) * state.slots[slot][name] for name, value in part.items()}
        for slot, part in earlier.carried.items()
        if slot in state.slots
    }
    if buffers:
        predicted = [
            (earlier.carried[slot][name] * value).sum() for slot, part in buffers.items() for name, value in part.items()
        ]
        checks.append(
            _compared(
                lambda step: tuple(end(_shifted(state, {}, sign * step, buffers), ones) for sign in (1, -1)),
                float(torch.stack(predicted).sum()),
                float(torch.stack(predicted).norm()),
                tolerance,
            )
        )
    return Check(max(check.error for check in checks), all(check.conclusive for check in checks))


def _few(batch: Any) -> Any:
    """A few examples of a batch; of a step of several batches some of each, because a layer may take two at least."""
    parts = parts_of(batch)
    cut = tuple(rows(part, slice(0, max(2, FEW // len(parts)))) for part in parts)
    return batch._replace(parts=cut) if isinstance(batch, MicroBatches) else cut[0]


def _compared(ends: Callable[[float], tuple[Tensor, ...]], predicted: float, size: float, tolerance: float) -> Check:
    """Difference quotients of several lengths against the derivative.

    Args:
        ends: The terms of what the adjoint says of the end of a step from a state that many times a direction away, and of one on the
            other side.
        predicted: The derivative along that direction.
        size: Size that errors are relative to.
        tolerance: Up to which all is well.
    """
    quotients: list[float] = []
    errors: list[float] = []
    for step in STEPS:
        on, back = ends(step)
        quotient = float((on - back).sum()) / (2 * step)
        # What is lost when numbers that are almost equal are subtracted.
        lost = 4 * torch.finfo(torch.float64).eps * float(on.norm()) / step
        if size == 0 or lost > LOST * size:
            # Where a longer difference said more, this one takes nothing back.
            if not errors and abs(quotient - predicted) <= lost:
                return Check(0.0, True)
            continue
        quotients.append(quotient)
        errors.append(abs(quotient - predicted) / size)
        if errors[-1] <= tolerance + lost / size:
            return Check(max(errors[-1] - lost / size, 0.0), True)
    if len(errors) < 2:
        return Check(min(errors, default=float("inf")), False)
    best = min(range(len(errors)), key=errors.__getitem__)
    others = [abs(quotient - quotients[best]) for place, quotient in enumerate(quotients) if place != best]
    return Check(errors[best], min(others) <= AGREE * abs(quotients[best] - predicted))


def _shifted(
    state: ReplayState, params: Mapping[str, Tensor], step: float, buffers: Mapping[str, Mapping[str, Tensor]] | None = None
) -> ReplayState:
    model = {name: value + step * params[name] if name in params else value for name, value in state.model.items()}
    slots = {
        slot: {
            name: value + step * buffers[slot][name] if buffers and name in buffers.get(slot, {}) else value
            for name, value in part.items()
        }
        for slot, part in state.slots.items()
    }
    return dataclasses.replace(state, model=model, slots=slots)


def _terms(adjoint: Adjoint, training: ReplayableTraining) -> Tensor:
    """Adjoint times the state in which a training stands, number by number."""
    parameters, buffers = dict(training.model.named_parameters()), training.buffers
    pairs = [(value, parameters[name].detach()) for name, value in adjoint.params.items()]
    pairs += [(value, buffers[name]) for name, value in adjoint.statistics.items()]
    pairs += [(value, training.averages[name]) for name, value in adjoint.averages.items()]
    for slot, values in adjoint.carried.items():
        held = {name: training.optimizer.state[parameters[name]].get(slot) for name in values}
        pairs += [(value, held[name]) for name, value in values.items() if held[name] is not None]
    return torch.cat([(value * state).flatten() for value, state in pairs])


def _mapped(adjoint: Adjoint) -> Adjoint:
    params, statistics, averages = (
        {name: _double(value) for name, value in part.items()} for part in (adjoint.params, adjoint.statistics, adjoint.averages)
    )
    carried = {slot: {name: _double(value) for name, value in part.items()} for slot, part in adjoint.carried.items()}
    return Adjoint(params, carried, statistics, averages)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
