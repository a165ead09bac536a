r"""Correctness (dataset cartography): fraction of epochs at which the given label is predicted."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ..core.accumulators import AbstractMeanMethod
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction


def correctness(correct: Bool[Tensor, "epochs examples"]) -> Float64[Tensor, " examples"]:
    """Fraction of epochs at which the given label is predicted. Small means hard to learn or wrongly labelled; range [0, 1]."""
    return correct.to(torch.float64).mean(0)


@dataclasses.dataclass(frozen=True)
class Correctness(AbstractMeanMethod):
    """Low correctness marks examples that are rarely predicted as labelled."""

    copes_with_partial: ClassVar[bool] = True
    name: ClassVar[str] = "correctness"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CORRECT})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "fraction of epochs"
    source: ClassVar[Source] = Source(
        "Swayamdipta et al. 2020, section 2", "https://arxiv.org/abs/2009.10795", "a fraction, where the released code counts"
    )

    def value(self, epoch: Epoch) -> Tensor:
        return epoch.correct
