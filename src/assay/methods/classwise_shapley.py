r"""Class-wise Shapley: what an example adds to the accuracy on its own class, in orders of that class, beside random examples of the others.

$$ \phi_i = \mathbb{E}_{S}\, \mathbb{E}_\pi \left[ u_y(P_i^\pi \cup \{i\} \mid S) - u_y(P_i^\pi \mid S) \right], \quad
   u_y(S_y \mid S) = a_y e^{a_{-y}} $$

y is the label of i, S a random subset of the examples with other labels, pi an order of those with label y. a_y is the share of all held-out examples that
are of class y and predicted right by the learner trained on both, a_{-y} that of the others. An example that helps its own class is worth more than
one that helps others at its class's cost. The values of a class add up to the mean rise of u_y from none to all of its examples.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.game import UNITS
from ..core.game_method import GROUPS, AbstractDrawnGameMethod, Tally
from ..core.method import Exactness, MonteCarlo, Source
from ..core.options import at_least
from ..core.results import Result
from ..maths import draws
from ..maths.games import out_of_bag_means, subset

TOGETHER = 8
"""Subsets with an order that are valued together; a rule that stops is asked after each of them."""


def classwise_shapley(own: Float[Tensor, "... sizes"], others: Float[Tensor, "... sizes"]) -> Float64[Tensor, "... players"]:
    """Rise of the class-wise value a_y exp(a_-y) as the players of a class join one after the other.

    Args:
        own: Share of the held-out examples that are of the class and predicted right, for the first 0, 1, ... players.
        others: Share that is of other classes and predicted right.

    Returns:
        One per player, in the order of joining.

    Source: Schoch et al. 2022, section 4.
    """
    return (own.to(torch.float64) * others.to(torch.float64).exp()).diff(dim=-1)


@dataclasses.dataclass(frozen=True)
class ClasswiseShapley(AbstractDrawnGameMethod):
    """Mean rise of a value that puts the accuracy on the example's own class first: high where it helps its class, below 0 where it does harm to it.

    Args:
        learner: The learner to train, with options joined by `+`: `logistic`, `knn:k=3`, `ridge`, `net:width=64+steps=50`, `tree`, or a classifier of
            scikit-learn such as `sklearn.naive_bayes.GaussianNB`.
        utility: What a set of examples is worth, a mean over the held-out examples: `accuracy`, the share that is predicted right; `prob`, the
            probability of the label; or `log_prob`, its logarithm, after 0.01 of chance is mixed in.
        target: The held-out examples: `validation`, `class=NAME`, `test`, or a name that targets= gives.
        features: The learner's input: `inputs`, `rows:NAME` from outside (`--inputs NAME=FILE`, and `NAME@validation` for the held-out examples), or features
            from a kept model, such as `penultimate`.
        seed: Seed of all draws.
        samples: How many random subsets of other classes at most, each with an order of the class, for every class.
        error: Stop once the largest standard error is at most this; 0 draws all samples.
    """

    samples: int = 100
    error: float = 0.0
    name: ClassVar[str] = "classwise_shapley"
    below_zero: ClassVar[str] = (
        "makes the learner worse on its own class of the held-out examples, on average over the sets of others that it joins"
    )
    exactness: ClassVar[Exactness] = MonteCarlo("samples")
    source: ClassVar[Source] = Source(
        "Schoch et al. 2022",
        "https://arxiv.org/abs/2211.06800",
        "every prefix of an order is trained; values are not scaled to the accuracy of their class, whose sum may be near 0; with utility=prob, the "
        "probability of the label in place of its being predicted",
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, samples=2, error=0.0)
        if self.utility == "log_prob":
            raise UsageError(f"{self.title}: utility=log_prob is below 0, where this value means nothing; give accuracy or prob.")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """A mean change of the class-wise value."""
        return f"mean change of a exp(b), of the {UNITS[self.utility]}: a of its class, b of the others"

    def run(self, evidence: Evidence) -> Result:
        game, ids, labels = self.game(evidence), evidence.ids, evidence.labels.cpu()
        tally = Tally(len(ids), min(GROUPS, self.samples))
        ranked = ids.ranks.argsort()
        # Numbered by their first examples, so that other names for the classes draw the same.
        classes = [label for label in dict.fromkeys(labels[ranked].tolist())]
        for start in range(0, self.samples, TOGETHER):
            numbers = range(start, min(start + TOGETHER, self.samples))
            terms = torch.zeros(len(numbers), len(ids), dtype=torch.float64)
            for place, label in enumerate(classes):
                mine = (labels == label).nonzero().flatten()
                orders, coalitions = [], []
                for number in numbers:
                    beside = subset(ids.keys, self.seed, number * len(classes) + place) & (labels != label)
                    order = mine[draws.permutation(ids.keys[mine.numpy()], self.seed, "permutation of a class", number)]
                    chain = beside.repeat(len(mine) + 1, 1)
                    chain[:, order] |= torch.ones(len(mine) + 1, len(mine), dtype=torch.bool).tril(-1)
                    orders.append(order)
                    coalitions.append(chain)
                parts = game.class_values(torch.cat(coalitions)).reshape(len(numbers), len(mine) + 1, -1)
                own = parts[..., label]
                terms.scatter_(1, torch.stack(orders), classwise_shapley(own, parts.sum(-1) - own))
            tally.add(terms)
            if self.error and float(tally.errors.max()) <= self.error:
                break
        values, groups = out_of_bag_means(tally.sums, tally.counts)
        warnings = self.said(game) + self.too_inexact(tally.errors, f"{tally.drawn} samples", "samples")
        return dataclasses.replace(tally.result(values, groups, {"samples": tally.drawn}), warnings=warnings)
