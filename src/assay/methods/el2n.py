r"""EL2N: distance from predicted probabilities to the one-hot label, early in training.

$$ \mathrm{EL2N}_i = \bigl\| p_i - \mathrm{onehot}(y_i) \bigr\|_2 $$
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.accumulators import AbstractAccumulator, State
from ..core.epochs import Epoch
from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction
from ..core.spans import checked_labels
from ..maths.divergences import error_norm


def el2n(probs: Float[Tensor, "*runs examples classes"], labels: Int[Tensor, " examples"]) -> Float[Tensor, " examples"]:
    """Norm of softmax minus one-hot label, averaged over all leading axes (epochs, models).

    Large means far from the given label. Range [0, sqrt 2]; a distance between probability vectors.

    Returns:
        One number per example, in that range.

    Raises:
        UsageError: A label is not the number of a class.
    """
    norms = error_norm(probs, checked_labels(labels, probs.shape[-1]))
    return norms.reshape(-1, norms.shape[-1]).mean(0)


@dataclasses.dataclass(frozen=True)
class EL2N(AbstractAccumulator):
    """High EL2N marks examples that are hard early in training; wrongly labelled ones are among them.

    Args:
        at: First epoch read, counted from 0.
        span: How many epochs are read from there on.
        reduce: Mean or sum over these epochs.
    """

    at: int = 10
    span: int = 1
    reduce: Literal["mean", "sum"] = "mean"
    name: ClassVar[str] = "el2n"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.ERROR_NORMS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "probability distance"
    source: ClassVar[Source] = Source(
        "Paul et al. 2021, definition 2.2",
        "https://arxiv.org/abs/2107.07075",
        "a mean over models where a recording has several, as the ten of the paper, else of one; the recorded pass, which is the "
        "augmented training pass unless the run "
        "was recorded with view=eval; `at=0,span=10,reduce=sum` is the form of the CCS code",
    )

    compares: ClassVar[Literal["nothing", "passes", "order"]] = "nothing"

    def __post_init__(self):
        super().__post_init__()
        if self.at < 0 or self.span < 1:
            raise UsageError(f"{self.title}: at must be 0 or more and span 1 or more.")

    @property
    def fewest_epochs(self) -> int:
        return self.at + self.span

    def epochs_read(self, recorded: int) -> range:
        return range(self.at, min(self.at + self.span, recorded))

    def start(self, examples: int, classes: int) -> State:
        return {"total": torch.zeros(examples, dtype=torch.float64)}

    def update(self, state: State, epoch: Epoch) -> None:
        state["total"] += epoch.error_norms

    def compute(self, state: State) -> Float[Tensor, " examples"]:
        return state["total"] / (self.span if self.reduce == "mean" else 1)
