r"""Graph cut: examples that are like many others and unlike each other.

$$ f(S) = \lambda \sum_i \sum_{j \in S} s_{ij} - \sum_{i, j \in S} s_{ij}, \qquad
   j \text{ adds } \lambda \sum_i s_{ij} - 2 \sum_{i \in S} s_{ij} - s_{jj}. $$
"""

import dataclasses
import math
from typing import ClassVar

from ..core.errors import UsageError
from ..core.greedy_selection import AbstractGreedySelector
from ..core.method import Source
from ..maths.example_vectors import Vectors
from ..maths.greedy import Greedy
from ..maths.similarities import Similar, Similarity
from ..maths.submodular import GraphCut as Cut


@dataclasses.dataclass(frozen=True)
class GraphCut(AbstractGreedySelector):
    """Keeps examples that have much in common with all and little with one another. No score is read.

    A smaller budget keeps the first of those that a larger one keeps. A step costs as much as the similarities of one example with all, and memory holds
    one number for each example beside the features.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1; or a whole number, how many stay.
        features: Features whose similarities are taken: `inputs`, `rows:NAME`, or features from a kept model, such as `penultimate` or `head_grads`.
        representation: How much what is in common with all counts, above 0. Above about twice the fraction kept, the most central examples
            are taken again and again; from 2 on nothing ever takes away from the function.
        similarity: `cosine`, (1 + cos) / 2; or `euclidean`, 1 less the distance over twice the greatest distance from the mean.
        by_class: Whether each given class is taken by itself, in proportion to its examples.
        greedy: `lazy`; `naive`, which takes the same examples; `approximate`, which accepts 0.9 of a step's best; `stochastic`, which looks at 64
            examples before each step.
        seed: Seed of the draws of `stochastic`.
    """

    keep: int | float
    features: str = "inputs"
    representation: float = 0.1
    similarity: Similar = "cosine"
    by_class: bool = False
    greedy: Greedy = "lazy"
    seed: int | None = None
    name: ClassVar[str] = "graph_cut"
    source: ClassVar[Source] = Source(
        "Guo et al. 2022, DeepCore (graph cut; Iyer et al. 2021)",
        "https://arxiv.org/abs/2204.08499",
        "the similarity of an example with itself, which DeepCore's code drops from what it adds, is there; representation 0.1 where its code has 1, with which "
        "ten examples of the largest of eight planted clusters are taken before one of the smallest; any features; ties break by id; classes by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.representation < math.inf:
            raise UsageError(f"{self.name}: representation={self.representation} is no finite number above 0.")

    def objective(self, vectors: Vectors) -> Cut:
        return Cut(Similarity(vectors, self.similarity), self.representation)
