r"""Entropy of the prediction: $H_i = -\sum_c p_{i,c} \ln p_{i,c}$."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractEpochMethod
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction


def entropy(probs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """Shannon entropy, with 0 ln 0 = 0. Large means undecided; range [0, ln classes], nats."""
    return torch.special.entr(probs).sum(-1)


@dataclasses.dataclass(frozen=True)
class Entropy(AbstractEpochMethod):
    """High entropy marks examples on which the model is undecided. It does not look at the label."""

    name: ClassVar[str] = "entropy"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.ENTROPIES})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "nats"
    source: ClassVar[Source] = Source(
        "Coleman et al. 2020, Selection via proxy",
        "https://arxiv.org/abs/1906.11829",
        "no 1e-10 inside the logarithm; the last recorded pass",
    )

    def value(self, epoch: Epoch) -> Float[Tensor, " examples"]:
        return epoch.entropies
