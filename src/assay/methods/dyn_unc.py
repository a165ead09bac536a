r"""Dyn-Unc: how much the probability of the given label moves within windows of epochs.

$$ \mathrm{DynUnc}_i = \frac{1}{W} \sum_{k=0}^{W-1} s_{k,i} $$

with $s_{k,i}$ the standard deviation (ddof 1) of the probability of the given label over the epochs $k .. k+J-1$, and $W$ the number of windows.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractSpanMethod, State
from ..core.epochs import Epoch
from ..core.errors import MissingEvidence
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction
from ..core.spans import checked_window
from ..maths.windows import push, ring_moments, start_ring, window_moments


def dyn_unc(
    target_probs: Float[Tensor, "epochs examples"], window: int = 10, *, drop_last: bool = False
) -> Float[Tensor, " examples"]:
    """Mean over windows of the standard deviation (ddof 1) of the probability of the given label.

    Large means undecided. A constant trajectory gives 0. Range [0, sqrt(J / (4 (J - 1)))], which is 0.527 for J = 10. No unit.

    Args:
        target_probs: Softmax probability of the given label by epoch.
        window: J, how many consecutive epochs make a window.
        drop_last: Leave out the window that ends at the last epoch, as the authors' own code does.

    Returns:
        One number per example, in that range.

    Raises:
        UsageError: Fewer epochs than the windows take, or a window below 2.
    """
    span = len(target_probs) - int(drop_last)
    checked_window(window, span)
    return window_moments(target_probs[:span], window)[1].mean(0)


@dataclasses.dataclass(frozen=True)
class DynUnc(AbstractSpanMethod):
    """High Dyn-Unc marks examples that the model keeps changing its mind about.

    Args:
        window: J, how many consecutive epochs make a window.
        drop_last: Leave out the window that ends at the last epoch, as the authors' own code does.
    """

    window: int = 10
    drop_last: bool = False
    name: ClassVar[str] = "dyn_unc"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.TARGET_PROBS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "probability"
    source: ClassVar[Source] = Source(
        "He et al. 2023, Dyn-Unc",
        "https://arxiv.org/abs/2306.05175",
        "without the released code's factor 10; all windows by default, the released code leaves out the last (drop_last=true)",
    )

    def __post_init__(self):
        super().__post_init__()
        checked_window(self.window)

    @property
    def shortest_span(self) -> int:
        return self.window + int(self.drop_last)

    def epochs_read(self, recorded: int) -> range:
        last = recorded if self.epochs is None else self.epochs
        return range(min(last - int(self.drop_last), recorded))

    def start(self, examples: int, classes: int) -> State:
        return {**start_ring(self.window, examples), "total": torch.zeros(examples, dtype=torch.float64)}

    def update(self, state: State, epoch: Epoch) -> None:
        if push(state, epoch.target_probs):
            state["total"] += epoch.once(("window_moments", self.window), lambda: ring_moments(state))[1]

    def compute(self, state: State) -> Float[Tensor, " examples"]:
        if int(state["seen"]) < self.window:
            # While a run goes on, no epoch is known to be before the last one unless epochs=... says so.
            raise MissingEvidence(
                f"{self.title} has folded {int(state['seen'])} epochs, its window takes {self.window}; "
                "score the finished run, which needs no logits for it."
            )
        return state["total"] / (state["seen"] - self.window + 1)
