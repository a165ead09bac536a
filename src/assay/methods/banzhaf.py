r"""Data Banzhaf: what an example adds to a learner's value, averaged over all subsets of the others.

$$ \phi_i = \frac{1}{2^{n-1}} \sum_{S \subseteq N \setminus \{i\}} \left[ v(S \cup \{i\}) - v(S) \right] $$

By maximum sample reuse each drawn subset counts for every example: the value of an example is the mean value of the subsets that hold it, less that of
those that do not. Among such means this one changes least in rank where the values are noisy. They do not add up to the value of all examples.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.evidence import Evidence
from ..core.game_method import BLOCK, GROUPS, AbstractDrawnGameMethod, errors_of, told_errors
from ..core.method import Exactness, MonteCarlo, Source
from ..core.options import at_least
from ..core.results import Result
from ..maths.games import out_of_bag_means, out_of_bag_sums, subset


def banzhaf(coalitions: Bool[Tensor, "coalitions players"], values: Float[Tensor, " coalitions"]) -> Float64[Tensor, " players"]:
    """Mean value of the coalitions that hold each player, less that of those that do not.

    Args:
        coalitions: Which players each holds.
        values: Value of each.

    Returns:
        In the unit of the values; NaN for a player that all or none hold.

    Source: Wang and Jia 2023, section 4.2.
    """
    inside, there = out_of_bag_sums(values[:, None].expand(coalitions.shape), coalitions)
    outside, absent = out_of_bag_sums(values[:, None].expand(coalitions.shape), ~coalitions)
    return inside / there - outside / absent


@dataclasses.dataclass(frozen=True)
class Banzhaf(AbstractDrawnGameMethod):
    """Mean rise of a learner's value on held-out examples when the example joins a random subset of the others: high where it helps, below 0 where it harms.

    Args:
        learner: The learner to train, with options joined by `+`: `logistic`, `knn:k=3`, `ridge`, `net:width=64+steps=50`, `tree`, or a classifier of
            scikit-learn such as `sklearn.naive_bayes.GaussianNB`.
        utility: What a set of examples is worth, a mean over the held-out examples: `accuracy`, the share that is predicted right; `prob`, the
            probability of the label; or `log_prob`, its logarithm, after 0.01 of chance is mixed in.
        target: The held-out examples: `validation`, `class=NAME`, `test`, or a name that targets= gives.
        features: The learner's input: `inputs`, `rows:NAME` from outside (`--inputs NAME=FILE`, and `NAME@validation` for the held-out examples), or features
            from a kept model, such as `penultimate`.
        seed: Seed of all draws.
        subsets: How many random subsets at most; a learner is trained on each.
        error: Stop once the largest standard error is at most this; 0 draws all subsets.
    """

    subsets: int = 1000
    error: float = 0.0
    name: ClassVar[str] = "banzhaf"
    below_zero: ClassVar[str] = (
        "makes the learner worse on the held-out examples, on average over the subsets of others that it joins"
    )
    exactness: ClassVar[Exactness] = MonteCarlo("subsets")
    source: ClassVar[Source] = Source("Wang and Jia 2023", "https://arxiv.org/abs/2205.15466")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, subsets=2, error=0.0)

    def run(self, evidence: Evidence) -> Result:
        game, ids = self.game(evidence), evidence.ids
        groups = min(GROUPS, self.subsets)
        # By side: the subsets that hold an example, and those that do not.
        sums, counts = torch.zeros(2, 2, groups, len(ids), dtype=torch.float64)
        drawn, errors, values, by_group = 0, torch.empty(0), torch.empty(0), torch.empty(0)
        for start in range(0, self.subsets, BLOCK):
            numbers = range(start, min(start + BLOCK, self.subsets))
            held = torch.stack([subset(ids.keys, self.seed, number) for number in numbers])
            terms, group = game.values(held)[:, None], torch.tensor(numbers) % groups
            for side, inside in enumerate((held, ~held)):
                sums[side].index_add_(0, group, inside * terms)
                counts[side].index_add_(0, group, inside.to(torch.float64))
            drawn = numbers.stop
            (with_it, with_groups), (without, without_groups) = (out_of_bag_means(sums[side], counts[side]) for side in (0, 1))
            values, by_group = with_it - without, with_groups - without_groups
            errors = errors_of(by_group)
            if self.error and drawn >= 2 * BLOCK and bool((errors <= self.error).all()):
                break
        scored = (counts.sum(1) > 0).all(0)
        if not bool(scored.any()):
            raise UsageError(f"{self.title}: all subsets hold the same examples; give more subsets, or more examples.")
        warnings = self.said(game)
        if not bool(scored.all()):
            never = ids.take(~scored)
            warnings += (
                f"{len(never)} examples are in every subset or in none, and have no value, ids {listed(never, len(never))}; give more subsets.",
            )
        errors = errors[scored]
        warnings += self.too_inexact(errors, f"{drawn} subsets", "subsets")
        return Result(
            values, diagnostics={"subsets": drawn, **told_errors(errors)}, warnings=warnings, repeats=by_group, scored=scored
        )
