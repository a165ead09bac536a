r"""Data-OOB: how often models that were trained without an example agree with its label.

$$ v_i = \frac{\sum_b 1[w_{bi} = 0]\, T(y_i, f_b(x_i))}{\sum_b 1[w_{bi} = 0]} $$

over B bootstrap samples of the examples: sample b contains example i w_bi times, f_b is the model trained on it, and T measures how well its
prediction agrees with the label.

The standard error of a value is about the bags alone: how far it may lie from the mean over all bags that could be drawn of the same examples. It is
estimated from the differences between ten groups of bags, and is 0 for an example on which all models agree. What other examples would have given it does not say.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.evidence import Evidence
from ..core.features import FeatureSpec
from ..core.game import Utility
from ..core.game_method import BLOCK, GROUPS, errors_of, told_errors, too_inexact
from ..core.method import AbstractMethod, Asks, Exactness, MonteCarlo, Source
from ..core.needs import Need
from ..core.options import at_least
from ..core.results import Result
from ..core.scores import Direction
from ..maths.games import agreement, bootstrap, label_probs, out_of_bag_means, out_of_bag_sums

TERMS = {"correct": agreement, "prob": label_probs}
UTILITIES: Mapping[str, Utility] = {"correct": "accuracy", "prob": "prob"}
"""What a game calls the same terms."""


def data_oob(
    probs: Float[Tensor, "bags examples classes"],
    labels: Int[Tensor, " examples"],
    counts: Int[Tensor, "bags examples"],
    score: Literal["correct", "prob"] = "correct",
) -> Float64[Tensor, " examples"]:
    """Mean agreement with each example's label of the models whose bags do not contain the example; in 0..1, small where they disagree with the label.

    Args:
        probs: Class probabilities of every example by the model trained on each bag.
        labels: Given class of each.
        counts: How often each example is in each bag.
        score: How agreement is measured: `correct`, whether the label is the most probable class (1 / m where m classes tie for it), or `prob`, the
            label's probability.

    Returns:
        NaN for an example that is in every bag.

    Source: Kwon and Zou 2023.
    """
    sums, outside = out_of_bag_sums(TERMS[score](probs, labels), counts == 0)
    return sums / outside


@dataclasses.dataclass(frozen=True)
class DataOOB(AbstractMethod):
    """Low Data-OOB marks examples whose label is not predicted by models that never saw them: wrong labels, and hard examples.

    Args:
        bags: How many bootstrap samples at most, each of as many draws as there are examples; a model is trained on each.
        learner: The learner to train, with options joined by `+`: `tree`, `knn:k=3`, `logistic`, `ridge`, `net:width=64+steps=50`, or a classifier of
            scikit-learn such as `sklearn.ensemble.RandomForestClassifier:n_estimators=20`.
        score: How agreement with the label is measured: `correct`, 1 if the label is the most probable class (1 / m where m classes tie for it), else
            0, or `prob`, the label's probability.
        features: The learner's input: `inputs`, `rows:NAME` from outside (`--inputs NAME=FILE`), or features from a kept model, such as
            `penultimate`.
        seed: Seed of all draws.
        error: Stop once the largest standard error is at most this; 0 draws all bags.
    """

    bags: int = 100
    learner: str = "tree"
    score: Literal["correct", "prob"] = "correct"
    features: str = "inputs"
    seed: int = 0
    error: float = 0.0
    name: ClassVar[str] = "data_oob"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.GAME, Need.FEATURES, Need.LABELS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    exactness: ClassVar[Exactness] = MonteCarlo("bags")
    source: ClassVar[Source] = Source(
        "Kwon and Zou 2023",
        "https://arxiv.org/abs/2304.07718",
        "the label has 1 / m of a model's vote where m classes tie; any learner in place of the trees",
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, bags=2, seed=0, error=0.0)
        if not self.learner:
            raise UsageError(f"{self.title}: learner= names no learner; give one, such as tree.")
        FeatureSpec.parse(self.features)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The unit of the mean, which depends on `score`."""
        if self.score == "correct":
            return "share of models trained without it that predict its label"
        return "mean probability of its label by models trained without it"

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,), learners=(self.learner,))

    def run(self, evidence: Evidence) -> Result:
        game, ids, groups = evidence.game(self.learner, self.features), evidence.ids, min(self.bags, GROUPS)
        sums, counts = torch.zeros(2, groups, len(ids), dtype=torch.float64)
        drawn, values, by_group, errors = 0, torch.empty(0), torch.empty(0), torch.empty(0)
        for start in range(0, self.bags, BLOCK):
            numbers = range(start, min(start + BLOCK, self.bags))
            bags = torch.stack([bootstrap(len(ids), self.seed, number)[ids.ranks] for number in numbers])
            terms, group = game.player_utilities(bags, UTILITIES[self.score]), torch.tensor(numbers) % groups
            sums.index_add_(0, group, terms.where(bags == 0, 0.0))
            counts.index_add_(0, group, (bags == 0).to(torch.float64))
            drawn = numbers.stop
            values, by_group = out_of_bag_means(sums, counts)
            errors = errors_of(by_group)
            if self.error and drawn >= 2 * BLOCK and bool((errors <= self.error).all()):
                break
        outside = counts.sum(0)
        scored = outside > 0
        if not bool(scored.any()):
            raise UsageError(f"{self.title}: every example is in all {drawn} bags; give more bags, or more examples.")
        errors = errors[scored]
        warnings = tuple(f"{number} of {drawn} models: {remark}." for remark, number in game.remarks.items())
        if not bool(scored.all()):
            never = ids.take(~scored)
            warnings += (
                f"{len(never)} examples are in every bag and have no value, ids {listed(never, len(never))}; give more bags.",
            )
        warnings += too_inexact(errors, self.error, f"{drawn} bags", "bags")
        return Result(
            values,
            diagnostics={
                "bags": drawn,
                "bags without an example: fewest": int(outside.min()),
                "bags without an example: mean": float(outside.mean()),
                **told_errors(errors),
            },
            warnings=warnings,
            repeats=by_group,
            scored=scored,
        )
