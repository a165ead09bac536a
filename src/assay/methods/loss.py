r"""Loss: mean over epochs of the cross-entropy, or of the loss of each example that was recorded."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractMeanMethod
from ..core.epochs import Epoch
from ..core.evidence import Evidence
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction


def loss(losses: Float[Tensor, "epochs examples"]) -> Float[Tensor, " examples"]:
    """Mean over epochs of the cross-entropy with the given label. Large: the model resists the label; at least 0, nats.

    Returns:
        One per example; of a run that recorded one loss for each example the mean of those, in their own unit and range.
    """
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

    def unit_of(self, evidence: Evidence) -> str:
        return self.unit if evidence.classes else "loss"

    def value(self, epoch: Epoch) -> Tensor:
        return epoch.losses
