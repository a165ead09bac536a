r"""AUM: area under the margin.

$$ \mathrm{AUM}_i = \frac1T \sum_{t=0}^{T-1} \Bigl( z_{t,i,y_i} - \max_{c \ne y_i} z_{t,i,c} \Bigr) $$

with $z$ the logits, $y_i$ the given label and $T$ the number of epochs.
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.accumulators import AbstractMeanMethod, State
from ..core.epochs import Epoch
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import Direction
from ..core.spans import checked_labels
from ..maths.margins import label_margin


def aum(logits: Float[Tensor, "epochs examples classes"], labels: Int[Tensor, " examples"]) -> Float[Tensor, " examples"]:
    """Mean over epochs of the margin of the given label, in logits. At 0 the label ties with the best other class; below 0 the model resists it.

    Returns:
        One per example, in logits.

    Raises:
        UsageError: A label is not the number of a class.
    """
    return label_margin(logits, checked_labels(labels, logits.shape[-1])).mean(0)


@dataclasses.dataclass(frozen=True)
class AUM(AbstractMeanMethod):
    """Low AUM marks labels that the model resists throughout training.

    Args:
        form: Margin of the logits (the paper), or of the probabilities (the accumulated margin of the CCS code).
        reduce: Mean over epochs (the paper) or sum (the CCS code).
    """

    form: Literal["logits", "probs"] = "logits"
    reduce: Literal["mean", "sum"] = "mean"
    name: ClassVar[str] = "aum"
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    below_zero: ClassVar[str] = "over the epochs, another class had the larger output"
    source: ClassVar[Source] = Source(
        "Pleiss et al. 2020, equations 1 and 2",
        "https://arxiv.org/abs/2001.10528",
        "all recorded epochs by default, the paper stops before the first drop of the learning rate (epochs=...); no threshold "
        "examples",
    )

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The unit of the two numbers whose difference is the margin: logits or probabilities."""
        return "logits" if self.form == "logits" else "probability"

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """The facts read: the margins of the logits, or those from which the margin of the probabilities is computed."""
        if self.form == "logits":
            return frozenset({Need.MARGINS})
        return frozenset({Need.TARGET_PROBS, Need.TOP_PROBS, Need.SECOND_PROBS, Need.CORRECT})

    @property
    def copes_with_partial(self) -> bool:  # type: ignore[override]
        """A sum over the epochs would count how often they trained on the example."""
        return self.reduce == "mean"

    def value(self, epoch: Epoch) -> Float[Tensor, " examples"]:
        if self.form == "logits":
            return epoch.margins
        # The best other class is the second best overall exactly when the given class is the best.
        return epoch.target_probs - torch.where(epoch.correct, epoch.second_probs, epoch.top_probs)

    def compute(self, state: State) -> Float[Tensor, " examples"]:
        return super().compute(state) if self.reduce == "mean" else state["total"].clone()
