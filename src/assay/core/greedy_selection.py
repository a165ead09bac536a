"""The base of selectors that take examples greedily, so that a function of the set of those taken grows the most."""

import abc
import dataclasses

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ..maths import draws
from ..maths.example_vectors import Vectors
from ..maths.greedy import Greedy, Objective, Sample, maximise
from .errors import UsageError
from .ids import Ids
from .selection import AbstractFeatureSelector, Pool, Selection, class_turns, count_of

SAMPLE = 64
"""Examples that `stochastic` looks at before each step, however many are taken, so that budgets nest."""


@dataclasses.dataclass(frozen=True, eq=False)
class Taken:
    """What was taken of some examples.

    Attributes:
        order: Which, by their number among these examples, in the order in which they were taken.
        gains: What each added to the function.
        objective: The function, with all of them taken.
    """

    order: Int[Tensor, " taken"]
    gains: Float64[Tensor, " taken"]
    objective: Objective


class AbstractGreedySelector(AbstractFeatureSelector):
    """Takes the examples, over all or class by class, that make a function of a set grow the most. Subclasses have the options that are declared here."""

    needs_score = False
    nests = True

    keep: int | float
    features: str
    by_class: bool
    greedy: Greedy
    seed: int | None

    def __post_init__(self):
        super().__post_init__()
        if (self.greedy == "stochastic") != (self.seed is not None):
            raise UsageError(
                f"{self.name}: greedy=stochastic draws the examples that it looks at and needs a seed, such as seed=0."
                if self.seed is None
                else f"{self.name}: seed={self.seed} goes with greedy=stochastic only; greedy={self.greedy} draws nothing. Leave it out."
            )

    @abc.abstractmethod
    def objective(self, vectors: Vectors) -> Objective:
        """The function of sets of these examples, with nothing taken."""

    def weights(self, taken: Taken, share: float) -> Float64[Tensor, " taken"] | None:
        """Weight of each example taken; None for 1.

        Args:
            taken: What was taken of a class, or of all examples.
            share: Part that is kept of the examples of all classes from which some are taken.

        Returns:
            In the order in which they were taken, or None.
        """
        return None

    def reason(self, gain: float) -> str:
        """What a gain is, for the reason of an example that is kept."""
        return f"adds {gain:.4g}"

    def select(self, pool: Pool) -> Selection:
        budget, n = count_of(self.keep, len(pool)), len(pool)
        ranks, vectors = pool.ids.ranks, pool.vectors(self.features)
        order = torch.zeros(budget, dtype=torch.int64)
        weights = torch.ones(n, dtype=torch.float64)
        reasons = {}
        parts = [part for part in class_turns(pool, self.by_class, budget) if len(part[1])]
        share = budget / max(1, sum(len(members) for members, _, _ in parts))
        for members, turns, among in parts:
            # By rank, so that neither the order of the examples nor that of summation decides.
            members = members[torch.argsort(ranks[members])]
            taken = self._taken(vectors.take(members), len(turns), pool.ids.take(members))
            order[turns] = members[taken.order]
            own = self.weights(taken, share)
            if own is not None:
                weights[order[turns]] = own
            for place, (position, gain) in enumerate(zip(order[turns].tolist(), taken.gains.tolist(), strict=True), 1):
                reasons[position] = f"{self.name} {place}{among} in {self.features}, {self.reason(gain)}"
        kept = torch.zeros(n, dtype=torch.bool).index_fill(0, order, True)
        return Selection(
            kept=kept,
            why_kept=f"taken by {self.name}",
            why_touched=f"not taken by {self.name} in {self.features}",
            weights=weights if bool((weights != 1).any()) else None,
            why_else=reasons,
            order=order,
        )

    def _taken(self, vectors: Vectors, count: int, ids: Ids) -> Taken:
        try:
            objective = self.objective(vectors)
            return Taken(*maximise(objective, count, self.greedy, self._sample(ids)), objective)
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error

    def _sample(self, ids: Ids) -> Sample | None:
        if self.seed is None:
            return None
        keys, seed = ids.keys, self.seed

        def sample(step: int, left: Tensor) -> Tensor:
            if len(left) <= SAMPLE:
                return left
            words = draws.words(keys[left.numpy()], seed, f"policy {self.name}", step)
            return left[torch.from_numpy(np.sort(np.argpartition(words, SAMPLE)[:SAMPLE]))]

        return sample
