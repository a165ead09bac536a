r"""DUAL: difficulty and uncertainty together, early in training.

$$ \mathrm{DUAL}_i = \frac{1}{T-J+1} \sum_{k=0}^{T-J} (1 - m_{k,i})\, s_{k,i} $$

with $m_{k,i}$ and $s_{k,i}$ the mean and the standard deviation (ddof 1) of the probability of the given label over the epochs $k .. k+J-1$ of the
$T$ that are read.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractSpanMethod, State
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction
from ..core.spans import checked_window
from ..maths.windows import push, ring_moments, start_ring, window_moments


def dual(target_probs: Float[Tensor, "epochs examples"], window: int = 10) -> Float[Tensor, " examples"]:
    """Mean over windows of (1 - mean) * std of the probability of the given label.

    Large means uncertain while not yet learned. Constant trajectories give 0: never learned, always easy and wrongly labelled examples all stay near
    0. Range [0, (3 sqrt 3 / 16) sqrt(J / (J - 1))], which is 0.342 for J = 10. No unit.

    Args:
        target_probs: Softmax probability of the given label by epoch.
        window: J, how many consecutive epochs make a window.

    Returns:
        One number per example, in that range.

    Raises:
        UsageError: Fewer epochs than the window, or a window below 2.
    """
    mean, std = window_moments(target_probs, checked_window(window, len(target_probs)))
    return ((1 - mean) * std).mean(0)


@dataclasses.dataclass(frozen=True)
class DUAL(AbstractSpanMethod):
    """High DUAL marks examples worth keeping when the data are pruned: hard and still undecided.

    Args:
        window: J, how many consecutive epochs make a window.
    """

    window: int = 10
    name: ClassVar[str] = "dual"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.TARGET_PROBS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "probability"
    source: ClassVar[Source] = Source(
        "Cho et al. 2025, DUAL",
        "https://arxiv.org/abs/2502.06905",
        "without the released code's cosmetic factor 10; all recorded epochs by default, the paper takes the first 30 of a "
        "200-epoch CIFAR schedule (epochs=30)",
    )

    def __post_init__(self):
        super().__post_init__()
        checked_window(self.window)

    @property
    def shortest_span(self) -> int:
        return self.window

    def start(self, examples: int, classes: int) -> State:
        return {**start_ring(self.window, examples), "total": torch.zeros(examples, dtype=torch.float64)}

    def update(self, state: State, epoch: Epoch) -> None:
        if push(state, epoch.target_probs):
            mean, std = epoch.once(("window_moments", self.window), lambda: ring_moments(state))
            state["total"].add_(std).addcmul_(mean, std, value=-1)

    def compute(self, state: State) -> Float[Tensor, " examples"]:
        return state["total"] / (state["seen"] - self.window + 1)
