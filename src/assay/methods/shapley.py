r"""Data Shapley: what an example adds to a learner's value, averaged over all orders in which the examples could come.

$$ \phi_i = \frac{1}{n!} \sum_\pi \left[ v(P_i^\pi \cup \{i\}) - v(P_i^\pi) \right] $$

P_i are the examples before i in the order pi, v the value of the learner trained on them. The mean is over random orders. The values
add up to what all examples are worth beyond none; equal examples have equal values; an example that never changes the value has 0.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.game_method import AbstractPermutationMethod
from ..core.method import Source
from ..maths.games import marginals


def shapley(orders: Int[Tensor, "orders players"], values: Float[Tensor, "orders sizes"]) -> Float64[Tensor, " players"]:
    """Mean rise of the value when each player joins those before it; exact where the orders are all that there are.

    Args:
        orders: Orders of the players, by their positions.
        values: Value of the first 0, 1, ... players of each order; one more than there are players.

    Returns:
        In the unit of the values; the sum is the mean of the last values less that of the first.

    Source: Ghorbani and Zou 2019.
    """
    return marginals(orders, values).mean(0)


@dataclasses.dataclass(frozen=True)
class Shapley(AbstractPermutationMethod):
    """Mean rise of a learner's value on held-out examples when the example joins others: high where it helps, below 0 where it does harm.

    Args:
        learner: The learner to train, with options joined by `+`: `logistic`, `knn:k=3`, `ridge`, `net:width=64+steps=50`, `tree`, or a classifier of
            scikit-learn such as `sklearn.naive_bayes.GaussianNB`.
        utility: What a set of examples is worth, a mean over the held-out examples: `accuracy`, the share that is predicted right; `prob`, the
            probability of the label; or `log_prob`, its logarithm, after 0.01 of chance is mixed in.
        target: The held-out examples: `validation`, `class=NAME`, `test`, or a name that targets= gives.
        features: The learner's input: `inputs`, `rows:NAME` from outside (`--inputs NAME=FILE`, and `NAME@validation` for the held-out examples), or features
            from a kept model, such as `penultimate`.
        seed: Seed of all draws.
        permutations: How many random orders at most.
        truncate: Once the value of the first examples of an order is at most this far from that of all, the rest of the order adds nothing and is not
            trained (truncated Monte Carlo), which makes values wrong by as much in all; 0 trains every order to its end.
        error: Stop once the largest standard error is at most this; 0 draws all orders.
    """

    name: ClassVar[str] = "shapley"
    below_zero: ClassVar[str] = (
        "makes the learner worse on the held-out examples, on average over the sets of others that it joins"
    )
    source: ClassVar[Source] = Source(
        "Ghorbani and Zou 2019",
        "https://arxiv.org/abs/1904.02868",
        "no truncation by default; the orders stop by a number or by the standard error, not by the change of the values",
    )

    def weights(self, players: int) -> Float64[Tensor, " players"]:
        return torch.ones(players, dtype=torch.float64)
