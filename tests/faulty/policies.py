"""Wrong policies on purpose: each makes one mistake that real code has made. Every law must catch one, and each must be caught."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from assay.core.method import Asks, Source
from assay.core.needs import Need
from assay.core.scores import ordered
from assay.core.selection import AbstractSelector, Pool, Selection, budget_of
from assay.maths import draws
from assay.maths.coverage import farthest_first


def answer(order: Tensor, budget: int) -> Selection:
    return Selection.first(order, budget, "kept", "dropped")


@dataclasses.dataclass(frozen=True)
class Ranked(AbstractSelector):
    """What the others spoil; right by itself."""

    keep: float
    name: ClassVar[str] = "ranked"
    reads: ClassVar[frozenset[Need]] = frozenset()
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source("none", "none")

    def __post_init__(self):
        super().__post_init__()
        budget_of(self.keep, 0)

    def select(self, pool: Pool) -> Selection:
        order = ordered(pool.values, pool.ids, descending=True)
        return answer(order, budget_of(self.keep, len(pool)))


@dataclasses.dataclass(frozen=True)
class Drawn(Ranked):
    """What the faulty draws spoil; right by itself."""

    seed: int

    def select(self, pool: Pool) -> Selection:
        order = draws.permutation(pool.ids.keys, self.seed, "drawn")
        return answer(order, budget_of(self.keep, len(pool)))


@dataclasses.dataclass(frozen=True)
class Weighs(Ranked):
    """What the faulty weights spoil; right by itself."""

    def select(self, pool: Pool) -> Selection:
        weights = 1 + pool.ids.ranks.to(torch.float64) / len(pool)
        return dataclasses.replace(super().select(pool), weights=weights)


@dataclasses.dataclass(frozen=True)
class Spreads(Ranked):
    """What the faulty cover spoils; right by itself."""

    reads = frozenset({Need.FEATURES})
    needs_score = False
    asks = Asks(features=("inputs",))

    def select(self, pool: Pool) -> Selection:
        order, _ = farthest_first(pool.features("inputs"), len(pool), pool.ids.ranks)
        return answer(order, budget_of(self.keep, len(pool)))


class Truncates(Ranked):
    """int((1 - (1 - keep)) * n) is one short at 10 %."""

    def select(self, pool: Pool) -> Selection:
        order = ordered(pool.values, pool.ids, descending=True)
        return answer(order, int((1 - (1 - self.keep)) * len(pool)))


class ZeroIsAll(Ranked):
    """order[-0:] is everything."""

    def select(self, pool: Pool) -> Selection:
        order = ordered(pool.values, pool.ids, descending=False)
        kept = torch.zeros(len(order), dtype=torch.bool)
        kept[order[-budget_of(self.keep, len(pool)) :]] = True
        return Selection(kept, "kept", "dropped")


class TiesByArrival(Ranked):
    """A stable sort of the values as they come."""

    def select(self, pool: Pool) -> Selection:
        order = torch.argsort(pool.values, descending=True, stable=True)
        return answer(order, budget_of(self.keep, len(pool)))


class LastClassCount(Ranked):
    """Every class gets the budget of the last one."""

    reads = frozenset({Need.LABELS})

    def select(self, pool: Pool) -> Selection:
        kept = torch.zeros(len(pool), dtype=torch.bool)
        order = ordered(pool.values, pool.ids, descending=True)
        budget = budget_of(self.keep, int(torch.bincount(pool.labels)[-1]))
        for label in pool.labels.unique():
            kept[order[pool.labels[order] == label][:budget]] = True
        return Selection(kept, "kept", "dropped")


class UncheckedKeep(Ranked):
    """Takes any keep; slices clip it without a word."""

    def __post_init__(self):
        pass

    def select(self, pool: Pool) -> Selection:
        order = ordered(pool.values, pool.ids, descending=True)
        return answer(order, math.floor(self.keep * len(pool) + 1e-9))


class SortsInPlace(Ranked):
    """Marks what it has taken in the scores themselves."""

    def select(self, pool: Pool) -> Selection:
        choice = super().select(pool)
        pool.values[choice.kept] = -math.inf
        return choice


class NumericIds(Ranked):
    """Takes ids for numbers."""

    def select(self, pool: Pool) -> Selection:
        by_id = torch.from_numpy(np.argsort(pool.ids.values.astype(np.int64)))
        order = by_id[torch.argsort(pool.values[by_id], descending=True, stable=True)]
        return answer(order, budget_of(self.keep, len(pool)))


class Undeclared(Ranked):
    """Looks at labels that it does not declare."""

    def select(self, pool: Pool) -> Selection:
        order = ordered(pool.values + pool.labels, pool.ids, descending=True)
        return answer(order, budget_of(self.keep, len(pool)))


class TrustsFacts(Ranked):
    """argmax over NaN is a class like any other."""

    reads = frozenset({Need.MEAN_PROBS})

    def select(self, pool: Pool) -> Selection:
        predicted = pool.mean_probs.argmax(1).to(torch.float64)
        order = ordered(pool.values + predicted, pool.ids, descending=True)
        return answer(order, budget_of(self.keep, len(pool)))


class Unseeded(Drawn):
    """np.random, which nobody seeded."""

    def select(self, pool: Pool) -> Selection:
        order = torch.from_numpy(np.random.permutation(len(pool)))
        return answer(order, budget_of(self.keep, len(pool)))


class OneSeed(Drawn):
    """Accepts a seed and ignores it."""

    def select(self, pool: Pool) -> Selection:
        order = draws.permutation(pool.ids.keys, 0, "drawn")
        return answer(order, budget_of(self.keep, len(pool)))


class DrawsAnew(Drawn):
    """Says that its budgets nest, and draws anew for each."""

    def select(self, pool: Pool) -> Selection:
        budget = budget_of(self.keep, len(pool))
        return answer(draws.permutation(pool.ids.keys, self.seed, "drawn", budget), budget)


class DrawsPositions(Drawn):
    """Draws positions, so that another order of the same examples gives another decision."""

    def select(self, pool: Pool) -> Selection:
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(self.seed))
        return answer(order, budget_of(self.keep, len(pool)))


class OrderOfIds(Ranked):
    """Keeps what nests, and names it in the order of the ids."""

    def select(self, pool: Pool) -> Selection:
        choice = super().select(pool)
        kept = choice.kept.nonzero().flatten()
        return dataclasses.replace(choice, order=kept[pool.ids.ranks[kept].argsort()])


class WeighsNothing(Weighs):
    """The solver of the weights leaves 0 for some that it selected, as those of non-negative least squares do."""

    def select(self, pool: Pool) -> Selection:
        choice = super().select(pool)
        weights = choice.weights.clone()
        weights[choice.order[-1:]] = 0
        return dataclasses.replace(choice, weights=weights, order=None)


class Crowds(Spreads):
    """argmin where the distance wants argmax, as in released code of herding the other way round."""

    def select(self, pool: Pool) -> Selection:
        rows = pool.features("inputs").double()
        order = ordered((rows - rows.mean(0)).norm(dim=1), pool.ids, descending=False)
        near = (rows - rows[order[0]]).norm(dim=1)
        return answer(ordered(near, pool.ids, descending=False), budget_of(self.keep, len(pool)))


class Outlying(Spreads):
    """The farthest from the mean first, whether a copy of it is there already or not."""

    def select(self, pool: Pool) -> Selection:
        rows = pool.features("inputs").double()
        order = ordered((rows - rows.mean(0)).norm(dim=1), pool.ids, descending=True)
        return answer(order, budget_of(self.keep, len(pool)))


SOUND = [Ranked, Drawn, Weighs, Spreads]
FAULTY = {
    Truncates: "exact_count",
    ZeroIsAll: "nothing_and_all",
    TiesByArrival: "ties_break_by_id",
    LastClassCount: "exact_count",
    UncheckedKeep: "keep_outside_is_refused",
    SortsInPlace: "input_is_untouched",
    NumericIds: "string_ids_work",
    Undeclared: "reads_what_it_declares",
    TrustsFacts: "nan_is_refused",
    Unseeded: "same_call_same_decision",
    OneSeed: "another_seed_differs",
    DrawsAnew: "budgets_nest",
    DrawsPositions: "order_does_not_matter",
    OrderOfIds: "the_order_is_that_of_the_budgets",
    WeighsNothing: "weights_survive_to_retraining",
    Crowds: "clusters_are_covered",
    Outlying: "duplicates_are_passed_over",
}
"""Each faulty policy, and the law that was written against its mistake."""
