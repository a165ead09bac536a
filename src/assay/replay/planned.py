"""Repeats a training by recipe: every batch follows from seed, epoch, step and ids, so that any batch can be made at any time."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..core.errors import Mismatch, UsageError
from ..maths import draws
from ..training.batches import TrainingData
from ..training.device import device_named, full_precision, seed_torch
from ..training.loop import forward
from ..training.recipe import Recipe
from ..training.state import TrainingState, restore
from ..training.step import batch_loss, example_losses, optimizer_of, trainable, update
from .functional import Functional
from .losses import WeightedBatch, WeightedLosses, cross_entropies
from .replayable import ReplayableTraining


class PlannedTraining(ReplayableTraining):
    """A training that `training.loop.train` carried out, to be repeated."""

    separable = True

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        recipe: Recipe,
        states: Callable[[int], TrainingState],
        *,
        weights: Callable[[int], Tensor | None] | None = None,
        made_of: str = "",
    ):
        """Take over `model`, whose weights do not matter.

        Args:
            model, data, recipe: As `train` had them.
            states: The state at the end of a kept epoch; -1 is before training.
            weights: The factor of each example's loss in an epoch, None for 1; for a training by a live selector. A batch then holds them.
            made_of: Fingerprint of the plan and the examples, where these are known.

        Raises:
            UsageError: The recipe trains in reduced precision, whose steps cannot be differentiated faithfully.
        """
        if recipe.precision != "float32":
            raise UsageError(f"A run in {recipe.precision} cannot be taken apart step by step; record it in float32.")
        device = device_named(recipe.device)
        self.model = model.to(device).train()
        self.optimizer = optimizer_of(recipe, model)
        self.functional = Functional(model) if weights is None else Functional(model, WeightedLosses(cross_entropies))
        self.members = [tuple(trainable(model)) for _ in self.optimizer.param_groups]
        self.clip, self.ema, self.averages = recipe.clip, recipe.ema, {}
        self._data, self._recipe, self._states, self.made_of = data, recipe, states, made_of
        self.weights = None if weights is None else functools.lru_cache(maxsize=2)(weights)

    def load(self, epoch: int) -> None:
        state = self._states(epoch)
        self.averages = restore(state, self.model, self.optimizer)
        if (self.ema is not None and state.steps > 0) != bool(self.averages):
            held = "holds an average" if self.averages else "holds none"
            raise Mismatch(
                f"The recipe has ema={self.ema}, and the state after epoch {epoch} {held} of the parameters; give the recipe that was recorded."
            )

    def start_epoch(self, epoch: int) -> None:
        seed_torch(draws.integer(self._recipe.seed, "torch", epoch), self.device)

    def isolated(self) -> contextlib.AbstractContextManager[None]:
        return full_precision(self.device)

    def batch(self, epoch: int, step: int, positions: Int[Tensor, " batch"]) -> Any:
        data, batch = self._data, self._data.inputs[positions].to(self.device)
        if data.augment is not None:
            batch = data.augment(batch, data.ids.keys[positions.numpy()], epoch=epoch, step=step)
        labels = data.labels[positions].to(self.device, torch.int64)
        return self.weighted((data.ready(batch), labels), epoch, positions)

    def clean(self, positions: Int[Tensor, " batch"]) -> Any:
        data = self._data
        return data.ready(data.inputs[positions].to(self.device)), data.labels[positions].to(self.device, torch.int64)

    def step(
        self, batch: Any, rates: Sequence[float], weights: Tensor | None = None, divisor: float | None = None
    ) -> Tensor | None:
        if isinstance(batch, WeightedBatch):
            batch, own = batch
            weights = own if weights is None else own * weights
        inputs, labels = batch
        logits = forward(self.model, inputs, self._recipe.precision)
        update(self.optimizer, batch_loss(example_losses(logits, labels), weights, divisor), rates[0], self.clip)
        self.update_ema()
        return logits.detach()
