"""InfoBatch: each epoch leaves out a random part of the examples with a low loss, and gives the rest of these a larger weight."""

import dataclasses
import math
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.ids import Ids
from ..core.live_selection import AbstractLiveSelector, EpochSelection, LiveState
from ..core.method import Source
from ..maths.draws import uniform


@dataclasses.dataclass(frozen=True)
class InfoBatch(AbstractLiveSelector):
    """Drops an example whose last loss is below the mean with probability `ratio`; those below the mean that stay have weight 1 / (1 - ratio).

    So the expected sum of gradients over an epoch is that of all examples. From epoch floor(delta * epochs) on every epoch trains on all, with a
    weight of 1. The losses are those of the last training pass of each example; before its first pass, an example is not dropped.

    Args:
        ratio: Probability of being dropped, in 0..1, 1 excluded.
        delta: Share of the epochs in which examples are dropped, in 0..1; the rest train on all.
    """

    ratio: float = 0.5
    delta: float = 0.875
    name: ClassVar[str] = "infobatch"
    unbiased: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Qin et al. 2024, InfoBatch",
        "https://arxiv.org/abs/2303.04947",
        "each example is drawn by itself, as in the paper; the released code keeps an exact number of those below the mean. The mean is over all "
        "examples that have a loss; the code starts every loss at 3",
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.ratio < 1:
            raise UsageError(f"{self.title}: ratio={self.ratio} is outside 0..1, 1 excluded.")
        if not 0 <= self.delta <= 1:
            raise UsageError(f"{self.title}: delta={self.delta} is outside 0..1.")

    def start(self, examples: int) -> LiveState:
        return {"losses": torch.zeros(examples, dtype=torch.float64), "seen": torch.zeros(examples, dtype=torch.bool)}

    def update(self, state: LiveState, positions: Int[Tensor, " batch"], losses: Float[Tensor, " batch"]) -> None:
        state["losses"][positions] = losses.to(torch.float64)
        state["seen"][positions] = True

    def select_epoch(self, state: LiveState, ids: Ids, epoch: int, epochs: int, seed: int) -> EpochSelection:
        losses, seen = state["losses"], state["seen"]
        if epoch >= math.floor(self.delta * epochs) or not bool(seen.any()):
            return EpochSelection(torch.ones(len(ids), dtype=torch.bool), torch.ones(len(ids), dtype=torch.float64))
        # A sum without rounding: else the order of the examples, or many equal losses, could decide who is below.
        below = seen & (losses < math.fsum(losses[seen].tolist()) / int(seen.sum()))
        dropped = below & (uniform(ids.keys, seed, "policy infobatch", epoch) < self.ratio)
        return EpochSelection(~dropped, torch.ones(len(ids), dtype=torch.float64).masked_fill(below, 1 / (1 - self.ratio)))
