"""Samples of the examples that learners are trained on, what their predictions are worth, and means of that for each example."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from . import draws

FLOOR = 0.01
"""Share of chance that is mixed into probabilities before their logarithm is taken, which is infinite of a class that nobody has."""


def bootstrap(players: int, seed: int, bag: int) -> Int[Tensor, " players"]:
    """How often each player is drawn in as many draws with replacement as there are players.

    Args:
        players: Number of players. The caller numbers them, by something that does not depend on the order of the data.
        seed: Seed of all bags.
        bag: Number of the bag.

    Returns:
        int64, at least 0; they add up to `players`.
    """
    picks = draws.integers(np.arange(players, dtype=np.uint64), players, seed, "bootstrap", bag)
    return torch.bincount(picks, minlength=players)


def agreement(
    probs: Float[Tensor, "*batch examples classes"], labels: Int[Tensor, " examples"]
) -> Float64[Tensor, "*batch examples"]:
    """1 where the most probable class is the label, 0 where it is another, 1 / m where the label is one of m that tie for it."""
    first = probs == probs.amax(-1, keepdim=True)
    label = labels.expand(probs.shape[:-1])[..., None]
    return first.gather(-1, label)[..., 0].to(torch.float64) / first.sum(-1)


def label_probs(
    probs: Float[Tensor, "*batch examples classes"], labels: Int[Tensor, " examples"]
) -> Float64[Tensor, "*batch examples"]:
    """Probability of each example's label."""
    return probs.gather(-1, labels.expand(probs.shape[:-1])[..., None])[..., 0].to(torch.float64)


def utilities(
    probs: Float[Tensor, "*batch examples classes"],
    labels: Int[Tensor, " examples"],
    utility: Literal["accuracy", "prob", "log_prob"],
) -> Float64[Tensor, "*batch examples"]:
    """What the prediction of each example is worth: `agreement`, `label_probs`, or the logarithm of the latter mixed with `FLOOR` of chance."""
    if utility == "accuracy":
        return agreement(probs, labels)
    own = label_probs(probs, labels)
    return own if utility == "prob" else (own * (1 - FLOOR) + FLOOR / probs.shape[-1]).log()


def subset(keys: np.ndarray, seed: int, number: int, share: float = 0.5) -> Bool[Tensor, " players"]:
    """A random subset of the players: each is in it with the same chance, whatever others are.

    Args:
        keys: A key per player (`Ids.keys`).
        seed: Seed of all subsets.
        number: Number of the subset.
        share: The chance.

    Returns:
        Whether each player is in it.
    """
    return draws.uniform(keys, seed, "subset of players", number) < share


def marginals(
    orders: Int[Tensor, "orders players"], values: Float[Tensor, "orders sizes"], weights: Float[Tensor, " players"] | None = None
) -> Float64[Tensor, "orders players"]:
    """By how much the value rises when each player joins those before it in each order.

    Args:
        orders: Orders of the players, by their positions.
        values: Value of the first 0, 1, ... players of each order; one more than there are players.
        weights: Factor of the rise, by how many stand before the player; all 1 by default.

    Returns:
        In the order of the players.
    """
    rises = values.to(torch.float64).diff(dim=1)
    return torch.empty_like(rises).scatter_(1, orders, rises if weights is None else rises * weights)


def beta_weights(players: int, alpha: float, beta: float) -> Float64[Tensor, " players"]:
    r"""Weight of a player's marginal contribution to coalitions of 0, 1, ... others, relative to Shapley's.

    $$ w_j = n \binom{n-1}{j} \frac{B(j + \beta,\, n - 1 - j + \alpha)}{B(\alpha, \beta)} $$

    Args:
        players: Number of players, n.
        alpha: Above 0; the larger, the more small coalitions count.
        beta: Above 0; the larger, the more large coalitions count.

    Returns:
        Weights of mean 1; all 1 for alpha = beta = 1.

    Source: Kwon and Zou 2022, theorem 2.
    """
    size = torch.arange(players - 1, dtype=torch.float64)
    # The factor from each weight to the next: logarithms of beta functions themselves lose their digits where alpha or beta is large.
    factors = (players - 1 - size) / (size + 1) * ((size + beta) / (players - 2 - size + alpha))
    return torch.cat([torch.zeros(1, dtype=torch.float64), factors.log().cumsum(0)]).softmax(0) * players


def out_of_bag_sums(
    terms: Float[Tensor, "bags examples"], outside: Bool[Tensor, "bags examples"]
) -> tuple[Float64[Tensor, " examples"], Float64[Tensor, " examples"]]:
    """Sum of each example's terms over the bags without it, and their number."""
    return terms.to(torch.float64).where(outside, 0.0).sum(0), outside.to(torch.float64).sum(0)


def out_of_bag_means(
    sums: Float64[Tensor, "groups examples"], counts: Float64[Tensor, "groups examples"]
) -> tuple[Float64[Tensor, " examples"], Float64[Tensor, "groups examples"]]:
    r"""Mean of each example's terms over the bags without it, and a linearised value of this mean from each group of bags.

    The mean is the ratio v = S / N, with S and N the sums of S_g and N_g over the G groups. The linearised value of
    a group is v + (S_g - v N_g) G / N: its mean over the groups is v, and its standard deviation divided by sqrt(G) is the standard error
    of v, however many bags of a group are without the example.

    Args:
        sums: Sum of the terms of each group of bags, S_g.
        counts: How many bags of each group are without the example, N_g.

    Returns:
        The means, and the linearised values by group; NaN for examples that are in every bag.
    """
    total = counts.sum(0)
    means = sums.sum(0) / total
    return means, means + (sums - means * counts) * (len(sums) / total)
