"""Wrong policies on purpose: each makes one mistake that real code has made. Every law must catch one, and each must be caught."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from assay.core.method import Source
from assay.core.needs import Need
from assay.core.scores import ordered
from assay.core.selection import AbstractSelector, Pool, Selection, budget_of, keep_first
from assay.maths import draws


def answer(order: Tensor, budget: int) -> Selection:
    return Selection(keep_first(order, budget), "kept", "dropped")


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

    def choose(self, candidates: Pool) -> Selection:
        order = ordered(candidates.values, candidates.ids, descending=True)
        return answer(order, budget_of(self.keep, len(candidates)))


@dataclasses.dataclass(frozen=True)
class Drawn(Ranked):
    """What the faulty draws spoil; right by itself."""

    seed: int

    def choose(self, candidates: Pool) -> Selection:
        order = draws.permutation(candidates.ids.keys, self.seed, "drawn")
        return answer(order, budget_of(self.keep, len(candidates)))


class Truncates(Ranked):
    """int((1 - (1 - keep)) * n) is one short at 10 %."""

    def choose(self, candidates: Pool) -> Selection:
        order = ordered(candidates.values, candidates.ids, descending=True)
        return answer(order, int((1 - (1 - self.keep)) * len(candidates)))


class ZeroIsAll(Ranked):
    """order[-0:] is everything."""

    def choose(self, candidates: Pool) -> Selection:
        order = ordered(candidates.values, candidates.ids, descending=False)
        kept = torch.zeros(len(order), dtype=torch.bool)
        kept[order[-budget_of(self.keep, len(candidates)) :]] = True
        return Selection(kept, "kept", "dropped")


class TiesByArrival(Ranked):
    """A stable sort of the values as they come."""

    def choose(self, candidates: Pool) -> Selection:
        order = torch.argsort(candidates.values, descending=True, stable=True)
        return answer(order, budget_of(self.keep, len(candidates)))


class LastClassCount(Ranked):
    """Every class gets the budget of the last one."""

    reads = frozenset({Need.LABELS})

    def choose(self, candidates: Pool) -> Selection:
        kept = torch.zeros(len(candidates), dtype=torch.bool)
        order = ordered(candidates.values, candidates.ids, descending=True)
        budget = budget_of(self.keep, int(torch.bincount(candidates.labels)[-1]))
        for label in candidates.labels.unique():
            kept[order[candidates.labels[order] == label][:budget]] = True
        return Selection(kept, "kept", "dropped")


class UncheckedKeep(Ranked):
    """Takes any keep; slices clip it without a word."""

    def __post_init__(self):
        pass

    def choose(self, candidates: Pool) -> Selection:
        order = ordered(candidates.values, candidates.ids, descending=True)
        return answer(order, math.floor(self.keep * len(candidates) + 1e-9))


class SortsInPlace(Ranked):
    """Marks what it has taken in the scores themselves."""

    def choose(self, candidates: Pool) -> Selection:
        choice = super().choose(candidates)
        candidates.values[choice.kept] = -math.inf
        return choice


class NumericIds(Ranked):
    """Takes ids for numbers."""

    def choose(self, candidates: Pool) -> Selection:
        by_id = torch.from_numpy(np.argsort(candidates.ids.values.astype(np.int64)))
        order = by_id[torch.argsort(candidates.values[by_id], descending=True, stable=True)]
        return answer(order, budget_of(self.keep, len(candidates)))


class Undeclared(Ranked):
    """Looks at labels that it does not declare."""

    def choose(self, candidates: Pool) -> Selection:
        order = ordered(candidates.values + candidates.labels, candidates.ids, descending=True)
        return answer(order, budget_of(self.keep, len(candidates)))


class TrustsFacts(Ranked):
    """argmax over NaN is a class like any other."""

    reads = frozenset({Need.MEAN_PROBS})

    def choose(self, candidates: Pool) -> Selection:
        predicted = candidates.mean_probs.argmax(1).to(torch.float64)
        order = ordered(candidates.values + predicted, candidates.ids, descending=True)
        return answer(order, budget_of(self.keep, len(candidates)))


class Unseeded(Drawn):
    """np.random, which nobody seeded."""

    def choose(self, candidates: Pool) -> Selection:
        order = torch.from_numpy(np.random.permutation(len(candidates)))
        return answer(order, budget_of(self.keep, len(candidates)))


class OneSeed(Drawn):
    """Accepts a seed and ignores it."""

    def choose(self, candidates: Pool) -> Selection:
        order = draws.permutation(candidates.ids.keys, 0, "drawn")
        return answer(order, budget_of(self.keep, len(candidates)))


class DrawsAnew(Drawn):
    """Says that its budgets nest, and draws anew for each."""

    def choose(self, candidates: Pool) -> Selection:
        budget = budget_of(self.keep, len(candidates))
        return answer(draws.permutation(candidates.ids.keys, self.seed, "drawn", budget), budget)


class DrawsPositions(Drawn):
    """Draws positions, so that another order of the same examples gives another decision."""

    def choose(self, candidates: Pool) -> Selection:
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(self.seed))
        return answer(order, budget_of(self.keep, len(candidates)))


SOUND = [Ranked, Drawn]
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
}
"""Each faulty policy, and the law that was written against its mistake."""
