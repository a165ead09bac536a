"""Methods that play a game: a learner is trained on coalitions of the examples, which held-out examples value."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from ..maths import draws
from ..maths.games import marginals, out_of_bag_means
from .errors import UsageError
from .evidence import Evidence
from .features import FeatureSpec
from .game import UNITS, Game, Utility
from .method import AbstractMethod, Asks, Exactness, MonteCarlo
from .needs import Need
from .options import at_least
from .results import Result
from .scores import Direction

GROUPS = 10
"""Groups of draws from which the error of the means is estimated."""
BLOCK = 32
"""Orders that are gone through together; a rule that stops is asked after each such block."""


@dataclasses.dataclass(frozen=True)
class AbstractGameMethod(AbstractMethod):
    """Values examples by what a learner trained on them, together with others, is worth on held-out examples."""

    learner: str = "logistic"
    utility: Utility = "accuracy"
    target: str = "validation"
    features: str = "inputs"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.GAME, Need.FEATURES, Need.LABELS, Need.HELD_OUT})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT

    def __post_init__(self):
        super().__post_init__()
        if not self.learner:
            raise UsageError(f"{self.title}: learner= names no learner; give one, such as logistic.")
        if not self.target:
            raise UsageError(f"{self.title}: target= names no held-out examples; give them, such as validation.")
        FeatureSpec.parse(self.features)

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,), queries=(self.target,), learners=(self.learner,))

    @property
    def unit(self) -> str:  # type: ignore[override]
        """A change of the utility."""
        return f"change of: {UNITS[self.utility]}"

    def game(self, evidence: Evidence) -> Game:
        """The game that is played."""
        return evidence.game(self.learner, self.features, self.target, self.utility)

    def said(self, game: Game, trainings: str = "trainings") -> tuple[str, ...]:
        """Warnings by the learner on its trainings."""
        return tuple(f"{number} {trainings}: {remark}." for remark, number in game.remarks.items())


@dataclasses.dataclass(frozen=True)
class AbstractDrawnGameMethod(AbstractGameMethod):
    """A game of which some coalitions are drawn at random."""

    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        at_least(self, seed=0)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """A mean change of the utility."""
        return f"mean {super().unit}"

    def too_inexact(self, errors: Float64[Tensor, " examples"], so_far: str, more: str) -> tuple[str, ...]:
        """The warning that all draws are used up and the standard error is still above the option `error`."""
        return too_inexact(errors, getattr(self, "error", 0.0), so_far, more)


def errors_of(groups: Float64[Tensor, "groups examples"]) -> Float64[Tensor, " examples"]:
    """Standard error of each example's mean over independent groups of draws."""
    return (groups.var(0) / len(groups)).sqrt()


def too_inexact(errors: Float64[Tensor, " examples"], wanted: float, so_far: str, more: str) -> tuple[str, ...]:
    """The warning that all draws are used up and the standard error is still above what was wanted; none where 0 was."""
    largest = float(errors.max())
    if not wanted or largest <= wanted:
        return ()
    return (f"After {so_far} the largest standard error is {largest:.3g}, above error={wanted:g}; give more {more}.",)


def told_errors(errors: Float64[Tensor, " examples"]) -> Mapping[str, object]:
    """The diagnostics that say how large the standard errors are."""
    return {"standard error: mean": float(errors.mean()), "standard error: largest": float(errors.max())}


class Tally:
    """Sums of draws for each example, in groups, and whether a rule says to stop.

    Attributes:
        drawn: How many draws there were.
    """

    def __init__(self, examples: int, groups: int):
        self.drawn = 0
        self.sums, self.counts = torch.zeros(2, groups, examples, dtype=torch.float64)
        self._squares = torch.zeros(examples, dtype=torch.float64)

    def add(self, terms: Float64[Tensor, "draws examples"]) -> None:
        """Draws, each with a term for every example; one after the other to the groups in turn."""
        for row in terms:
            group = self.drawn % len(self.sums)
            self.sums[group] += row
            self.counts[group] += 1
            self.drawn += 1
        self._squares += terms.square().sum(0)

    @property
    def errors(self) -> Float64[Tensor, " examples"]:
        """Standard error of the mean over the draws; infinite for fewer than two."""
        if self.drawn < 2:
            return torch.full_like(self._squares, torch.inf)
        mean = self.sums.sum(0) / self.drawn
        return ((self._squares / self.drawn - mean.square()).clamp(min=0) / (self.drawn - 1)).sqrt()

    def result(
        self, values: Float64[Tensor, " examples"], groups: Float64[Tensor, "groups examples"], told: Mapping[str, object]
    ) -> Result:
        """A result with the errors of these draws."""
        return Result(values, diagnostics={**told, **told_errors(self.errors)}, repeats=groups)


@dataclasses.dataclass(frozen=True)
class AbstractPermutationMethod(AbstractDrawnGameMethod):
    """Means over random orders of what an example adds to the value of those before it, weighted by how many these are."""

    permutations: int = 100
    truncate: float = 0.0
    error: float = 0.0
    exactness: ClassVar[Exactness] = MonteCarlo("permutations")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, permutations=2, truncate=0.0, error=0.0)

    @abc.abstractmethod
    def weights(self, players: int) -> Float64[Tensor, " players"]:
        """Factor of what an example adds, by how many stand before it."""

    def run(self, evidence: Evidence) -> Result:
        game, ids = self.game(evidence), evidence.ids
        tally, weights = Tally(len(ids), min(GROUPS, self.permutations)), self.weights(len(ids))
        ends, reached = [], 0
        for start in range(0, self.permutations, BLOCK):
            numbers = range(start, min(start + BLOCK, self.permutations))
            orders = torch.stack([draws.permutation(ids.keys, self.seed, "permutation of players", one) for one in numbers])
            values, sizes = game.path_values(orders, self.truncate)
            tally.add(marginals(orders, values, weights))
            ends, reached = [float(values[0, 0]), float(values[:, -1].mean())], reached + int((sizes - 1).sum())
            if self.error and float(tally.errors.max()) <= self.error:
                break
        values, groups = out_of_bag_means(tally.sums, tally.counts)
        told: dict[str, object] = {
            "permutations": tally.drawn,
            "value of no examples": ends[0],
            "value of all examples": ends[1],
            "sum of the values": float(values.sum()),
            "examples trained on before an order is cut: mean": reached / tally.drawn,
        }
        warnings = self.said(game) + self.too_inexact(tally.errors, f"{tally.drawn} permutations", "permutations")
        return dataclasses.replace(tally.result(values, groups, told), warnings=warnings)
