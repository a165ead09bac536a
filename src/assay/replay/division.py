"""What the losses of a batch are divided by in a user's loop: by its reduction, and for a step of several batches."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from ..core.errors import UsageError
from ..training.batches import MicroBatches, size_of
from .losses import without_weights

Reduction = Literal["mean", "sum"] | Callable[[Any], Tensor | float]
Accumulate = float | Literal["batches", "examples"] | Callable[[Any], Tensor | float] | None


@dataclasses.dataclass(frozen=True)
class Division:
    """How a loop makes one number of the losses of a step.

    Attributes:
        reduction: How the losses of a batch become what the loop calls backward on: their `"mean"`, their `"sum"`, or their sum divided by what
            `reduction(batch)` returns.
        accumulate: What the loss of each of several batches of a step is divided by, as `assay.Loop` takes it; None for `most`.
        most: The largest number of batches that a step has, where it is known.
        where: The name of what holds the two, for messages.

    Raises:
        UsageError: One of them is none of these.
    """

    reduction: Reduction = "mean"
    accumulate: Accumulate = None
    most: int = 1
    where: str = "Loop"

    def __post_init__(self):
        named = self.accumulate in (None, "batches", "examples") or callable(self.accumulate)
        if not named and (isinstance(self.accumulate, str) or not 0 < float(self.accumulate) < float("inf")):  # type: ignore[arg-type]
            raise UsageError(
                f"{self.where}: accumulate={self.accumulate!r} is no number above 0 to divide a loss by; give one, 'batches', 'examples' or a function."
            )
        if self.reduction not in ("mean", "sum") and not callable(self.reduction):
            raise UsageError(
                f"{self.where}: reduction={self.reduction!r} is neither 'mean' nor 'sum' nor a function of the batch; give one of them."
            )

    def share(self, batches: Sequence[Any]) -> float:
        """What the loss of each of the batches of one step is divided by, beside its own `divisor`.

        Raises:
            UsageError: `accumulate(batch)` returned no number above 0.
        """
        if self.accumulate is None:
            return float(self.most)
        if self.accumulate == "batches":
            return float(len(batches))
        if self.accumulate == "examples":
            return float(sum(map(size_of, batches)))
        if not callable(self.accumulate):
            return float(self.accumulate)
        value = sum(float(self.accumulate(without_weights(batch))) for batch in batches)
        if not 0 < value < float("inf"):
            raise UsageError(
                f"{self.where}: accumulate(batch) returned {value} for the batches of a step; return what the loss of each is divided by, above 0."
            )
        return value

    def divisor(self, batch: Any) -> float:
        """What the sum of the losses of one batch is divided by: the batch size, where the mean is taken.

        Raises:
            UsageError: `reduction(batch)` returned no number above 0.
        """
        if self.reduction == "sum":
            return 1.0
        if isinstance(self.reduction, str):
            return float(size_of(batch))
        value = float(self.reduction(without_weights(batch)))
        if not 0 < value < float("inf"):
            raise UsageError(
                f"{self.where}: reduction(batch) returned {value}; return what the sum of the losses is divided by, above 0."
            )
        return value

    def together(self, batches: Sequence[Any]) -> Any:
        """The batch of a step that was made of these: the batch itself if it is one whose mean is taken, else `MicroBatches`."""
        share, divisors = self.share(batches), [self.divisor(batch) for batch in batches]
        if len(batches) == 1 and share * divisors[0] == size_of(batches[0]):
            return batches[0]
        return MicroBatches(tuple(batches), share, tuple(share * divisor for divisor in divisors))
