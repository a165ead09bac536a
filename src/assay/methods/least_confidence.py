r"""Least confidence: $1 - \max_c p_{i,c}$."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractEpochMethod
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction


def least_confidence(probs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """One minus the largest probability. Large means undecided; range [0, 1 - 1/classes]."""
    return 1 - probs.amax(-1)


@dataclasses.dataclass(frozen=True)
class LeastConfidence(AbstractEpochMethod):
    """High values mark examples on which the model is undecided. It does not look at the label."""

    name: ClassVar[str] = "least_confidence"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.TOP_PROBS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "probability"
    source: ClassVar[Source] = Source(
        "Coleman et al. 2020, Selection via proxy",
        "https://arxiv.org/abs/1906.11829",
        "probabilities, where DeepCore takes the largest logit; the last recorded pass",
    )

    def value(self, epoch: Epoch) -> Float[Tensor, " examples"]:
        return 1 - epoch.top_probs
