"""Bootstrap samples of the examples that learners are trained on, and out-of-bag means for each example."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from . import draws


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
