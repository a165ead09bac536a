r"""Variability (dataset cartography): standard deviation over epochs of the probability of the given label."""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.accumulators import AbstractSpanMethod, State
from ..core.epochs import Epoch
from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction


def variability(target_probs: Float[Tensor, "epochs examples"], ddof: int = 0) -> Float[Tensor, " examples"]:
    """Standard deviation over epochs of the probability of the given label.

    Large means ambiguous; a constant trajectory gives 0. Range [0, 0.5] for the population form (ddof 0).

    Returns:
        One number per example, in that range.

    Raises:
        UsageError: `ddof` is neither 0 nor 1, or there are not more epochs than `ddof`.
    """
    if len(target_probs) <= _checked_ddof(ddof):
        raise UsageError(f"{len(target_probs)} epochs are too few for ddof={ddof}; give at least {ddof + 1}.")
    return target_probs.std(0, correction=ddof)


def _checked_ddof(ddof: int) -> int:
    if ddof not in (0, 1):
        raise UsageError(f"ddof={ddof} is neither 0 nor 1.")
    return ddof


@dataclasses.dataclass(frozen=True)
class Variability(AbstractSpanMethod):
    """High variability marks ambiguous examples, which the model learns and loses again.

    Args:
        ddof: 0 for the population form of the paper, 1 for the unbiased variance.
    """

    ddof: int = 0
    name: ClassVar[str] = "variability"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.TARGET_PROBS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "probability"
    source: ClassVar[Source] = Source(
        "Swayamdipta et al. 2020, section 2", "https://arxiv.org/abs/2009.10795", "the recorded pass"
    )
    compares: ClassVar[Literal["nothing", "passes", "order"]] = "passes"

    def __post_init__(self):
        super().__post_init__()
        _checked_ddof(self.ddof)

    @property
    def shortest_span(self) -> int:
        return 1 + self.ddof

    def start(self, examples: int, classes: int) -> State:
        # Welford's running moments: a plain sum of squares would cancel for examples that hardly move.
        zeros = torch.zeros(examples, dtype=torch.float64)
        return {"mean": zeros, "squares": zeros.clone(), "seen": torch.zeros((), dtype=torch.int64)}

    def update(self, state: State, epoch: Epoch) -> None:
        state["seen"] += 1
        gap = epoch.target_probs - state["mean"]
        state["mean"] += gap / state["seen"]
        state["squares"] += gap * (epoch.target_probs - state["mean"])

    def compute(self, state: State) -> Float64[Tensor, " examples"]:
        return (state["squares"] / (state["seen"] - self.ddof)).clamp(min=0).sqrt()
