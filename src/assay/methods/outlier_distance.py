r"""Outlier distance: how far an example is from its nearest neighbours.

$$ s_i = \frac1k \sum_{j \in N_k(i)} d(x_i, x_j) \qquad \text{or} \qquad s_i = \max_{j \in N_k(i)} d(x_i, x_j) $$

$N_k(i)$ are the k nearest other examples.
"""

import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float, Float64
from torch import Tensor

from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.features import FeatureSpec
from ..core.method import AbstractMethod, Asks, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..maths.neighbours import Metric, nearest_distances


def outlier_distance(
    rows: Float[Tensor, "examples ..."], k: int = 10, metric: Metric = "cosine", reduce: Literal["mean", "kth"] = "mean"
) -> Float64[Tensor, " examples"]:
    """Distance of each example to its k nearest others.

    Args:
        rows: Features of each example, flattened.
        k: How many neighbours.
        metric: `cosine` (1 - cosine; a row of zeros is at distance 1 from all others), or `euclidean`.
        reduce: The `mean` distance, or that of the `kth`.

    Returns:
        One per example, at least 0: in 0..2, or in the unit of the features.

    Raises:
        ValueError: There are fewer than k others, or a row is not finite.

    Source: Ramaswamy, Rastogi and Shim 2000; Angiulli and Pizzuti 2002.
    """
    found = nearest_distances(rows.flatten(1), k, cosine=metric == "cosine")
    return found.mean(1) if reduce == "mean" else found[:, -1]


@dataclasses.dataclass(frozen=True)
class OutlierDistance(AbstractMethod):
    """High values mark examples unlike all others: rare ones, and such as do not belong into the data. No label is read.

    Low values mark examples like others; with k=1 it is the distance to the nearest other example, which is 0 for exact duplicates.

    Args:
        features: Features in which distances are taken, as `knn_disagreement` takes them.
        k: How many neighbours.
        metric: `cosine` or `euclidean`.
        reduce: The `mean` distance to the k nearest, or that to the `kth`.
    """

    features: str = "penultimate"
    k: int = 10
    metric: Metric = "cosine"
    reduce: Literal["mean", "kth"] = "mean"
    name: ClassVar[str] = "outlier_distance"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    source: ClassVar[Source] = Source(
        "Angiulli and Pizzuti 2002 (mean); Ramaswamy, Rastogi and Shim 2000 (kth); in a net's features Sun et al. 2022",
        "https://arxiv.org/abs/2204.06507",
        "of the examples themselves and not of new ones",
    )

    def __post_init__(self):
        super().__post_init__()
        FeatureSpec.parse(self.features, self.title)
        if self.k < 1:
            raise UsageError(f"{self.title}: k={self.k} is below 1.")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """1 - cosine, or the unit of the features."""
        return "1 - cosine" if self.metric == "cosine" else "distance in the features' unit"

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,))

    def run(self, evidence: Evidence) -> Result:
        try:
            return Result(outlier_distance(evidence.features(self.features).rows(), self.k, self.metric, self.reduce))
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error
