r"""Loss: mean cross-entropy over epochs."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.evidence import Epoch, Need
from ..core.method import AbstractSpanMethod, Source, State
from ..core.scores import Direction


def loss(losses: Float[Tensor, "epochs examples"]) -> Float[Tensor, " examples"]:
    """Mean over epochs of the cross-entropy with the given label. Large: the model resists the label; at least 0, nats."""
    return losses.mean(0)


@dataclasses.dataclass(frozen=True)
class Loss(AbstractSpanMethod):
    """High loss marks labels that the model resists: the small-loss criterion of learning with noisy labels."""

    name: ClassVar[str] = "loss"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LOSSES})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "nats"
    source: ClassVar[Source] = Source(
        "Arpit et al. 2017, A closer look at memorization (small loss)",
        "https://arxiv.org/abs/1706.05394",
        "mean over all recorded epochs instead of one epoch",
    )

    def start(self, examples: int, classes: int) -> State:
        return {"total": torch.zeros(examples, dtype=torch.float64), "seen": torch.zeros((), dtype=torch.int64)}

    def absorb(self, state: State, epoch: Epoch) -> None:
        state["total"] += epoch.losses
        state["seen"] += 1

    def finish(self, state: State) -> Float64[Tensor, " examples"]:
        return state["total"] / state["seen"]
