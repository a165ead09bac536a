r"""Confidence (dataset cartography): mean probability of the given label over epochs."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractMeanMethod
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction


def confidence(target_probs: Float[Tensor, "epochs examples"]) -> Float[Tensor, " examples"]:
    """Mean over epochs of the probability of the given label. Small means hard to learn or wrongly labelled; range [0, 1]."""
    return target_probs.mean(0)


@dataclasses.dataclass(frozen=True)
class Confidence(AbstractMeanMethod):
    """Low confidence marks examples whose label the model does not come to believe."""

    name: ClassVar[str] = "confidence"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.TARGET_PROBS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "probability"
    copes_with_partial: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Swayamdipta et al. 2020, section 2", "https://arxiv.org/abs/2009.10795", "the recorded pass"
    )

    def value(self, epoch: Epoch) -> Tensor:
        return epoch.target_probs
