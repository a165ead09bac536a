r"""Greedy maximisation: elements one after another, each the one that adds most to a function of the set of those taken.

Where what an element adds never grows as the set grows (the function is submodular) and the function never falls, k elements reach at least
1 - 1/e = 0.63 of what the best k elements reach (Nemhauser, Wolsey and Fisher 1978).
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float64, Int
from torch import Tensor

Greedy = Literal["naive", "lazy", "stochastic", "approximate"]
Sample = Callable[[int, Int[Tensor, " left"]], Int[Tensor, " some"]]
"""Draws some of the elements that are left, in rising order, given the number of the step."""
FIRST, MOST = 8, 1024
"""How many elements are looked at again together: at first, and at most."""
DRIFT = 0.25
"""Part of the slack by which a gain may differ by rounding from one that is looked at, once as many numbers were taken off it as there are elements; of k of n numbers
sqrt(k / n) of it (`tests/maths/test_greedy.py`, slow)."""
ACCEPTED = 0.9
"""Part of what an element added before at which `approximate` takes it without looking at others."""


@runtime_checkable
class Objective(Protocol):
    """A function of sets, which knows the elements that are taken so far. Elements are numbered from 0; of equal ones the lowest number is taken."""

    slack: float
    """Gains that differ by no more are equal, but for rounding."""
    grows: bool
    """Whether no element ever takes anything away."""

    def __len__(self) -> int: ...

    def gains(self, candidates: Int[Tensor, " candidates"]) -> Float64[Tensor, " candidates"]:
        """What each of these elements would add to the function."""
        ...

    def take(self, element: int) -> None:
        """Add an element to the set."""
        ...

    def lost(self, most: int) -> tuple[Float64[Tensor, " elements"], int] | None:
        """By how much the element taken last made the gain of each element smaller, and sums of how many numbers these are.

        Returns:
            None where that costs more than looking at `most` elements, or cannot be told.
        """
        ...


def maximise(
    objective: Objective, count: int, how: Greedy = "lazy", sample: Sample | None = None
) -> tuple[Int[Tensor, " count"], Float64[Tensor, " count"]]:
    """Take elements one after another.

    `naive` looks at every element before each step. `lazy` looks again at those only whose last known gain is at least the best gain seen, and takes
    the same elements where gains never grow (Minoux 1978), but for gains as near as rounding; once it is cheaper to tell what a step took from the gains of
    all, that is taken off them, so that few or none are looked at. `approximate` takes the first, in the order of their last known gains, that still adds
    `ACCEPTED` of that: each step adds at least that part of what the best would. `stochastic` looks at a `sample` only; with s of n elements in each
    sample it reaches 1 - 1/e - exp(-s k / n) in expectation (Mirzasoleiman et al. 2015).

    Args:
        objective: The function, with nothing taken.
        count: How many elements.
        how: How each is found.
        sample: Draws the elements to look at; for `stochastic`.

    Returns:
        The elements in the order in which they are taken, and what each adds. Where nothing can add anything, the rest follows by number, with 0.

    Raises:
        ValueError: The count is outside its range, or a gain is not finite.
    """
    if not 0 <= count <= len(objective):
        raise ValueError(f"count={count} is outside 0..{len(objective)}, the number of elements.")
    search = _Search(objective)
    order, added = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.float64)
    for step in range(count):
        if how == "stochastic":
            assert sample is not None
            place = search.best_of(sample(step, search.left.nonzero().flatten()))
        elif how == "approximate":
            place = search.nearly_best()
        else:
            place = search.best(everyone=how == "naive")
        if objective.grows and how != "stochastic" and search.bounds[place] <= objective.slack:
            order[step:] = search.left.nonzero().flatten()[: count - step]
            break
        order[step], added[step] = place, search.bounds[place]
        search.take(place, how == "lazy")
    return order, added


class _Search:
    """What is known of each element's gain: what it was when it was last looked at, less what is known to be lost since. Exact where no loss since is unknown."""

    def __init__(self, objective: Objective):
        self.objective = objective
        self.bounds = torch.full((len(objective),), torch.inf, dtype=torch.float64)
        self.left = torch.ones(len(objective), dtype=torch.bool)
        self._exact = torch.zeros(len(objective), dtype=torch.bool)
        self._enough, self._seen = FIRST, 0
        self._told, self._told_then = 0, torch.zeros(len(objective), dtype=torch.int64)

    def _look(self, candidates: Tensor) -> Tensor:
        gains = self.objective.gains(candidates)
        if not bool(gains.isfinite().all()):
            raise ValueError("A gain is not finite; rows must be finite, and not so large that their squares overflow.")
        self.bounds[candidates] = gains
        self._exact[candidates], self._told_then[candidates] = True, self._told
        return gains

    def _drift(self) -> Tensor:
        """By how much each gain may be off by rounding: those that were looked at since anything was taken off are not."""
        told = (self._told - self._told_then).to(torch.float64) / len(self.left)
        return DRIFT * self.objective.slack * told.clamp_(max=1).sqrt_()

    def take(self, place: int, telling: bool) -> None:
        """Take an element; with `telling`, the gains follow where that costs no more than looking at as many elements as the last step needed that knew none."""
        self.left[place] = False
        self.objective.take(place)
        lost = self.objective.lost(self._seen) if telling else None
        if lost is None:
            self._exact.zero_()
        else:
            self.bounds -= lost[0]
            self._told += lost[1]

    def best_of(self, candidates: Tensor) -> int:
        """The first of those among these that add most."""
        gains = self._look(candidates)
        return int(candidates[(gains >= gains.max() - self.objective.slack).nonzero()[0, 0]])

    def best(self, everyone: bool) -> int:
        """The first of those among all that add most."""
        if everyone:
            return self.best_of(self.left.nonzero().flatten())
        slack, drift = self.objective.slack, self._drift()
        known = self._exact & self.left
        nothing_known = not bool(known.any())
        if not nothing_known:
            # Rounding must not decide which adds most: naive looks at all anew.
            most = float((self.bounds - drift)[known].max())
            self._look_where(known & (self.bounds + drift >= most), drift)
        best, seen = -torch.inf if nothing_known else float(self.bounds[known].max()), 0
        fresh = ~self.left | known
        size = self._enough
        while True:
            open_ = self.bounds.masked_fill(fresh, -torch.inf)
            stale = int((open_ + drift >= best - slack).sum()) if best > -torch.inf else len(self.left)
            if not stale or bool(fresh.all()):
                break
            # Never-seen elements must all be looked at, so that they are at once.
            unseen = (open_ == torch.inf).nonzero().flatten()
            among = unseen if len(unseen) else open_.topk(min(size, stale, int((~fresh).sum()))).indices.sort().values
            best = max(best, float(self._look(among).max()))
            fresh[among], drift[among] = True, 0.0
            # The first look at all is needed in any case.
            seen += 0 if len(unseen) else len(among)
            size = min(MOST, 2 * size)
        # About as many as this step needed are looked at first in the next.
        self._enough = max(FIRST, min(MOST, seen // 2))
        if nothing_known:
            self._seen = seen
        # Nor which are as good as the best: only those before the first that surely is can be taken in its place.
        first = int(((self.bounds - drift >= best - slack) & self.left).nonzero()[0, 0])
        doubtful = self.left & (self.bounds + drift >= best - slack)
        doubtful[first:] = False
        self._look_where(doubtful, drift)
        return int(((self.bounds >= best - slack) & self.left).nonzero()[0, 0])

    def _look_where(self, some: Tensor, drift: Tensor) -> None:
        """Look again at those of some elements whose gains may have drifted, which they have no longer then."""
        among = (some & (drift > 0)).nonzero().flatten()
        if len(among):
            self._look(among)
            drift[among] = 0.0

    def nearly_best(self) -> int:
        """The first, in the order of their last known gains, that still adds nearly that; or else the best of all."""
        if bool((self.bounds[self.left] == torch.inf).any()):
            return self.best_of(self.left.nonzero().flatten())
        slack = self.objective.slack
        fresh = ~self.left
        while not bool(fresh.all()):
            open_ = self.bounds.masked_fill(fresh, -torch.inf)
            top = (open_ >= open_.max() - slack).nonzero()[0]
            known = float(self.bounds[top])
            if float(self._look(top)) >= known - (1 - ACCEPTED) * abs(known) - slack:
                return int(top)
            fresh[top] = True
            # What was looked at in this step and is no worse than what the others may add is the best of all.
            met = self.bounds.masked_fill(~(fresh & self.left), -torch.inf)
            if bool((met.max() >= self.bounds.masked_fill(fresh, -torch.inf)).all()):
                break
        here = self.bounds.masked_fill(~self.left, -torch.inf)
        return int((here >= here.max() - slack).nonzero()[0, 0])
