r"""Mean margin: the margin of the given label in the probabilities averaged over all epochs.

$$ m_i = \log \bar p_{i,y_i} - \max_{c \ne y_i} \log \bar p_{i,c}, \qquad \bar p_i = \frac1T \sum_{t=0}^{T-1} \mathrm{softmax}(z_{t,i}) . $$
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction

SMALLEST = torch.finfo(torch.float64).tiny
"""Stands for a mean probability of 0, which has no logarithm."""


def mean_margin(
    mean_probs: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"], form: Literal["log", "probs"] = "log"
) -> Float64[Tensor, " examples"]:
    """Margin of the given label over the best other class in the mean probabilities; below 0 the epochs together resist the label.

    Args:
        mean_probs: Probabilities averaged over the epochs.
        labels: Given class of each example.
        form: Margin of the logarithms, `log`, or of the probabilities themselves, `probs`.

    Returns:
        One per example: in nats, within about 708 of 0; or in -1..1.

    Source: the detector of mean probability and logit margin of the component study of 2025.
    """
    probs = mean_probs.to(torch.float64)
    values = probs.clamp(min=SMALLEST).log() if form == "log" else probs
    own = values.gather(1, labels[:, None])[:, 0]
    return own - values.scatter(1, labels[:, None], -torch.inf).amax(1)


@dataclasses.dataclass(frozen=True)
class MeanMargin(AbstractMethod):
    """Low values mark labels that the epochs together resist: AUM, with the probabilities averaged before the margin is taken and not after.

    Args:
        form: Margin of the logarithms of the mean probabilities, `log`, or of the mean probabilities themselves, `probs`.
    """

    form: Literal["log", "probs"] = "log"
    name: ClassVar[str] = "mean_margin"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.MEAN_PROBS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    below_zero: ClassVar[str] = "over the epochs together, another class had the larger mean probability"
    source: ClassVar[Source] = Source(
        "Component study of label-noise detectors 2025: in-sample, mean probability, logit margin",
        "https://arxiv.org/abs/2510.16211",
        "a mean probability of 0 counts as the smallest number of double precision",
    )

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The unit of the two numbers whose difference is the margin."""
        return "nats" if self.form == "log" else "probability"

    def run(self, evidence: Evidence) -> Result:
        return Result(mean_margin(evidence.mean_probs, evidence.labels, self.form))
