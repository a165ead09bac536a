r"""Threshold closeness (dataset cartography): $\mu_i (1 - \mu_i)$ with $\mu_i$ the mean probability of the given label."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractMeanMethod, State
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction
from .confidence import confidence


def threshold_closeness(target_probs: Float[Tensor, "epochs examples"]) -> Float[Tensor, " examples"]:
    """Confidence times one minus confidence. Large means close to even odds; range [0, 0.25]."""
    mean = confidence(target_probs)
    return mean * (1 - mean)


@dataclasses.dataclass(frozen=True)
class ThresholdCloseness(AbstractMeanMethod):
    """High values mark examples whose given label has a mean probability near one half."""

    copes_with_partial: ClassVar[bool] = True
    name: ClassVar[str] = "threshold_closeness"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.TARGET_PROBS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "probability squared"
    source: ClassVar[Source] = Source(
        "Swayamdipta et al. 2020, released code", "https://arxiv.org/abs/2009.10795", "the recorded pass"
    )

    def value(self, epoch: Epoch) -> Tensor:
        return epoch.target_probs

    def compute(self, state: State) -> Float[Tensor, " examples"]:
        mean = super().compute(state)
        return mean * (1 - mean)
