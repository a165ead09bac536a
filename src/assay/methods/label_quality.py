r"""Label quality: how far predicted probabilities support the given label.

With $p$ the mean probabilities of an example, $y$ its label, $K$ classes and $H$ the entropy:

$$ \mathrm{self\ confidence} = p_y, \qquad \mathrm{normalized\ margin} = \frac{1 + p_y - \max_{c \ne y} p_c}{2}, \qquad
   \mathrm{confidence\text{-}weighted\ entropy} = \frac{\log(1 + x)}{x}, \quad x = \frac{H(p)}{p_y \log K} . $$
"""

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Source
from ..core.needs import Need
from ..core.passes import in_sample
from ..core.results import Result
from ..core.scores import Direction
from ..maths.confident import thresholds

Form = Literal["self_confidence", "normalized_margin", "confidence_weighted_entropy"]


def label_quality(
    probs: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
    form: Form = "self_confidence",
    adjust: bool = False,
) -> Float64[Tensor, " examples"]:
    """Quality of each label, in 0..1; low where the probabilities speak against it.

    Args:
        probs: Probabilities of the classes.
        labels: Given class of each example.
        form: Which of the three numbers.
        adjust: Whether each class's threshold, the mean probability of the class over the examples with that label, is subtracted first, and the rows shifted to be
            at least 0 and divided by their sums.

    Returns:
        One per example; 1 is the best.

    Source: Kuan and Mueller 2022; Northcutt, Jiang and Chuang 2021.
    """
    probs = probs.to(torch.float64)
    if adjust:
        bounds = thresholds(probs, labels)
        most = bounds[bounds.isfinite()].max()
        # A class that no label names has no threshold of its own.
        probs = probs - bounds.where(bounds.isfinite(), most) + most
        probs = probs / probs.sum(1, keepdim=True)
    own = probs.gather(1, labels[:, None])[:, 0]
    if form == "self_confidence":
        return own
    if form == "normalized_margin":
        return (1 + own - probs.scatter(1, labels[:, None], -torch.inf).amax(1)) / 2
    ratio = -probs.xlogy(probs).sum(1) / math.log(probs.shape[1]) / own
    # As x falls to 0 the quality rises to 1, and where the label has no probability at all it is 0.
    quality = torch.where(ratio > 0, ratio.log1p() / ratio, 1.0)
    return quality.where((own > 0) & ratio.isfinite(), 0.0)


@dataclasses.dataclass(frozen=True)
class LabelQuality(AbstractMethod):
    """Low quality marks labels that the mean probabilities of the recorded epochs speak against: confident learning's ranking.

    It asks for probabilities of models that were not trained on the example, as a recording by folds has them; of others a warning says so.

    Args:
        form: The label's probability, `self_confidence`; half of 1 plus its margin over the most probable other class, `normalized_margin`; or
            `confidence_weighted_entropy`, from the entropy divided by the label's probability.
        adjust: Whether the mean probability of each class over the examples with that label is subtracted first, so that classes of which the
            model is less confident are not suspect as a whole; not with confidence_weighted_entropy.
    """

    form: Form = "self_confidence"
    adjust: bool = False
    name: ClassVar[str] = "label_quality"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.MEAN_PROBS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "quality from 0 to 1"
    source: ClassVar[Source] = Source(
        "Northcutt, Jiang and Chuang 2021; Kuan and Mueller 2022",
        "https://arxiv.org/abs/1911.00068",
        "probabilities are the mean over the recorded epochs; a prediction that is certain of the label has the quality 1 by confidence_weighted_entropy, where "
        "cleanlab divides by at least 1e-6 and gives 0",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.adjust and self.form == "confidence_weighted_entropy":
            raise UsageError(
                f"{self.title}: adjust=True is not read with form=confidence_weighted_entropy; leave one of them out."
            )

    def run(self, evidence: Evidence) -> Result:
        values = label_quality(evidence.mean_probs, evidence.labels, self.form, self.adjust)
        return Result(values, warnings=in_sample(evidence.passes))
