r"""Contextual diversity: greedy k-center on what a model predicts.

$$ d(p, q) = \tfrac12 \sum_c (p_c - q_c) \bigl(\ln(p_c + \varepsilon) - \ln(q_c + \varepsilon)\bigr), \qquad \varepsilon = 10^{-12}. $$

$p$ and $q$ are the softmax probabilities of two examples.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.features import LOGITS, ROWS, FeatureSpec
from ..core.method import Source
from ..core.selection import AbstractFeatureSelector, AbstractSelector, Pool, Selection, class_turns, count_of
from ..maths.coverage import most_divergent_first


@dataclasses.dataclass(frozen=True)
class ContextualDiversity(AbstractFeatureSelector):
    """Keeps the examples that a greedy search takes as centers, each the one whose predicted probabilities differ most from those before it.

    The distance is the symmetric KL divergence of the softmax probabilities. The first center is the example nearest to the mean probabilities.
    Centers for a smaller budget are the first of those for a larger one. No score is read.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        features: What the softmax is taken of: the `logits` of the last kept model, `logits@EPOCH`, or `rows:NAME`, logits or logarithms of
            probabilities from outside.
        by_class: Whether each given class is covered separately, with centers in proportion to its examples.
    """

    keep: int | float
    features: str = "logits"
    by_class: bool = False
    name: ClassVar[str] = "contextual_diversity"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Agarwal et al. 2020, Contextual diversity for active learning",
        "https://arxiv.org/abs/2008.05723",
        "the divergence of whole predictions, as in DeepCore's code, where the paper mixes those of a picture's regions by class; 1e-12 inside the "
        "logarithms, where a probability of 0 gives no number in that code; starts at the example nearest to the mean where it starts at a random "
        "one; ties break by id; classes by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        check_logits(self, "features")

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        probs, ranks = predicted_probs(self, pool, self.features), pool.ids.ranks
        order = torch.zeros(budget, dtype=torch.int64)
        reasons = {}
        for members, turns, among in class_turns(pool, self.by_class, budget):
            centers, radii = most_divergent_first(probs[members], len(turns), ranks[members])
            order[turns] = members[centers]
            for place, (position, apart) in enumerate(zip(members[centers].tolist(), [None, *radii.tolist()], strict=False), 1):
                where = (
                    "predicted nearest to the mean"
                    if apart is None
                    else f"predicted {apart:.4g} nats from the nearest one before it"
                )
                reasons[position] = f"center {place}{among}, {where}"
        return Selection.taken(
            order, pool, "a center", "no center: predicted nearer to one than the last center was to those before it", reasons
        )


def check_logits(policy: AbstractSelector, option: str) -> None:
    """Refuse an option that names features of which no softmax can be taken.

    Raises:
        UsageError: They are neither logits of a kept model nor rows from outside.
    """
    given = getattr(policy, option)
    if not given.startswith(ROWS) and given.partition("@")[0] != LOGITS:
        raise UsageError(
            f"{policy.name}: {option}={given} are no class predictions; give logits, logits@EPOCH, or rows:NAME with logits or logarithms of "
            "probabilities."
        )
    FeatureSpec.parse(given)


def predicted_probs(policy: AbstractSelector, pool: Pool, features: str) -> Float64[Tensor, "examples classes"]:
    """Softmax of the logits of each example.

    Returns:
        float64, each row adding up to 1.

    Raises:
        UsageError: There are fewer than two classes, or a logit is not finite.
    """
    logits = pool.features(features).to(torch.float64)
    if logits.shape[1] < 2:
        raise UsageError(
            f"{policy.title}: {features} has {logits.shape[1]} number for each example; give one logit for each of the classes, at least 2."
        )
    bad = ~logits.isfinite().all(1)
    if bool(bad.any()):
        ids = pool.ids.take(bad)
        raise UsageError(
            f"{policy.title}: logits of {len(ids)} examples are NaN or infinite; ids {listed(ids, len(ids))}. Choose an earlier epoch."
        )
    return logits.softmax(1)
