r"""KNN-Shapley: the exact Shapley value of each example for a k-nearest-neighbour classifier that predicts the queries' labels.

With the N examples sorted by their distance from a query $q$, and $a_j = [\tilde y_j = y_q]$ (times a weight in the form `weighted`),

$$ s_N = \frac{a_N}{\max(k, N)}, \qquad s_j = s_{j+1} + \frac{a_j - a_{j+1}}{k} \cdot \frac{\min(k, j)}{j} . $$

The value of an example is the mean of $s$ over the queries.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.attribution import ROOM, AbstractAttributor, Block
from ..core.errors import Mismatch, UsageError
from ..core.evidence import Evidence
from ..core.features import FeatureSpec
from ..core.method import Asks, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..maths.knn_games import ball_shapley, sorted_shapley
from ..maths.neighbours import Gaps, Metric, ascending

Form = Literal["plain", "weighted", "soft", "threshold"]
OTHERS = "others"
"""In place of a target's name: each example is a query to all others."""
TILES = 12
"""Arrays of the size of a block that are there at once, about."""
TILE_BYTES = 4 * 2**20
"""Largest size of one of them."""


def knn_shapley(
    rows: Float[Tensor, "examples ..."],
    labels: Int[Tensor, " examples"],
    queries: Float[Tensor, "queries ..."],
    query_labels: Int[Tensor, " queries"],
    k: int = 5,
    form: Form = "plain",
    metric: Metric = "euclidean",
    radius: float | None = None,
) -> Float64[Tensor, "queries examples"]:
    """The Shapley value of every example for the prediction of every query.

    Args:
        rows: Features of each example, flattened.
        labels: Given class of each.
        queries: Features of each query.
        query_labels: Class of each.
        k: How many neighbours vote.
        form: As `KNNShapley` takes it. There are as many classes as the largest label says, which the forms soft and threshold read.
        metric: `euclidean` or `cosine`.
        radius: Largest distance of a neighbour, with form=threshold.

    Returns:
        A row for each query; above 0 where the example helps to predict its class. A row adds up to what all examples reach less what none does.

    Raises:
        ValueError: A row is not finite.
        UsageError: An option is out of range.

    Source: Jia et al. 2019.
    """
    method = KNNShapley(k=k, form=form, metric=metric, radius=radius)
    near = Gaps(rows.flatten(1), queries.flatten(1), cosine=metric == "cosine")
    classes = int(torch.cat([labels, query_labels]).max()) + 1
    return torch.cat([values for _, values in method.blocks(near, labels, query_labels, classes)])


@dataclasses.dataclass(frozen=True)
class KNNShapley(AbstractAttributor):
    """Below 0 an example makes nearest neighbours predict the queries wrong: wrong labels, and examples between classes. No model is trained for it.

    The queries are the rows of a target, such as the validation examples; without any (`target=others`) each example is a query to all others, and has the
    mean over the other examples.

    Args:
        target: Target whose rows are the queries, by default the `validation` examples; `others` for the examples themselves.
        features: Features in which distances are taken: `inputs`, `rows:NAME` from outside (of the queries under the name `NAME@TARGET`), or from a kept model
            `penultimate`, `layer:NAME` or `grads:project=NUMBER`, with the suffix `@EPOCH` for another epoch than the last kept.
        k: How many neighbours vote.
        form: What a set of examples is worth to a query: the votes for its class of its k nearest, divided by k (`plain`); the same with each vote
            multiplied by exp(-d / d_k), d being 1 - cosine or the squared Euclidean distance and d_k that of the k-th of all (`weighted`); the mean of
            those votes, and 1 / classes for no examples (`soft`); the mean of the votes within a radius, and 1 / classes where there are none (`threshold`).
        metric: `euclidean` or `cosine` (1 - cosine).
        radius: With form=threshold: the largest distance of a neighbour.
    """

    target: str = "validation"
    features: str = "penultimate"
    k: int = 5
    form: Form = "plain"
    metric: Metric = "euclidean"
    radius: float | None = None
    name: ClassVar[str] = "knn_shapley"
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "share of the neighbours' vote for a query's class"
    source: ClassVar[Source] = Source(
        "Jia et al. 2019; soft: Wang and Jia 2023; threshold: Wang et al. 2023",
        "https://arxiv.org/abs/1908.08619",
        "examples at one distance share the mean over their orders; the weighted form's votes are divided by k and not by the sum of "
        "their weights, so that it is exact in N log N",
    )

    def __post_init__(self):
        super().__post_init__()
        FeatureSpec.parse(self.features, self.title)
        if self.k < 1:
            raise UsageError(f"{self.title}: k={self.k} is below 1.")
        if not self.target:
            raise UsageError(f"{self.title}: target= names no queries; give validation, test or others.")
        if (self.form == "threshold") != (self.radius is not None):
            raise UsageError(
                f"{self.title}: form=threshold needs radius=, the largest distance of a neighbour."
                if self.radius is None
                else f"{self.title}: radius={self.radius:g} is not read with form={self.form}; leave it out."
            )
        if self.radius is not None and not 0 < self.radius < float("inf"):
            raise UsageError(f"{self.title}: radius={self.radius} is no distance above 0.")
        if self.form == "threshold" and self.k != type(self).k:
            raise UsageError(f"{self.title}: k={self.k} is not read with form=threshold; leave it out.")
        if self.target == OTHERS and self.reduce != "mean":
            raise UsageError(
                f"{self.title}: reduce={self.reduce} is not read with target=others, whose mean is over the other examples; leave it out."
            )

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Features and labels, and where the queries are those of a target, its examples."""
        return frozenset({Need.FEATURES, Need.LABELS} | ({Need.HELD_OUT} if self.target != OTHERS else set()))

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,), queries=() if self.target == OTHERS else (self.target,))

    @property
    def query_set(self) -> str:
        if self.target == OTHERS:
            raise UsageError(
                f"{self.title} has the examples themselves as queries; for values per query give a target, such as target=validation."
            )
        return self.target

    def attribute(self, evidence: Evidence, room: int = ROOM) -> Iterator[Block]:
        """Some queries by all examples at a time.

        Yields:
            Whole rows, from the first query on.

        Raises:
            Mismatch: The features of the queries have other dimensions than those of the examples.
        """
        rows, asked = evidence.features(self.features).rows(), evidence.held_out(self.query_set, self.features)
        if rows.shape[1] != asked.rows.shape[1]:
            raise Mismatch(
                f"{self.title}: features={self.features} are {rows.shape[1]} numbers of an example and {asked.rows.shape[1]} of a query of target "
                f"{self.target!r}; give the target inputs of the examples' shape."
            )
        for here, values in self.blocks(self._gaps(rows, asked.rows), evidence.labels, asked.labels, evidence.classes, room):
            yield Block(here, slice(0, len(rows)), values)

    def run(self, evidence: Evidence) -> Result:
        if self.target != OTHERS:
            return super().run(evidence)
        labels, rows = evidence.labels, evidence.features(self.features).rows()
        if len(rows) < 2:
            raise UsageError(f"{self.title}: there is one example, and no other that could ask for it; give more examples.")
        total = torch.zeros(len(rows), dtype=torch.float64)
        for _, values in self.blocks(self._gaps(rows), labels, labels, evidence.classes):
            total += values.sum(0)
        return Result(total / (len(rows) - 1))

    def _gaps(self, rows: Tensor, queries: Tensor | None = None) -> Gaps:
        try:
            return Gaps(rows, queries, cosine=self.metric == "cosine")
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error

    def blocks(
        self, near: Gaps, labels: Int[Tensor, " examples"], query_labels: Int[Tensor, " queries"], classes: int, room: int = ROOM
    ) -> Iterator[tuple[slice, Float64[Tensor, "block examples"]]]:
        """Values of some queries and all examples at a time.

        Args:
            near: Distances of the queries to the examples, or of the examples to each other; an example has the value 0 for itself.
            labels: Given class of each example.
            query_labels: Class of each query.
            classes: How many classes there are.
            room: Bytes that a block may take, beyond one query.

        Yields:
            Slices of queries, and their values.
        """
        labels, query_labels = labels.cpu(), query_labels.cpu()
        for here, gaps in near.tiles(min(TILE_BYTES, room // TILES)):
            right = (labels == query_labels[here, None]).to(torch.float64)
            slack = near.slack(here)
            if self.radius is not None:
                inside = (gaps <= (near.gap(self.radius) + slack)[:, None]).to(torch.float64)
                yield here, ball_shapley(right, inside, 1 / classes)
                continue
            order = ascending(gaps)
            gaps = gaps.gather(1, order)
            if not near.has_queries:
                # An example is the last of its own neighbours, and none of them.
                gaps, order = gaps[:, :-1], order[:, :-1]
            brought = right.gather(1, order)
            if self.form == "weighted":
                last = gaps[:, min(self.k, gaps.shape[1]) - 1, None]
                unit = last.where(last > slack[:, None], 0.0)
                brought = brought * torch.exp(-gaps.where(gaps > slack[:, None], 0.0) / unit).nan_to_num(nan=1.0)
            found = sorted_shapley(brought, gaps, slack, self.k, 1 / classes if self.form == "soft" else None)
            yield here, torch.zeros_like(right).scatter_(1, order, found)
