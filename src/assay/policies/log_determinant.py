r"""Log-determinant: examples that span the largest volume, as a determinantal point process takes its most probable ones.

$$ f(S) = \log \det (S_S + \delta I), \qquad j \text{ adds } \log (s_{jj} + \delta - s_{jS} (S_S + \delta I)^{-1} s_{Sj}). $$
"""

import dataclasses
import math
from typing import ClassVar

from ..core.errors import UsageError
from ..core.greedy_selection import AbstractGreedySelector
from ..core.method import Source
from ..maths.example_vectors import Vectors
from ..maths.greedy import Greedy
from ..maths.similarities import Similarity
from ..maths.submodular import LogDeterminant as Volume


@dataclasses.dataclass(frozen=True)
class LogDeterminant(AbstractGreedySelector):
    """Keeps examples that are as different as possible, each the one that those before it explain least. No score is read.

    Similarities are (1 + cos) / 2. Near-duplicates are taken last, outliers early. A smaller budget keeps the first of those that a larger one keeps. Memory holds
    the square of the number kept, or of the dimensions where those are fewer (gradients of the head have no such form), and a step solves a triangular system of
    that size for each example that is looked at.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1; or a whole number, how many stay.
        features: Features whose similarities are taken: `inputs`, `rows:NAME`, or features from a kept model, such as `penultimate` or `head_grads`.
        ridge: Added to the similarity of each example with itself, above 0: how different two examples must be to count as two. More examples than
            the features have dimensions are told apart by it.
        by_class: Whether each given class is taken by itself, in proportion to its examples.
        greedy: `lazy`; `naive`, which takes the same examples and is slower; `approximate`, which accepts what is within 0.1 of a step's last known
            best; `stochastic`, which looks at 64 examples before each step.
        seed: Seed of the draws of `stochastic`.
    """

    keep: int | float
    features: str = "inputs"
    ridge: float = 0.01
    by_class: bool = False
    greedy: Greedy = "lazy"
    seed: int | None = None
    name: ClassVar[str] = "log_determinant"
    source: ClassVar[Source] = Source(
        "Guo et al. 2022, DeepCore (log-determinant); Chen, Zhang and Zhou 2018, Fast greedy MAP inference for determinantal point processes",
        "https://arxiv.org/abs/2204.08499",
        "what an example adds is the log of the variance that is left, where DeepCore's code takes the variance that is explained, which has the other sign; a ridge, "
        "without which no more examples than dimensions have a determinant above 0; any features; ties break by id; classes by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.ridge < math.inf:
            raise UsageError(f"{self.name}: ridge={self.ridge} is no finite number above 0.")

    def objective(self, vectors: Vectors) -> Volume:
        return Volume(Similarity(vectors), self.ridge)

    def reason(self, gain: float) -> str:
        return f"adds {gain:.4g} to the log of the volume"
