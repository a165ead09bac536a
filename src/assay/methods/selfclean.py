r"""SelfClean's score of labels: the distances to the nearest example of the same and of another class.

$$ s_i = \frac{d_{\ne}(i)^2}{d_{=}(i)^2 + d_{\ne}(i)^2} $$

$d_{=}$ and $d_{\ne}$ are the smallest distances to another example of the same given class and to one of another.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.features import FeatureSpec
from ..core.method import AbstractMethod, Asks, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..maths.neighbours import Metric, class_distances


def selfclean(
    rows: Float[Tensor, "examples ..."], labels: Int[Tensor, " examples"], metric: Metric = "cosine"
) -> Float64[Tensor, " examples"]:
    """How near each example is to its own class, beside how near it is to another.

    Args:
        rows: Features of each example, flattened.
        labels: Given class of each.
        metric: `cosine` (1 - cosine; a row of zeros is at distance 1 from all others), or `euclidean`.

    Returns:
        In 0..1: below 1/2 an example of another class is the nearer one; 0 where no other example has its class, 1 where all have, 1/2 where duplicates have
        both.

    Raises:
        ValueError: There is one example, or a row is not finite.

    Source: Groeger et al. 2024.
    """
    if len(labels) < 2:
        raise ValueError("there is one example, and no other to compare it with; give more")
    own, other = class_distances(rows.flatten(1), labels, cosine=metric == "cosine")
    # By the larger of the two, so that no square is lost or overflows.
    larger = torch.maximum(own, other)
    most = larger.where(larger.isfinite() & (larger > 0), 1.0)
    near, far = (own / most).square(), (other / most).square()
    both = torch.where(near + far > 0, far / (near + far), 0.5)
    return both.where(own.isfinite(), 0.0).where(other.isfinite(), 1.0)


@dataclasses.dataclass(frozen=True)
class SelfClean(AbstractMethod):
    """Low values mark examples that are nearer to another class than to their own: wrong labels. It asks one neighbour of each kind.

    Args:
        features: Features in which distances are taken, as `knn_disagreement` takes them.
        metric: `cosine` or `euclidean`.
    """

    features: str = "penultimate"
    metric: Metric = "cosine"
    name: ClassVar[str] = "selfclean"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LABELS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "share from 0 to 1"
    source: ClassVar[Source] = Source(
        "Groeger et al. 2024, Intrinsic self-supervision for data quality audits (label errors)",
        "https://arxiv.org/abs/2305.17048",
        "by default in the trained net's own features, not in those of a net that was trained without labels, which features=rows:NAME takes; near "
        "duplicates are `assay duplicates`, other images `outlier_distance`",
    )

    def __post_init__(self):
        super().__post_init__()
        FeatureSpec.parse(self.features, self.title)

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,))

    def run(self, evidence: Evidence) -> Result:
        try:
            return Result(selfclean(evidence.features(self.features).rows(), evidence.labels, self.metric))
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error
