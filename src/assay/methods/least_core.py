r"""Least core: shares of the whole value that leave no set of examples much worse off than by itself.

$$ \min_{x, e} e \quad \text{such that} \quad \sum_{i \in N} x_i = v(N), \quad \sum_{i \in S} x_i + e \ge v(S) \ \text{for all} \ S $$

v is the value less that of no examples. Of all x with the smallest e the one of the smallest norm is taken, so that equal examples have equal shares.
The sets are all that there are, or random ones and their complements; a share of the sets that were not drawn then falls short by more than e.

The shares have no standard error: they solve one programme of all drawn sets, are no mean over draws, and those of a part of the sets solve another programme. How
far the drawn sets can be trusted is tried instead: fresh sets are drawn, a quarter as many (at least 8), and the diagnostics say which share of them falls short by more
than e. That share estimates the chance of a random set to do so, from k sets with the standard error sqrt(share (1 - share) / k); it falls with more subsets, and is not told
where all sets are solved for.
"""

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ..core.errors import NumericalError
from ..core.evidence import Evidence
from ..core.game import UNITS
from ..core.game_method import BLOCK, AbstractDrawnGameMethod
from ..core.method import Exactness, MonteCarlo, Source
from ..core.options import at_least
from ..core.results import Result
from ..maths.games import subset

SLACK = 1e-9
"""By how much more than the smallest e a set may fall short, relative to the largest value: at e itself rounding leaves nothing."""
FRESH = 4
"""One set more for so many, by which it is told how many others fall short."""


def least_core(
    coalitions: Bool[Tensor, "coalitions players"], values: Float[Tensor, " coalitions"], whole: float
) -> tuple[Float64[Tensor, " players"], float]:
    """Shares of `whole` in the least core of these coalitions, those of the smallest norm, and by how much a coalition falls short at most.

    Args:
        coalitions: Which players each holds; with every coalition its complement, so that there is a least core.
        values: Value of each, less that of the empty one.
        whole: Value of all players, less that of none.

    Returns:
        The shares, which add up to `whole`, and e; both in the unit of the values.

    Raises:
        NumericalError: The solver found none.

    Source: Yan and Procaccia 2021, section 3.
    """
    from scipy.optimize import linprog, nnls

    held, worth = coalitions.numpy().astype(float), values.to(torch.float64).numpy()
    players = held.shape[1]
    if players == 1:
        # There is no other coalition that could fall short.
        return torch.tensor([whole], dtype=torch.float64), 0.0
    found = linprog(
        np.eye(players + 1)[-1],
        A_ub=-np.hstack([held, np.ones((len(held), 1))]),
        b_ub=-worth,
        A_eq=np.append(np.ones(players), 0.0)[None],
        b_eq=[whole],
        bounds=(None, None),
        method="highs",
    )
    if found.status != 0:
        raise NumericalError(
            f"least_core: the linear programme of {len(held)} sets was not solved ({found.message}); give another number of subsets."
        )
    short, scale = float(found.x[-1]), max(1e-300, float(np.abs(worth).max(initial=abs(whole))))
    # What is left of the sum lies across the all-ones vector: the nearest point to 0 of a polyhedron, by nonnegative least squares (Lawson and Hanson 1974, 23.4).
    centred = held - held.mean(1, keepdims=True)
    wanted = (worth - short - SLACK * scale - held.sum(1) * (whole / players)) / scale
    if not bool((wanted > 0).any()):
        return torch.full((players,), whole / players, dtype=torch.float64), short
    system = np.vstack([centred.T, wanted])
    weights, _ = nnls(system, np.eye(players + 1)[-1], maxiter=30 * system.shape[1])
    apart = system @ weights - np.eye(players + 1)[-1]
    shares = whole / players - scale * apart[:-1] / apart[-1]
    missed = float((worth - short - held @ shares).max())
    if not np.isfinite(shares).all() or missed > 1e-6 * scale:
        raise NumericalError(
            f"least_core: of {len(held)} sets one falls short by {missed:.3g} more than it should; give another number of subsets."
        )
    return torch.from_numpy(shares), short


@dataclasses.dataclass(frozen=True)
class LeastCore(AbstractDrawnGameMethod):
    """An example's share of a learner's value on held-out examples, such that no set of examples gets much less than it is worth: low where it does not help.

    Args:
        learner: The learner to train, with options joined by `+`: `logistic`, `knn:k=3`, `ridge`, `net:width=64+steps=50`, `tree`, or a classifier of
            scikit-learn such as `sklearn.naive_bayes.GaussianNB`.
        utility: What a set of examples is worth, a mean over the held-out examples: `accuracy`, the share that is predicted right; `prob`, the
            probability of the label; or `log_prob`, its logarithm, after 0.01 of chance is mixed in.
        target: The held-out examples: `validation`, `class=NAME`, `test`, or a name that targets= gives.
        features: The learner's input: `inputs`, `rows:NAME` from outside (`--inputs NAME=FILE`, and `NAME@validation` for the held-out examples), or features
            from a kept model, such as `penultimate`.
        seed: Seed of all draws.
        subsets: How many sets of examples at most, in random pairs of a set and its complement; all of them if there are no more. The diagnostics say
            which share of fresh sets falls short by more than the largest shortfall of these, in the place of a standard error, which shares of one programme have not.
    """

    subsets: int = 1000
    name: ClassVar[str] = "least_core"
    exactness: ClassVar[Exactness] = MonteCarlo("subsets")
    source: ClassVar[Source] = Source(
        "Yan and Procaccia 2021",
        "https://doi.org/10.1609/aaai.v35i6.16721",
        "sets are drawn with their complements; of several solutions the one of the smallest norm",
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, subsets=2)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """A share of the utility."""
        return f"share of: {UNITS[self.utility]}"

    def run(self, evidence: Evidence) -> Result:
        game, ids = self.game(evidence), evidence.ids
        players = len(ids)
        order = ids.ranks.argsort()
        everything = players < 63 and 2**players - 2 <= self.subsets
        if everything:
            ranked = (torch.arange(1, 2**players - 1)[:, None] >> torch.arange(players)) & 1 > 0
            sets = torch.empty_like(ranked)
            sets[:, order] = ranked
        else:
            drawn = torch.stack([subset(ids.keys, self.seed, number) for number in range(self.subsets // 2)])
            sets = torch.cat([drawn, ~drawn])
        none, whole = game.values(torch.tensor([[False], [True]]).expand(2, players)).tolist()
        values = torch.cat([game.values(part) for part in sets.split(BLOCK)]) - none
        shares = torch.empty(players, dtype=torch.float64)
        # In the order of the ids, because a solver's rounding follows the order of its columns.
        shares[order], short = least_core(sets[:, order], values, whole - none)
        told: dict[str, object] = {"sets of examples": len(sets), "largest shortfall of a set (e)": short}
        if not everything:
            fresh = torch.stack(
                [subset(ids.keys, self.seed, self.subsets + number) for number in range(max(8, len(sets) // FRESH))]
            )
            worth = torch.cat([game.values(part) for part in fresh.split(BLOCK)]) - none
            missed = worth - fresh.to(torch.float64) @ shares > short + 1e-6
            told |= {
                "sets that were not drawn: tried": len(fresh),
                "sets that were not drawn: share that falls short by more": float(missed.double().mean()),
            }
        return Result(shares, diagnostics=told, warnings=self.said(game))
