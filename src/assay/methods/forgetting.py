r"""Forgetting events: how often an example goes from right to wrong.

$$ F_i = \#\{ t : \text{right at } t, \text{ wrong at } t+1 \} $$
"""

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ..core.accumulators import AbstractSpanMethod, State
from ..core.epochs import Epoch
from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction


def forgetting(correct: Bool[Tensor, "epochs examples"], never_learned: float = math.inf) -> Float64[Tensor, " examples"]:
    """Count of right-to-wrong steps between consecutive epochs; `never_learned` where the example is never right.

    Large means forgotten often. Whole numbers in [0, epochs / 2], or `never_learned`. The first epoch has no predecessor.

    Args:
        correct: Whether the given label was predicted, by epoch.
        never_learned: Value of examples that are wrong at every epoch; by default it ranks them as the most forgotten.

    Returns:
        One count per example.
    """
    events = (correct[:-1] & ~correct[1:]).sum(0).to(torch.float64)
    return torch.where(correct.any(0), events, never_learned)


@dataclasses.dataclass(frozen=True)
class Forgetting(AbstractSpanMethod):
    """High counts mark examples that the model does not hold on to.

    Args:
        never_learned: Value of examples that are never right: `epochs` (the number of epochs read, more than any count can be), `count` (their raw
            count, 0, as in code that treats them as easy), or a number.
    """

    never_learned: Literal["epochs", "count"] | float = "epochs"
    name: ClassVar[str] = "forgetting"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CORRECT})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "events"
    source: ClassVar[Source] = Source(
        "Toneva et al. 2019, forgetting events",
        "https://arxiv.org/abs/1812.05159",
        "counted between epochs of the recorded pass; never-learned examples get the number of epochs, as in the authors' code, "
        "because a score is a finite number (the pure function says infinity)",
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.never_learned, float) and not math.isfinite(self.never_learned):
            raise UsageError(
                f"{self.name}: never_learned={self.never_learned} is not a finite number; use never_learned=epochs to rank such "
                "examples above all others."
            )

    def start(self, examples: int, classes: int) -> State:
        return {
            "before": torch.zeros(examples, dtype=torch.bool),
            "ever": torch.zeros(examples, dtype=torch.bool),
            "events": torch.zeros(examples, dtype=torch.float64),
            "seen": torch.zeros((), dtype=torch.int64),
        }

    def update(self, state: State, epoch: Epoch) -> None:
        correct = epoch.correct
        state["events"] += state["before"] & ~correct
        state["ever"] |= correct
        state["before"].copy_(correct)
        state["seen"] += 1

    def compute(self, state: State) -> Float64[Tensor, " examples"]:
        if self.never_learned == "count":
            return state["events"].clone()
        never = float(state["seen"]) if self.never_learned == "epochs" else float(self.never_learned)
        return torch.where(state["ever"], state["events"], never)
