"""RS2: each epoch trains on a random part of the examples, drawn anew."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.ids import Ids
from ..core.live_selection import AbstractLiveSelector, EpochSelection, LiveState
from ..core.method import Source
from ..core.selection import count_of
from .random import shuffled


@dataclasses.dataclass(frozen=True)
class RS2(AbstractLiveSelector):
    """Trains each epoch on floor(keep * examples) examples drawn uniformly, each with weight 1; over the epochs all examples are trained on.

    Without replacement the epochs go through one random order of all examples, part by part, and then through another one; where the last part is
    too short, it is filled from the beginning of its order. With replacement each epoch draws from all examples, whatever earlier ones drew. No loss is
    read. A training on a fixed part of the same size takes as many steps, so that this is the control of a selection that was chosen once.

    Args:
        keep: Fraction of the examples that an epoch trains on, a number with a point in 0..1, 0 excluded (1.0 is all of them); or a whole number, how many.
        replacement: Whether an epoch may draw an example again before all others were drawn.
    """

    keep: int | float = 0.5
    replacement: bool = False
    name: ClassVar[str] = "rs2"
    source: ClassVar[Source] = Source(
        "Okanovic et al. 2024, Repeated random sampling for minimizing the time-to-accuracy of learning",
        "https://arxiv.org/abs/2305.18424",
        "drawn per id; the released code takes one example too few where its order begins again",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        if not self.keep:
            raise UsageError(
                f"{self.title}: keep=0 leaves every epoch without examples; give a fraction above 0 or a whole number from 1."
            )

    def start(self, examples: int) -> LiveState:
        if not count_of(self.keep, examples):
            raise UsageError(f"{self.title}: keep={self.keep} of {examples} examples is none; give keep=1 or more.")
        return {}

    def epoch_size(self, examples: int) -> int:
        return count_of(self.keep, examples)

    def update(self, state: LiveState, positions: Int[Tensor, " batch"], losses: Float[Tensor, " batch"]) -> None:
        pass

    def select_epoch(self, state: LiveState, ids: Ids, epoch: int, epochs: int, seed: int) -> EpochSelection:
        n, budget = len(ids), count_of(self.keep, len(ids))
        parts = 1 if self.replacement else -(-n // budget)
        order = shuffled(ids, seed, "policy rs2", epoch // parts)
        kept = torch.zeros(n, dtype=torch.bool)
        kept[order.roll(-(epoch % parts) * budget)[:budget]] = True
        return EpochSelection(kept, torch.ones(n, dtype=torch.float64))
