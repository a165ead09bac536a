"""A decision tree, by default grown without a limit of depth."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.learner import AbstractLearner, Fitted
from ..core.options import at_least
from .sklearn import fitted


@dataclasses.dataclass(frozen=True)
class Tree(AbstractLearner):
    """scikit-learn's decision tree by Gini impurity. The seed decides which of several equally good splits is taken.

    Args:
        depth: Largest number of splits on the way to a leaf; none for no limit.
        leaf: Smallest number of examples in a leaf, each counted as often as its weight says.
    """

    depth: int | None = None
    leaf: int = 1
    name: ClassVar[str] = "tree"
    summary: ClassVar[str] = "decision tree by Gini impurity, grown to the end by default"

    def __post_init__(self):
        super().__post_init__()
        at_least(self, leaf=1)
        if self.depth is not None:
            at_least(self, depth=1)

    def train(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, " examples"],
        seed: int,
    ) -> Fitted:
        from sklearn.tree import DecisionTreeClassifier

        tree = DecisionTreeClassifier(max_depth=self.depth, min_samples_leaf=self.leaf, random_state=seed % 2**32)
        return fitted(tree, self.title, rows, labels, classes, weights)
