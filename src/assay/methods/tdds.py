r"""TDDS: temporal dual-depth scoring, an exponential average of how unsteadily the predictions move.

$$ d_{t,i} = \sum_c \bigl| p_{t+1,i,c} \bigl(\ln(p_{t+1,i,c}+\epsilon) - \ln(p_{t,i,c}+\epsilon)\bigr) \bigr|, \qquad
   v_{k,i} = \Bigl\| d_{k..k+J-2,i} - \bar d_{k,i} \Bigr\|_2, \qquad
   \mathrm{TDDS}_i = \sum_{k=0}^{T-J} a (1-a)^{T-J-k} v_{k,i} $$
"""

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractSpanMethod, State
from ..core.epochs import Epoch
from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction
from ..core.spans import checked_window
from ..maths.divergences import weighted_change
from ..maths.windows import push, squared_gaps, start_ring

EPS = 1e-8
"""Added to every probability before its logarithm, as in the authors' code."""

NEGLIGIBLE = 1e-30
"""Weight of all the windows together that are too old to be read. No spread comes near 1e6, so they would add less than 1e-24."""


def tdds(
    probs: Float[Tensor, "epochs examples classes"],
    window: int = 10,
    decay: float = 0.9,
    *,
    inner: Literal["abs", "kl"] = "abs",
    outer: Literal["norm", "sumsq"] = "norm",
) -> Float[Tensor, " examples"]:
    """Exponentially weighted sum, newest window heaviest, of the spread of epoch-to-epoch changes within each window.

    Large means that the predictions still move unsteadily. The weights are a, a(1-a), a(1-a)^2 ... from the newest window back,
    so at a = 0.9 the score is about the last `window` epochs. At least 0; nats (nats squared for outer="sumsq").

    Args:
        probs: Softmax probabilities by epoch.
        window: J, epochs per window; a window holds J - 1 changes.
        decay: a, in (0, 1].
        inner: Sum of absolute terms (the authors' code), or the signed sum, a KL divergence.
        outer: Euclidean norm of the centred changes (the authors' code), or its square.

    Returns:
        One per example.

    Raises:
        UsageError: Fewer epochs than the window, a window below 3, or a decay outside (0, 1].
    """
    checked_window(window, len(probs), smallest=3)
    _checked_decay(decay)
    logs = (probs + EPS).log()
    changes = weighted_change(probs[1:], logs[1:] - logs[:-1], absolute=inner == "abs")
    windows = changes.unfold(0, window - 1, 1)
    spread = (windows - windows.mean(-1, keepdim=True)).square().sum(-1)
    if outer == "norm":
        spread = spread.sqrt()
    age = torch.arange(len(spread) - 1, -1, -1, dtype=probs.dtype, device=probs.device)
    return (decay * (1 - decay) ** age) @ spread


def _checked_decay(decay: float) -> None:
    if not 0 < decay <= 1:
        raise UsageError(f"decay={decay} is outside (0, 1]; it is the weight of the newest window.")


@dataclasses.dataclass(frozen=True)
class TDDS(AbstractSpanMethod):
    """High TDDS marks examples that still drive the training at the end of the epochs read.

    Args:
        window: J, epochs per window.
        decay: a, weight of the newest window.
        inner: `abs`, the sum of absolute terms (the authors' code), or `kl`, the signed sum, a KL divergence.
        outer: `norm` of the centred changes (the authors' code), or `sumsq`, its square.
    """

    window: int = 10
    decay: float = 0.9
    inner: Literal["abs", "kl"] = "abs"
    outer: Literal["norm", "sumsq"] = "norm"
    name: ClassVar[str] = "tdds"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LOGITS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    source: ClassVar[Source] = Source(
        "Zhang et al. 2024, TDDS",
        "https://arxiv.org/abs/2311.13613",
        "as in the authors' code (absolute terms, norm); the paper's wording as inner=kl, outer=sumsq",
    )

    def __post_init__(self):
        super().__post_init__()
        checked_window(self.window, smallest=3)
        _checked_decay(self.decay)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Nats, or nats squared for outer=sumsq."""
        return "nats" if self.outer == "norm" else "nats squared"

    @property
    def shortest_span(self) -> int:
        return self.window

    def epochs_read(self, recorded: int) -> range:
        span = super().epochs_read(recorded)
        # Older windows weigh too little to be told from none.
        windows = 1 if self.decay == 1 else math.log(NEGLIGIBLE) / math.log1p(-self.decay)
        return span if windows > len(span) else span[-(self.window + math.ceil(windows) - 1) :]

    def start(self, examples: int, classes: int) -> State:
        return {
            **start_ring(self.window - 1, examples),
            # Classes first, as the probabilities lie in memory.
            "log_before": torch.full((classes, examples), torch.nan, dtype=torch.float64),
            "total": torch.zeros(examples, dtype=torch.float64),
            "begun": torch.zeros((), dtype=torch.bool),
        }

    def update(self, state: State, epoch: Epoch) -> None:
        logs = (epoch.probs.t() + EPS).log_()
        if state["begun"]:
            # In the memory of the old logarithms, which are not needed any more: a fresh tensor costs as much as the sum.
            moved = torch.sub(logs, state["log_before"], out=state["log_before"]).t()
            if push(state, weighted_change(epoch.probs, moved, absolute=self.inner == "abs")):
                spread = squared_gaps(state["ring"], state["ring"].mean(0))
                if self.outer == "norm":
                    spread.sqrt_()
                state["total"].mul_(1 - self.decay).add_(spread, alpha=self.decay)
        state["log_before"] = logs.contiguous()
        state["begun"].fill_(True)

    def compute(self, state: State) -> Float[Tensor, " examples"]:
        return state["total"].clone()
