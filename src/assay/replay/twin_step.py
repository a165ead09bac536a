"""How a change of the training state and of the gradient goes through one step of an optimizer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..core.steps import Moved
from ..maths.params import Params

if TYPE_CHECKING:
    from .replayable import ReplayableTraining, ReplayState


class TwinStep:
    """The step of a training's optimizer, taken apart from the training: as it was, or from a changed state with a changed gradient.

    In double precision, because a change is small beside what it is a change of.
    """

    def __init__(self, training: "ReplayableTraining", before: "ReplayState", rates: Mapping[str, float], gradient: Params):
        """Copy the parameters.

        Args:
            training: The training, whose optimizer and clipping the step has.
            before: The state before the step.
            rates: Learning rate of each parameter.
            gradient: Of the loss of the step, by the parameters that it reaches.
        """
        self._before, self._gradient, self._clip = before, gradient, training.clip
        self._names = training.functional.names
        self._own = {name: nn.Parameter(_double(value.detach())) for name, value in training.model.named_parameters()}
        self._optimizer = training.optimizer_over(nn.ParameterList(self._own.values()))
        for group, names in zip(self._optimizer.param_groups, training.members, strict=True):
            if names:
                group["lr"] = rates[names[0]]
        self._still = self._after(Moved({}), {})

    def through(self, moved: Moved, slope: Params) -> Moved:
        """What has moved after the step, where so much had moved before it and the gradient is changed by `slope`."""
        end = self._after(moved, slope)
        carried = {slot: _less(values, self._still.carried[slot]) for slot, values in end.carried.items()}
        return Moved(_less(end.params, self._still.params), carried)

    def _after(self, moved: Moved, slope: Params) -> Moved:
        """Parameters and buffers after the step."""
        own, state = self._own, self._optimizer.state
        state.clear()
        with torch.no_grad():
            for name in self._names:
                own[name].copy_(self._before.model[name])
                if name in moved.params:
                    own[name].add_(moved.params[name])
            for slot, values in self._before.slots.items():
                for name, value in values.items():
                    state[own[name]][slot] = _double(value)
            for slot, changes in moved.carried.items():
                for name, value in changes.items():
                    state[own[name]][slot].add_(value)
            for name, value in self._gradient.items():
                whole = _double(value)
                own[name].grad = whole + slope[name] if name in slope else whole
            if self._clip is not None:
                nn.utils.clip_grad_norm_([own[name] for name in self._gradient], self._clip)
            self._optimizer.step()
        carried: dict[str, dict[str, Tensor]] = {}
        for name in self._names:
            for slot, value in state.get(own[name], {}).items():
                if isinstance(value, Tensor) and value.shape == own[name].shape and value.is_floating_point():
                    carried.setdefault(slot, {})[name] = value.clone()
        return Moved({name: own[name].detach().clone() for name in self._names}, carried)


def _double(value: Tensor) -> Tensor:
    """A copy that shares nothing, in double precision where it is a floating-point number."""
    dense = value.to_dense() if value.is_sparse else value
    return dense.to(torch.float64 if dense.is_floating_point() else dense.dtype, copy=True)


def _less(first: Params, second: Params) -> dict[str, Tensor]:
    return {name: value - second[name] for name, value in first.items()}
