"""A live selector in a user's own loop: on which examples an epoch trains, how their losses are weighted, and which losses it receives."""

import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arguments import checked_fields
from ..core.errors import Mismatch, UsageError
from ..core.ids import Ids
from ..core.live_selection import AbstractLiveSelector, LiveState
from ..policies import parse_live
from ..replay.keyed import LOOKED_AT
from ..replay.reduction import AGREES, AGREES_HALF
from ..training.loop import check_finite


@dataclasses.dataclass(frozen=True)
@checked_fields
class LiveSelection:
    """A live selector for a loop: it chooses the examples of each epoch before it begins.

    Attributes:
        selector: A live selector, such as `"infobatch:ratio=0.5"`.
        epochs: How many epochs the loop trains in all; a selector may train the last ones on all examples.

    Raises:
        UnknownName: No such selector or option.
        UsageError: A value is of a wrong kind or outside its range.
    """

    selector: str | AbstractLiveSelector
    epochs: int

    def __post_init__(self):
        if self.epochs < 1:
            raise UsageError(
                f"LiveSelection: epochs={self.epochs} is not 1 or more; give how many epochs the loop trains in all."
            )
        self.live  # noqa: B018

    @functools.cached_property
    def live(self) -> AbstractLiveSelector:
        """The selector itself."""
        return parse_live(self.selector)


@dataclasses.dataclass
class Weighing:
    """One call of `weighted`: the weights, and what came back through it.

    Attributes:
        weights: Factor of each loss.
        through: Gradient of what was returned; None while nobody called backward on it.
        losses: Gradient of the losses that were given, by whatever way; None where it is not looked at.
    """

    weights: Tensor
    through: Tensor | None = None
    losses: Tensor | None = None

    def is_as_asked(self) -> bool:
        """Whether the loss that was called backward on is a multiple of the sum of weight times loss, and holds the losses in no other way."""
        if self.losses is None or self.through is None:
            return True
        if not bool(self.through.isfinite().all() and self.losses.isfinite().all()):
            # A gradient scaler tried too large a factor and passes over the step, or the training diverges, which is said elsewhere.
            return True
        allowed = AGREES if self.losses.dtype in (torch.float32, torch.float64) else AGREES_HALF
        factor = self.through.double().mean()
        apart = self.losses.double() - factor * self.weights.double()
        level = bool(((self.through.double() - factor).abs() <= allowed * factor.abs()).all())
        return level and bool((apart.abs() <= allowed * factor.abs() * self.weights.double().clamp_min(1)).all())


class Selecting:
    """A live selector, its state, and the epoch that it chose.

    Attributes:
        title: Title of the selector.
        places: Which positions of the dataset the epoch trains on; written into before each.
    """

    def __init__(self, select: LiveSelection, ids: Ids, chosen: np.ndarray, size: int, seed: int):
        """Start the selector.

        Args:
            select: The live selector, and for how many epochs the loop trains.
            ids: The recorded examples.
            chosen: Position in the dataset of each of them.
            size: How many examples the dataset has.
            seed: Random seed of its draws.
        """
        selector = select.live
        self.title = selector.title
        self.places = np.zeros(size, dtype=bool)
        self.places[chosen] = True
        self._selector, self._ids, self._chosen = selector, ids, chosen
        self._epochs, self._seed = select.epochs, seed
        self._state: LiveState = selector.start(len(ids))
        self._epoch = -1
        self._weights: Tensor | None = None
        self._told: list[tuple[Tensor, Tensor]] = []
        self._calls: list[Weighing] = []

    def begin(self, epoch: int, labels_known: bool) -> int:
        """Choose an epoch's examples and return how many they are.

        Args:
            epoch: Number of the epoch.
            labels_known: Whether the labels of all examples are known, or will be without training on them.

        Raises:
            UsageError: The loop trains more epochs than it said, or no training is possible on the selection.
        """
        if epoch >= self._epochs:
            raise UsageError(
                f"select={self.title} was given epochs={self._epochs}, and epoch {epoch} begins; record again with assay.LiveSelection(..., epochs=NUMBER), as "
                "many as the loop trains in all, counted from the first one."
            )
        choice = self._selector.select_epoch(self._state, self._ids, epoch, self._epochs, self._seed)
        choice = choice.checked(self._ids, self.title, epoch)
        if not labels_known and not bool(choice.kept.all()):
            raise UsageError(
                f"{self.title} leaves examples out of the first epoch, whose labels are not known then; record with assay.Recording(view='eval'), which passes over "
                "every example after each epoch."
            )
        # Asked once for the epoch, not in each step: it looks at all examples.
        self._weights = None if choice.whole else choice.weights
        self.places[:] = False
        self.places[self._chosen[choice.kept.numpy()]] = True
        self._epoch, self._told, self._calls = epoch, [], []
        return int(choice.kept.sum())

    def weights(self, positions: Tensor) -> Tensor | None:
        """Factor of the loss of each of these examples; None where all of the epoch's are 1."""
        return None if self._weights is None else self._weights[positions]

    def weighted(self, losses: Any, positions: Tensor) -> Tensor:
        """Losses of the newest batch, each times its weight.

        Raises:
            UsageError: They are not one loss for each example, or have no gradient.
        """
        number = len(self._told) - bool(self._calls)
        where = f"Epoch {self._epoch}, batch {number}"
        if not isinstance(losses, Tensor) or losses.shape != (len(positions),) or not losses.is_floating_point():
            shape = f"{losses.dtype} of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise UsageError(
                f"{where}: the losses given to recorder.weighted are {shape}, where {len(positions)} examples have one each; compute them with "
                "reduction='none'."
            )
        if not losses.requires_grad:
            raise UsageError(
                f"{where}: the losses given to recorder.weighted have no gradient; give those that the model is trained by, before backward."
            )
        weights = self.weights(positions)
        call = Weighing(torch.ones_like(losses.detach()) if weights is None else weights.to(losses.device, losses.dtype))
        if not self._calls:
            # A copy: the loop may write into its losses afterwards.
            self._told.append((positions, losses.detach().clone()))
        self._calls.append(call)
        made = losses * call.weights

        def through(gradient: Tensor) -> None:
            call.through = gradient.detach()

        def came(gradient: Tensor) -> None:
            call.losses = gradient.detach()

        made.register_hook(through)
        if number < LOOKED_AT:
            losses.register_hook(came)
        return made

    def stepped(self, number: int, moved: bool) -> None:
        """Check that a batch was trained on with its weights.

        Args:
            number: Number of the batch.
            moved: Whether the optimizer took a step.

        Raises:
            UsageError: Its losses were not weighted, or what was called backward on is no multiple of the sum of the weighted losses.
        """
        calls, self._calls = self._calls, []
        where, cure = f"Epoch {self._epoch}, batch {number}", "call backward on recorder.weighted(losses).mean()"
        if not calls:
            raise UsageError(
                f"{where}: recorder.weighted was not called, though select={self.title} gives each loss a weight; {cure} in every step, where losses "
                "are those of the batch's examples, with reduction='none'."
            )
        if moved and all(call.through is None for call in calls):
            raise UsageError(
                f"{where}: the optimizer moved, and nobody called backward on what recorder.weighted returned, so the weights of select={self.title} "
                f"do not count; {cure}."
            )
        if not all(call.is_as_asked() for call in calls):
            raise UsageError(
                f"{where}: what was called backward on is not the mean or the sum of recorder.weighted(losses), by the gradient of each loss, so the "
                f"weights of select={self.title} count otherwise; {cure}, and put what else belongs to an example into its loss before."
            )

    def finish(self) -> None:
        """Give the selector the losses of the epoch, which is complete.

        Raises:
            NumericalError: A loss is not finite.
        """
        for number, (positions, losses) in enumerate(self._told):
            check_finite(losses, self._ids, positions, self._epoch, number)
        for positions, losses in self._told:
            self._selector.update(self._state, positions, losses.cpu())
        self._told = []

    def state_dict(self) -> dict[str, Any]:
        """The state of the selector, for the checkpoints."""
        return {"epochs": self._epochs, "state": {name: value.clone() for name, value in self._state.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds.

        Raises:
            Mismatch: The training was laid out over another number of epochs.
        """
        if state_dict["epochs"] != self._epochs:
            raise Mismatch(
                f"select={self.title} was begun with epochs={state_dict['epochs']}, not {self._epochs}; resume with the same number."
            )
        self._state = {name: value.clone() for name, value in state_dict["state"].items()}
