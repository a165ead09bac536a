"""State that training changes and the loss reads, besides parameters and the statistics of BatchNorm.

Spectral normalisation keeps two vectors that follow the weight; a layer may keep a running mean of its own. The derivative of a training
is right only where such state is differentiated as well, which this package does for torch's BatchNorm alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..maths.differentiable import written_out
from ..training.device import random_state, set_random_state
from .replayable import ReplayableTraining, ReplayState

SHIFT = 1e-2
"""Relative change of state and parameters, made to see what depends on them."""


def hidden_state(
    training: ReplayableTraining,
    batch: Any,
    before: ReplayState,
    random: tuple[Tensor, ...],
    take: Callable[[], object],
    statistics: Iterable[str],
    changing: Iterable[str],
    targets: Sequence[Callable[[nn.Module], float]],
) -> list[str]:
    """Names of the tensors that hold hidden state: they follow the parameters from step to step, and the loss or a target reads them.

    Counters, schedules and other state that does not depend on the parameters are no hidden state; nor is state that is written before it is read.

    Args:
        training: The training; its model is left as it was.
        batch: The batch of a step.
        before: The state before that step.
        random: Random state with which the step is taken.
        take: Function that takes the step from the training's present state.
        statistics: Names of running statistics that are differentiated.
        changing: Names of buffers that are known to change in training.
        targets: Targets of the trained model, evaluated in eval mode.
    """
    model = training.model
    known, now = set(statistics), random_state(training.device)
    standing = training.state()

    def forward() -> list[Tensor]:
        set_random_state(random)
        with torch.no_grad(), written_out():
            return [training.functional.losses(model, batch).detach().clone()]

    def asked() -> list[Tensor]:
        model.eval()
        try:
            with torch.no_grad(), written_out():
                return [torch.tensor(target(model), dtype=torch.float64) for target in targets]
        finally:
            model.train()

    try:
        training.restore(before)
        earlier = {name: value.clone() for name, value in state_of(model).items()}
        set_random_state(random)
        take()
        moved = {name for name, value in state_of(model).items() if name in earlier and not _same(value, earlier[name])}
        suspects = sorted((moved | (set(changing) & earlier.keys())) - known)
        if not suspects:
            return []

        def start(names: Sequence[str], parameters: bool = False) -> None:
            """Stand before the step, with some of the state moved."""
            training.restore(before)
            for name, value in state_of(model).items():
                if name in earlier and value.shape == earlier[name].shape:
                    with torch.no_grad():
                        value.copy_(earlier[name])
                if name in names:
                    _shift(value)
            for value in training.params.values() if parameters else ():
                _shift(value)

        start(())
        plain = forward()
        after = {name: value.clone() for name, value in state_of(model).items() if name in suspects}
        following: list[str] = []
        while True:
            # What follows the parameters, then what follows that.
            start(following, parameters=True)
            forward()
            more = [
                name
                for name, value in state_of(model).items()
                if name in after and name not in following and not _same(value, after[name])
            ]
            if not more:
                break
            following += more
        if not following:
            return []
        start(())
        values = asked()
        read = []
        for name in following:
            start([name])
            if not all(map(_same, forward(), plain)):
                read.append(name)
                continue
            start([name])
            if not all(map(_same, asked(), values)):
                read.append(name)
        return read
    finally:
        training.restore(standing)
        set_random_state(now)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of real numbers that a model holds besides its parameters: buffers, and plain attributes of its modules."""
    state: dict[str, Tensor] = {}
    for prefix, layer in model.named_modules():
        held: Mapping[str, Any] = {**layer._buffers, **vars(layer)}
        for name, value in held.items():
            if isinstance(value, Tensor) and value.is_floating_point() and not isinstance(value, nn.Parameter):
                state[f"{prefix}.{name}" if prefix else name] = value.detach()
    return state


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _shift(value: Tensor) -> None:
    with torch.no_grad():
        value.mul_(1 + SHIFT).add_(
            SHIFT * torch.linspace(0.5, 1, value.numel(), dtype=value.dtype, device=value.device).view(value.shape)
        )
