"""Trainings that differ a little from the recorded one, carried from step to step beside it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.steps import Carrier, Step
from ..maths.params import Params
from .replayable import ReplayableTraining
from .steps import ReplayedStep

Buffers = Mapping[Tensor, dict[str, object]]
"""What the optimizer holds of each parameter, as it holds it."""


class OptimizerCarrier(Carrier):
    """Takes every step once as it was and once for each changed training, with the recorded optimizer and clipping, in double precision.

    A change is small beside what it is a change of: parameters are kept as the difference from the recorded ones, so that the rounding of the
    recorded training is in none of them, and buffers whole, so that what is a mean of squares stays one.
    """

    def __init__(self, training: ReplayableTraining, count: int):
        """Begin where no parameter has moved.

        Args:
            training: The recorded training.
            count: How many changed trainings there are.
        """
        self._clip = training.clip
        self._own = {name: nn.Parameter(_double(value.detach())) for name, value in training.model.named_parameters()}
        self._names = training.functional.names
        self._optimizer = training.optimizer_over(nn.ParameterList(self._own.values()))
        self.moved = [{name: torch.zeros_like(self._own[name]) for name in self._names} for _ in range(count)]
        self._buffers: list[Buffers] = []

    def take(self, step: Step, gradient: Params, slopes: Sequence[Params]) -> None:
        """Take one step in all trainings; see `core.steps.Carrier.take`."""
        assert isinstance(step, ReplayedStep)
        if not self._buffers:
            self._buffers = [self._begun(step.before.slots) for _ in (None, *self.moved)]
        # Schedulers change rates and momenta: the settings are those with which the step was just taken.
        for group, taken in zip(self._optimizer.param_groups, step.step_run.training.optimizer.param_groups, strict=True):
            group.update({name: value for name, value in taken.items() if name != "params"})
        still = self._after(0, step.params, {}, gradient, {})
        for number, slope in enumerate(slopes):
            end = self._after(number + 1, step.params, self.moved[number], gradient, slope)
            self.moved[number] = {name: value - still[name] for name, value in end.items()}

    def _begun(self, slots: Mapping[str, Params]) -> Buffers:
        found: dict[Tensor, dict[str, object]] = {}
        for slot, values in slots.items():
            for name, value in values.items():
                found.setdefault(self._own[name], {})[slot] = _double(value)
        return found

    def _after(self, place: int, params: Params, moved: Params, gradient: Params, slope: Params) -> dict[str, Tensor]:
        """The parameters of one training after the step, whose buffers it leaves as they then are."""
        own, state = self._own, self._optimizer.state
        state.clear()
        state.update(self._buffers[place])
        with torch.no_grad():
            for name in self._names:
                own[name].copy_(params[name] + moved[name] if moved else params[name])
                # A parameter that the loss does not reach has no gradient, and is passed over.
                own[name].grad = None
            for name, value in gradient.items():
                whole = _double(value)
                own[name].grad = whole + slope[name] if slope else whole
            if self._clip is not None:
                nn.utils.clip_grad_norm_([own[name] for name in gradient], self._clip)
            self._optimizer.step()
        self._buffers[place] = dict(state)
        return {name: own[name].detach().clone() for name in self._names}


def _double(value: Tensor) -> Tensor:
    """A copy that shares nothing, in double precision where it is a floating-point number."""
    dense = value.to_dense() if value.is_sparse else value
    return dense.to(torch.float64 if dense.is_floating_point() else dense.dtype, copy=True)
