r"""Facility location: examples such that every other one is like one of them.

$$ f(S) = \sum_i \max_{j \in S} s_{ij}, \qquad j \text{ adds } \sum_i \max(0, s_{ij} - \max_{l \in S} s_{il}). $$
"""

import dataclasses
from typing import ClassVar

from ..core.greedy_selection import AbstractGreedySelector
from ..core.method import Source
from ..maths.example_vectors import Vectors
from ..maths.greedy import Greedy
from ..maths.similarities import Similar, Similarity
from ..maths.submodular import FacilityLocation as StandingForAll


@dataclasses.dataclass(frozen=True)
class FacilityLocation(AbstractGreedySelector):
    """Keeps the examples that stand best for all: dense regions first, each by examples in their middle. No score is read.

    The sum over all examples of the similarity with the most similar one kept is at least 0.63 of the best that as many examples reach. A smaller
    budget keeps the first of those that a larger one keeps. Up to 5,792 examples (of each class, with by_class) all similarities are kept in memory; beyond,
    a few hundred rows of them at a time. Time grows with the square of the examples at least, memory in proportion (docs/results.md has both for 50,000).

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1; or a whole number, how many stay.
        features: Features whose similarities are taken: `inputs`, `rows:NAME`, or features from a kept model, such as `penultimate` or `head_grads`.
        similarity: `cosine`, (1 + cos) / 2; or `euclidean`, 1 less the distance over twice the greatest distance from the mean.
        by_class: Whether each given class is taken by itself, in proportion to its examples, which is faster by the number of classes.
        greedy: `lazy`; `naive`, which takes the same examples and is slower; `approximate`, which accepts 0.9 of a step's best; `stochastic`, which
            looks at 64 examples before each step.
        seed: Seed of the draws of `stochastic`.
    """

    keep: int | float
    features: str = "inputs"
    similarity: Similar = "cosine"
    by_class: bool = False
    greedy: Greedy = "lazy"
    seed: int | None = None
    name: ClassVar[str] = "facility_location"
    source: ClassVar[Source] = Source(
        "Guo et al. 2022, DeepCore (facility location; greedy by Nemhauser et al. 1978, lazy by Minoux 1978, stochastic by Mirzasoleiman et al. 2015)",
        "https://arxiv.org/abs/2204.08499",
        "any features where DeepCore's code takes gradients of the last layer; stochastic samples have 64 examples whatever the budget, so that budgets "
        "nest, where its code takes -ln(0.9) n / k, about one; floor(keep * examples) exactly; ties break by id; classes by Webster's quotients",
    )

    def objective(self, vectors: Vectors) -> StandingForAll:
        return StandingForAll(Similarity(vectors, self.similarity))
