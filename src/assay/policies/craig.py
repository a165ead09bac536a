r"""CRAIG: examples whose weighted gradients add up to nearly the gradient of all.

$$ \min_{|S| = k} \sum_i \min_{j \in S} \lVert g_i - g_j \rVert, \qquad
   \gamma_j = |\{ i : j = \arg\min_{l \in S} \lVert g_i - g_l \rVert \}|, \quad \sum_j \gamma_j = n. $$

The sum bounds the error of the weighted gradient, $\lVert \sum_i g_i - \sum_{j \in S} \gamma_j g_j \rVert$.
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from ..core.greedy_selection import AbstractGreedySelector, Taken
from ..core.method import Source
from ..maths.example_vectors import Vectors
from ..maths.greedy import Greedy
from ..maths.similarities import Similarity
from ..maths.submodular import FacilityLocation


@dataclasses.dataclass(frozen=True)
class Craig(AbstractGreedySelector):
    """Keeps the examples whose gradients are nearest to those of all others, each weighted by how many it stands for. No score is read.

    Every example stands with the one kept whose gradient is nearest, in its class; those kept stand for themselves. The numbers of those that each stands for
    add up to the number of examples. Of gradients of the head only their factors are kept, (d + C) numbers for each example where they have d C. With
    by_class, distances are kept in memory up to 5,792 examples of a class: of 50,000 examples in 10 classes, with 512 numbers before the head, a tenth took
    10 seconds of one core and 183 MB beside the factors. All classes together cost the square of their number more (see facility_location).

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1; or a whole number, how many stay.
        features: Gradients: `head_grads`, `grads:project=NUMBER`; or any other features.
        by_class: Whether each given class is taken by itself, in proportion to its examples.
        weights_as: `mean`: the numbers are divided by their mean, so that weights are 1 in the mean and a step on a batch of the examples kept is
            as long as one on a batch of all, in a training that divides by the size of the batch, as `assay verify` does. `count`: the numbers
            themselves, for a training that divides by the sum of the weights.
        greedy: `lazy`; `naive`, which takes the same examples and is slower; `approximate`, which accepts 0.9 of a step's best; `stochastic`, which
            looks at 64 examples before each step.
        seed: Seed of the draws of `stochastic`.
    """

    keep: int | float
    features: str = "head_grads"
    by_class: bool = True
    weights_as: Literal["mean", "count"] = "mean"
    greedy: Greedy = "lazy"
    seed: int | None = None
    name: ClassVar[str] = "craig"
    source: ClassVar[Source] = Source(
        "Mirzasoleiman, Bilmes and Leskovec 2020, Coresets for data-efficient training of machine learning models",
        "https://arxiv.org/abs/1906.01827",
        "once, by a kept model, where the paper selects anew as training goes on; all classes together (by_class=false), which refers to data that do not exist in "
        "DeepCore's code; weights of mean 1 unless weights_as=count; stochastic samples have 64 examples; ties break by id; classes by Webster's quotients",
    )

    def objective(self, vectors: Vectors) -> FacilityLocation:
        return FacilityLocation(Similarity(vectors, "euclidean"))

    def weights(self, taken: Taken, share: float) -> Float64[Tensor, " taken"]:
        assert isinstance(taken.objective, FacilityLocation)
        # What adds nothing is in the order without having been taken by the objective, and stands for itself too.
        nearest = taken.objective.nearest.clone()
        nearest[taken.order] = taken.order
        counts = torch.bincount(nearest, minlength=len(nearest))[taken.order].to(torch.float64)
        return counts if self.weights_as == "count" else counts * share
