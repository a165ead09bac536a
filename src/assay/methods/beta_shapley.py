r"""Beta Shapley: Data Shapley that counts small or large sets of others more.

$$ \psi_i = \frac{1}{n} \sum_{j=0}^{n-1} w_j\, \Delta_j(i), \quad
   w_j = n \binom{n-1}{j} \frac{B(j + \beta,\, n - 1 - j + \alpha)}{B(\alpha, \beta)} $$

$\Delta_j(i)$ is the mean rise of the value when i joins j others. With alpha = beta = 1 all sizes count the same, as for Data Shapley. A large alpha
counts small sets, where an example changes more than the noise of training does.
"""

import dataclasses
from typing import ClassVar

from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.game_method import AbstractPermutationMethod
from ..core.method import Source
from ..core.options import at_least
from ..maths.games import beta_weights, marginals


def beta_shapley(
    orders: Int[Tensor, "orders players"], values: Float[Tensor, "orders sizes"], alpha: float = 16.0, beta: float = 1.0
) -> Float64[Tensor, " players"]:
    """Mean rise of the value when each player joins those before it, weighted by how many these are.

    Args:
        orders: Orders of the players, by their positions.
        values: Value of the first 0, 1, ... players of each order; one more than there are players.
        alpha: Above 0; the larger, the more small coalitions count.
        beta: Above 0; the larger, the more large coalitions count.

    Returns:
        In the unit of the values.

    Source: Kwon and Zou 2022.
    """
    return marginals(orders, values, beta_weights(orders.shape[1], alpha, beta)).mean(0)


@dataclasses.dataclass(frozen=True)
class BetaShapley(AbstractPermutationMethod):
    """Weighted mean rise of a learner's value on held-out examples when the example joins others: high where it helps, below 0 where it does harm.

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
        alpha: Above 0; the larger, the more small sets of others count.
        beta: Above 0; the larger, the more large sets of others count.
    """

    alpha: float = 16.0
    beta: float = 1.0
    name: ClassVar[str] = "beta_shapley"
    below_zero: ClassVar[str] = (
        "makes the learner worse on the held-out examples, on average over the sets of others that it joins"
    )
    source: ClassVar[Source] = Source(
        "Kwon and Zou 2022",
        "https://arxiv.org/abs/2110.14049",
        "the orders stop by a number or by the standard error, not by the ratio of variances of several chains",
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, alpha=1e-6, beta=1e-6)

    def weights(self, players: int) -> Float64[Tensor, " players"]:
        return beta_weights(players, self.alpha, self.beta)
