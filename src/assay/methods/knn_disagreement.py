r"""k-nearest-neighbour disagreement: the fraction of an example's k nearest neighbours that has another label.

$$ s_i = \frac{\sum_{j \in N_k(i)} w_{ij}\, [\tilde y_j \ne \tilde y_i]}{\sum_{j \in N_k(i)} w_{ij}} $$

$N_k(i)$ are the k nearest neighbours, $w_{ij}$ their weights, $\tilde y$ the given labels.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.features import FeatureSpec
from ..core.method import AbstractMethod, Asks, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..maths.neighbours import Metric, disagreeing

Weights = Literal["equal", "similarity"]


def knn_disagreement(
    rows: Float[Tensor, "examples ..."],
    labels: Int[Tensor, " examples"],
    k: int = 10,
    metric: Metric = "cosine",
    weights: Weights = "equal",
) -> Float64[Tensor, " examples"]:
    """Fraction of each example's k nearest neighbours, the example itself left out, whose label differs from the example's; in 0..1.

    Where several examples are as near as the k-th, all of them count, with equal shares.

    Args:
        rows: Features of each example, flattened.
        labels: Given class of each.
        k: How many neighbours.
        metric: `cosine` (the distance is 1 - cosine; a row of zeros is at distance 1 from all others), or `euclidean`.
        weights: Neighbours count `equal`ly, or by `similarity` exp(-d / d_k): d is 1 - cosine or the squared Euclidean distance, d_k the same for the
            k-th neighbour.

    Returns:
        One per example, in 0..1.

    Raises:
        ValueError: There are fewer than k others, or a row is not finite.

    Source: Zhu, Dong and Liu 2022.
    """
    return disagreeing(rows.flatten(1), labels, k, cosine=metric == "cosine", weighted=weights == "similarity")


@dataclasses.dataclass(frozen=True)
class KNNDisagreement(AbstractMethod):
    """High disagreement marks examples whose neighbours have other labels: wrong labels, and examples between classes.

    Args:
        features: Features in which neighbours are found: `inputs`, `rows:NAME` given from outside (`--inputs NAME=FILE`), or features from a kept
            model: `penultimate` (the input of the layer that makes its logits), `layer:NAME`, `head_grads` or `grads:project=NUMBER`, followed by `@EPOCH` for
            another epoch than the last kept, counted from 0. Gradients depend on the example's own label, so that neighbours in gradient space agree
            with that label by construction.
        k: How many neighbours.
        metric: `cosine` or `euclidean`.
        weights: Whether neighbours count `equal`ly, or by `similarity`, exp(-d / d_k), d being 1 - cosine or the squared Euclidean distance and d_k
            that of the k-th.
    """

    features: str = "penultimate"
    k: int = 10
    metric: Metric = "cosine"
    weights: Weights = "equal"
    name: ClassVar[str] = "knn_disagreement"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LABELS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "share of neighbours"
    source: ClassVar[Source] = Source(
        "Zhu, Dong and Liu 2022 (SimiFeat)",
        "https://arxiv.org/abs/2110.06283",
        "the share of neighbours that disagree, which is 1 less the paper's soft label at the given class, once, in place of repeated votes, of the cosine between "
        "soft and given label as a score, and of a threshold for each class; all that are as near as the k-th "
        "count by a share; by default in the trained net's own features, not in those of another model, which features=rows:NAME takes",
    )

    def __post_init__(self):
        super().__post_init__()
        FeatureSpec.parse(self.features, self.title)
        if self.k < 1:
            raise UsageError(f"{self.title}: k={self.k} is below 1.")

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,))

    @classmethod
    def run_together(cls, methods: Sequence[AbstractMethod], evidence: Evidence) -> list[Result]:
        found: dict[str, Result] = {}
        for features in dict.fromkeys(method.features for method in methods):  # type: ignore[attr-defined]
            # A model makes them for all that ask for them.
            rows = evidence.features(features).rows()
            found |= {one.title: one._of(rows, evidence) for one in methods if one.features == features}  # type: ignore[attr-defined]
        return [found[method.title] for method in methods]

    def run(self, evidence: Evidence) -> Result:
        return self._of(evidence.features(self.features).rows(), evidence)

    def _of(self, rows: Tensor, evidence: Evidence) -> Result:
        try:
            return Result(knn_disagreement(rows, evidence.labels, self.k, self.metric, self.weights))
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error
