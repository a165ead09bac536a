r"""Margin of the prediction: the largest probability minus the second largest."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractEpochMethod
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction
from ..maths.margins import top_two


def margin(probs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """Largest minus second largest probability. Small means undecided, 0 is a tie; range [0, 1]."""
    best, second = top_two(probs)
    return best - second


@dataclasses.dataclass(frozen=True)
class Margin(AbstractEpochMethod):
    """Low values mark examples between two classes. It does not look at the label; AUM does."""

    name: ClassVar[str] = "margin"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.TOP_PROBS, Need.SECOND_PROBS})
    direction: ClassVar[Direction] = Direction.LOW_IS_HARD
    unit: ClassVar[str] = "probability"
    source: ClassVar[Source] = Source(
        "Coleman et al. 2020, Selection via proxy", "https://arxiv.org/abs/1906.11829", "the last recorded pass"
    )

    def value(self, epoch: Epoch) -> Float[Tensor, " examples"]:
        return epoch.top_probs - epoch.second_probs
