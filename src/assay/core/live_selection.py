"""Selectors that choose during training: which examples an epoch trains on, and the weight of each one's loss."""

import abc
import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from . import options
from .errors import UsageError, listed
from .ids import Ids
from .method import Source

LiveState = dict[str, Tensor]
"""What a live selector keeps between epochs: finite tensors only, so that the checkpoints can hold it."""


@dataclasses.dataclass(frozen=True)
class EpochSelection:
    """The examples that an epoch trains on, and their weights.

    Attributes:
        kept: Which examples the epoch trains on.
        weights: Factor of the loss of each kept example.
    """

    kept: Bool[Tensor, " examples"]
    weights: Float64[Tensor, " examples"]

    def checked(self, ids: Ids, title: str, epoch: int) -> "EpochSelection":
        """This selection, if an epoch can train on it.

        Returns:
            The selection itself.

        Raises:
            UsageError: The selection keeps nothing, does not fit the examples, or a weight is negative or not finite.
        """
        if self.kept.shape != (len(ids),) or self.weights.shape != (len(ids),) or self.kept.dtype != torch.bool:
            raise UsageError(f"{title}: a selection of {len(ids)} examples needs one bool `kept` and one weight for each.")
        bad = self.kept & (~self.weights.isfinite() | (self.weights < 0))
        if bool(bad.any()):
            names = ids.take(bad)
            raise UsageError(
                f"{title}: weights of {len(names)} examples are negative or not finite; ids {listed(names, len(names))}."
            )
        if not bool(self.kept.any()):
            raise UsageError(f"{title} keeps no example in epoch {epoch}; let every epoch train on one at least.")
        return self

    @property
    def whole(self) -> bool:
        """Whether it keeps every example with a weight of 1."""
        return bool(self.kept.all()) and bool((self.weights == 1).all())


class AbstractLiveSelector(abc.ABC):
    """Chooses before each epoch which examples it trains on. Subclasses are final frozen dataclasses whose fields are the options.

    Call `start`, then for each epoch `select_epoch`, and `update` after the forward pass of each of its steps.
    """

    name: ClassVar[str]
    unbiased: ClassVar[bool] = False
    """Whether the expectation of the weighted sum of an epoch's gradients is the sum over all examples."""
    source: ClassVar[Source]

    def __post_init__(self):
        """Refuse options of the wrong type. Subclasses check ranges after this.

        Raises:
            UsageError: An option is not what its type says.
        """
        options.coerce(self, "policy")

    @abc.abstractmethod
    def start(self, examples: int) -> LiveState:
        """The state before the first epoch."""

    @abc.abstractmethod
    def update(self, state: LiveState, positions: Int[Tensor, " batch"], losses: Float[Tensor, " batch"]) -> None:
        """Update the state with the unweighted losses of a step's examples, in place."""

    @abc.abstractmethod
    def select_epoch(self, state: LiveState, ids: Ids, epoch: int, epochs: int, seed: int) -> EpochSelection:
        """The examples that an epoch trains on, and their weights.

        Args:
            state: State after the earlier epochs; not changed.
            ids: The examples; draws depend on (seed, epoch, id) alone.
            epoch: Number of the epoch, counted from 0.
            epochs: How many epochs the training has.
            seed: Seed of the training.
        """

    def epoch_size(self, examples: int) -> int | None:
        """How many examples each epoch trains on, if it is the same number in all; None where it is not.

        Schedules of a planned training are then laid out over epochs of this length, so that its rates are those of a training on a fixed part of the size.

        Returns:
            In 1..examples, or None.
        """
        return None

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `infobatch:ratio=0.3`."""
        return options.join(self.name, options.changed(self))
