r"""Data-OOB: how often models agree with an example's label that were trained without it.

$$ v_i = \frac{\sum_b 1[w_{bi} = 0]\, T(y_i, f_b(x_i))}{\sum_b 1[w_{bi} = 0]} $$

over B bootstrap samples of the examples, in which example i stands w_bi times, and a model f_b trained on each.
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.evidence import Evidence
from ..core.features import FeatureSpec
from ..core.method import AbstractMethod, Asks, Exactness, MonteCarlo, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..maths.games import agreement, bootstrap, label_probs, out_of_bag_means, out_of_bag_sums

GROUPS = 10
"""Groups of bags by which the error of the means is told."""
TERMS = {"correct": agreement, "prob": label_probs}


def data_oob(
    probs: Float[Tensor, "bags examples classes"],
    labels: Int[Tensor, " examples"],
    counts: Int[Tensor, "bags examples"],
    score: Literal["correct", "prob"] = "correct",
) -> Float64[Tensor, " examples"]:
    """Mean over the bags without an example of what their models say of its label; in 0..1, small where models disagree with the label.

    Args:
        probs: By the model trained on each bag, of every example.
        labels: Given class of each.
        counts: How often each example is in each bag.
        score: What counts: `correct`, whether the label is the most probable class (1 / m where m classes tie for it), or the label's `prob`.

    Returns:
        NaN for an example that is in every bag.

    Source: Kwon and Zou 2023.
    """
    sums, outside = out_of_bag_sums(TERMS[score](probs, labels), counts == 0)
    return sums / outside


@dataclasses.dataclass(frozen=True)
class DataOOB(AbstractMethod):
    """Low Data-OOB marks examples whose label models do not expect that never saw them: wrong labels, and hard examples.

    Args:
        bags: How many bootstrap samples, each of as many draws as there are examples; a model is trained on each.
        learner: What is trained, with options joined by `+`: `tree`, `knn:k=3`, `logistic`, `ridge`, `net:width=64+steps=50`, or a classifier
            of scikit-learn such as `sklearn.ensemble.RandomForestClassifier:n_estimators=20`.
        score: What a model says of a label: `correct`, 1 if it is the most probable class, else 0, or its `prob`.
        features: What the learner sees of an example: `inputs`, `rows:NAME` from outside (`--inputs NAME=FILE`), or what a kept model makes
            of it, such as `penultimate`.
        seed: Of all draws.
    """

    bags: int = 100
    learner: str = "tree"
    score: Literal["correct", "prob"] = "correct"
    features: str = "inputs"
    seed: int = 0
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
        for option, least in (("bags", 2), ("seed", 0)):
            if getattr(self, option) < least:
                raise UsageError(f"{self.title}: {option}={getattr(self, option)} is below {least}.")
        if not self.learner:
            raise UsageError(f"{self.title}: learner= names no learner; give one, such as tree.")
        FeatureSpec.parse(self.features)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """What the mean is of."""
        if self.score == "correct":
            return "share of models trained without it that predict its label"
        return "mean probability of its label by models trained without it"

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,), learners=(self.learner,))

    def run(self, evidence: Evidence) -> Result:
        labels, ids = evidence.labels.cpu(), evidence.ids
        game, groups = evidence.game(self.learner, self.features), min(self.bags, GROUPS)
        sums, counts = torch.zeros(2, groups, len(ids), dtype=torch.float64)
        for bag in range(self.bags):
            drawn = bootstrap(len(ids), self.seed, bag)[ids.ranks]
            (probs,) = game.predictions(drawn[None])[:, : len(ids)]
            more, out = out_of_bag_sums(TERMS[self.score](probs, labels)[None], (drawn == 0)[None])
            sums[bag % groups] += more
            counts[bag % groups] += out
        outside = counts.sum(0)
        scored = outside > 0
        if not bool(scored.any()):
            raise UsageError(f"{self.title}: every example is in all {self.bags} bags; give more bags, or more examples.")
        values, by_group = out_of_bag_means(sums, counts)
        errors = (by_group[:, scored].var(0) / groups).sqrt()
        warnings = tuple(f"{number} of {self.bags} models: {remark}." for remark, number in game.remarks.items())
        if not bool(scored.all()):
            never = ids.take(~scored)
            warnings += (
                f"{len(never)} examples are in every bag and have no value, ids {listed(never, len(never))}; give more bags.",
            )
        return Result(
            values,
            diagnostics={
                "bags without an example: fewest": int(outside.min()),
                "bags without an example: mean": float(outside.mean()),
                "standard error: mean": float(errors.mean()),
                "standard error: largest": float(errors.max()),
            },
            warnings=warnings,
            repeats=by_group,
            scored=scored,
        )
