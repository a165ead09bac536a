r"""Loss: mean cross-entropy over epochs."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractMeanMethod
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction


def loss(losses: Float[Tensor, "epochs examples"]) -> Float[Tensor, " examples"]:
    """Mean over epochs of the cross-entropy with the given label. Large: the model resists the label; at least 0, nats."""
    return losses.mean(0)


@dataclasses.dataclass(frozen=True)
class Loss(AbstractMeanMethod):
    """High loss marks labels that the model resists: the small-loss criterion of learning with noisy labels."""

    copes_with_partial: ClassVar[bool] = True
    name: ClassVar[str] = "loss"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LOSSES})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "nats"
    source: ClassVar[Source] = Source(
        "Arpit et al. 2017, A closer look at memorization (small loss)",
        "https://arxiv.org/abs/1706.05394",
        "mean over all recorded epochs instead of one epoch",
    )

    def value(self, epoch: Epoch) -> Tensor:
        return epoch.losses
