"""Shapley values of games whose players are neighbours of one query, in closed form.

Of N players, sorted by their distance from the query, player j brings a_j. With c_j what one unit of difference between two neighbours in that order is
worth, s_j - s_{j+1} = c_j (a_j - a_{j+1}), so that s_j = c_j a_j + sum_{l > j} a_l (c_l - c_{l-1}) + a constant (Jia et al. 2019, theorem 1). Players at
the same distance have the mean over all their orders.
"""

import torch
from jaxtyping import Float64
from torch import Tensor


def sorted_shapley(
    brought: Float64[Tensor, "queries players"],
    gaps: Float64[Tensor, "queries players"],
    slack: Float64[Tensor, " queries"],
    k: int,
    empty: float | None = None,
) -> Float64[Tensor, "queries players"]:
    """Shapley values of v(S) = sum of a over the k nearest of S, divided by k; or, with `empty`, by how many these are.

    Args:
        brought: a of each player, in the order of the distances.
        gaps: Distances, rising.
        slack: Distances of a query that differ by no more than this count as equal.
        k: How many of the nearest count, at least 1; more than there are players is all of them.
        empty: Value of no player at all, for the mean of those that count; None where the sum is divided by k and no player is worth 0.

    Returns:
        In the order of the distances. They add up to v of all less v of none.
    """
    players = brought.shape[1]
    place = torch.arange(1, players + 1, dtype=torch.float64)
    if empty is None:
        worth = 1 / place.clamp(min=k)
    else:
        harmonic = float((1 / torch.arange(1, min(k, max(players - 1, 1)) + 1, dtype=torch.float64)).sum())
        beyond = (
            (place.clamp(max=k) * (players - 1) / place - k) / k if players > k else torch.zeros(players, dtype=torch.float64)
        )
        worth = (harmonic + beyond) / max(players - 1, 1)
        worth[-1] = 0.0
    steps = worth.diff(prepend=worth[:1])
    new = torch.ones_like(gaps, dtype=torch.bool)
    new[:, 1:] = gaps.diff(dim=1) > slack[:, None]
    if bool(new.all()):
        own, mean = worth * brought, brought
        later = _later(brought * steps)
    else:
        # Players of one distance: each is at each of their places equally often, and before or after each other of them.
        group = new.cumsum(1) - 1

        def over_group(values: Tensor) -> Tensor:
            return torch.zeros_like(gaps).scatter_add_(1, group, values.expand_as(gaps)).gather(1, group)

        members = over_group(torch.ones((), dtype=torch.float64))
        level, together = over_group(worth) / members, over_group(brought)
        last = worth[
            (torch.zeros_like(gaps).scatter_reduce_(1, group, place.expand_as(gaps), "amax").gather(1, group) - 1).long()
        ]
        own = level * brought + (last - level) * (together - brought) / (members - 1).clamp(min=1)
        mean = together / members
        whole = torch.zeros_like(gaps).scatter_add_(1, group, mean * steps)
        later = _later(whole).gather(1, group)
    found = own.add_(later)
    if empty is None:
        return found
    # What is left of the value of all is everybody's.
    spare = mean[:, :k].mean(1) - empty - (mean * (place * worth - (place - 1) * _before(worth))).sum(1)
    return found.add_((spare / players)[:, None])


def _later(values: Tensor) -> Tensor:
    """For each place the sum of what comes after it, from the end."""
    return values.flip(1).cumsum(1).flip(1).sub_(values)


def _before(values: Tensor) -> Tensor:
    return torch.cat([values.new_zeros(1), values[:-1]])


def ball_shapley(
    right: Float64[Tensor, "queries players"], inside: Float64[Tensor, "queries players"], empty: float
) -> Float64[Tensor, "queries players"]:
    """Shapley values of v(S) = mean of a over the players of S that are near enough, and `empty` where none is.

    A player that is too far away changes no value and has 0. Of m that are near enough, with H_m = 1 + 1/2 + ... + 1/m,

        s_i = (a_i - empty + (a_i - mean of the others near enough) (H_m - 1)) / m.

    Args:
        right: a of each player.
        inside: 1 for players that are near enough, 0 for others.
        empty: Value of no player at all.

    Returns:
        In the order of the players.

    Source: the utility of Wang et al. 2023, Threshold KNN-Shapley.
    """
    count = inside.sum(1, keepdim=True)
    harmonic = torch.cat(
        [torch.ones(1, dtype=torch.float64), (1 / torch.arange(1, int(count.max()) + 1, dtype=torch.float64)).cumsum(0)]
    )
    brought = right * inside
    others = (brought.sum(1, keepdim=True) - brought) / (count - 1).clamp(min=1)
    found = right - empty + (right - others) * (harmonic[count.long()] - 1)
    return found.mul_(inside) / count.clamp(min=1)
