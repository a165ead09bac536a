"""The steps of a training in progress, as methods that read steps are shown them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from .division import Division
from .functional import Functional
from .losses import Losses, cross_entropies
from .model_batches import LiveStep


class LiveSteps:
    """Makes a `LiveStep` of every step: call `before` before it, then `after`.

    One copy of the parameters is made per step; the methods hold it for as long as they need it.

    Attributes:
        functional: The model with its losses.
        division: What the losses of a step are divided by.
    """

    def __init__(self, model: nn.Module, losses: Losses = cross_entropies, first: int = 0, division: Division | None = None):
        """Look at a model.

        Args:
            model: Is trained by somebody else.
            losses: Loss of each example of a batch.
            first: Number of the step to come.
            division: What the losses of a step are divided by; by default the mean of one batch is taken.
        """
        self.division = division or Division()
        self.functional = Functional(model, losses)
        self._index = first
        self._params: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}

    def begin(self, first: int) -> None:
        """Announce an epoch; `first` is the number of its first step, also where steps before it were forgotten."""
        self._index = first

    def before(self) -> None:
        """Announce the next step."""
        own = self._own()
        self._params = {name: value.clone() for name, value in own.items()}
        self._buffers = {name: value.clone() for name, value in self.functional.model.named_buffers()}

    @property
    def index(self) -> int:
        """Number of the step to come."""
        return self._index

    def after(self, epoch: int, batches: Sequence[tuple[Int[Tensor, " batch"], Any]], rates: Mapping[str, float]) -> LiveStep:
        """The step that was just taken on these batches: positions of the examples, and the batch, of each."""
        step = LiveStep(
            positions=torch.cat([positions for positions, _ in batches]),
            params=self._params,
            functional=self.functional,
            buffers=self._buffers,
            batch=self.division.together([batch for _, batch in batches]),
            index=self._index,
            epoch=epoch,
            rates=rates,
            after=self._own(),
        )
        self._index += 1
        return step

    def _own(self) -> dict[str, Tensor]:
        parameters = dict(self.functional.model.named_parameters())
        return {name: parameters[name].detach() for name in self.functional.names}
