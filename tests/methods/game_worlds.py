"""Small games whose every coalition is gone through, for the tests of methods that play them."""

import itertools
import math

import torch

from assay.core.game import Valuation
from assay.core.held_out import HeldOutRows
from assay.core.ids import Ids
from assay.experiments.evidence import gather_inputs
from assay.experiments.games import game_of
from assay.testing.worlds import six


def every_coalition(players):
    """All subsets, by the number whose bits they are."""
    return (torch.arange(2**players)[:, None] >> torch.arange(players)) & 1 > 0


def number(members):
    return sum(2**one for one in members)


def six_values(inputs, labels, method):
    """Value of every coalition of the six examples of the laws."""
    held = HeldOutRows.alike(*six().held_out)
    game = game_of(Ids(range(len(labels))), inputs, labels, 2, method.learner, Valuation(held, method.utility))
    return game.values(every_coalition(len(labels)))


def semivalue(values, weight):
    """Sum over all coalitions without a player of weight(size) times what the player adds to them."""
    players = int(math.log2(len(values)))
    found = torch.zeros(players, dtype=torch.float64)
    for player in range(players):
        others = [one for one in range(players) if one != player]
        for size in range(players):
            for members in itertools.combinations(others, size):
                found[player] += weight(size) * (values[number((*members, player))] - values[number(members)])
    return found


def shapley_weight(players):
    return lambda size: 1 / (players * math.comb(players - 1, size))


def planted(n=24, held=60, classes=3, seed=0, spread=0.6):
    """Examples around centres, every sixth labelled wrong, the last twice the one before it; and held-out examples."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n + held) % classes
    rows = 2 * torch.eye(classes, 4)[labels].double() + spread * torch.randn(n + held, 4, generator=draw, dtype=torch.float64)
    rows[n - 1], labels[n - 1] = rows[n - 2], labels[n - 2]
    given = labels[:n].clone()
    given[::6] = (given[::6] + 1) % classes
    return rows[:n], given, (rows[n:], labels[n:])


def evidence(rows, labels, held_out, ids=None):
    return gather_inputs(Ids(range(len(labels))) if ids is None else ids, rows, labels, {"validation": held_out})


class Table:
    """A game whose values are all known, by the number of the coalition."""

    def __init__(self, players, values):
        self.players, self.remarks, self.known = players, {}, values

    def values(self, coalitions):
        return self.known[(coalitions.long() * 2 ** torch.arange(coalitions.shape[1])).sum(1)]

    def path_values(self, orders, truncate=0.0):
        masks = torch.zeros(len(orders), orders.shape[1] + 1, orders.shape[1], dtype=torch.bool)
        for size in range(orders.shape[1]):
            masks[:, size + 1] = masks[:, size].scatter(1, orders[:, size, None], True)
        return self.values(masks.flatten(0, 1)).reshape(len(orders), -1), torch.full((len(orders),), orders.shape[1] + 1)

    def predictions(self, coalitions):
        raise NotImplementedError

    def player_utilities(self, coalitions, utility):
        raise NotImplementedError

    def class_values(self, coalitions):
        raise NotImplementedError
