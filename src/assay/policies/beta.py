r"""Beta sampling: DUAL's draw, which moves towards easy examples as more is pruned.

With pruned fraction r = 1 - keep and $\bar P_i$ the mean probability of the given label,

$$ w_i \propto \mathrm{Beta}(\bar P_i; \alpha, \beta)\, S_i, \qquad
   \beta = C_0 (1 - \mu)(1 - r^{c_D}), \qquad \alpha = C_0 + 1 - \beta, $$

where $\mu$ is the mean of $\bar P$ over the examples with the highest scores S.
"""

import dataclasses
import math
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, Pool, Selection, budget_of, count_of, keep_first, suspects_stay
from ..maths.draws import uniform
from ..maths.ranking import interleaved

EDGE = 1e-6
"""Mean probabilities are taken no nearer to 0 or 1 than this, where the Beta density is 0 or infinite."""


def beta_shape(anchor: float, keep: float, c_d: float, c_0: float = 15.0) -> tuple[float, float]:
    """alpha and beta of the Beta density; alpha + beta = c_0 + 1.

    Args:
        anchor: mu, mean probability of the given label over the examples with the highest scores.
        keep: Fraction that stays.
        c_d: How late the draw turns to easy examples as the pruned fraction grows: the larger, the later.
        c_0: Concentration of the density.

    Returns:
        (alpha, beta): alpha at least 1, beta in 0..c_0.
    """
    beta = c_0 * (1 - anchor) * (1 - (1 - keep) ** c_d)
    return c_0 + 1 - beta, beta


def log_density(
    mean_target_probs: Float[Tensor, " examples"],
    scores: Float[Tensor, " examples"],
    keep: float,
    c_d: float,
    *,
    c_0: float = 15.0,
    anchors: int = 10,
) -> Float64[Tensor, " examples"]:
    """ln of the Beta density at each mean probability, up to a constant; probabilities are clipped to [EDGE, 1 - EDGE].

    Returns:
        One per example, finite.

    Raises:
        UsageError: See `beta_weights`.
    """
    checked_options(keep, c_d, c_0, anchors)
    probs, scores = mean_target_probs.to(torch.float64), scores.to(torch.float64)
    if anchors > len(probs):
        raise UsageError(f"anchors={anchors} is more than the {len(probs)} examples; give anchors in 1..{len(probs)}.")
    bad = ~((probs >= 0) & (probs <= 1))
    if bool(bad.any()):
        where = bad.nonzero().flatten().tolist()
        raise UsageError(f"{len(where)} mean probabilities are outside 0..1; positions {listed(where, len(where))}.")
    bad = ~((scores >= 0) & scores.isfinite())
    if bool(bad.any()):
        where = bad.nonzero().flatten().tolist()
        raise UsageError(
            f"{len(where)} scores are negative or not finite; positions {listed(where, len(where))}. "
            "They are factors of sampling weights: use a score that is never negative, such as dual or dyn_unc."
        )
    highest = torch.argsort(scores, descending=True, stable=True)[:anchors]
    alpha, beta = beta_shape(float(probs[highest].mean()), keep, c_d, c_0)
    probs = probs.clamp(EDGE, 1 - EDGE)
    return (alpha - 1) * probs.log() + (beta - 1) * (1 - probs).log()


def beta_weights(
    mean_target_probs: Float[Tensor, " examples"],
    scores: Float[Tensor, " examples"],
    keep: float,
    c_d: float,
    *,
    c_0: float = 15.0,
    anchors: int = 10,
) -> Float64[Tensor, " examples"]:
    """Sampling weights Beta(mean probability; alpha, beta) * score, summing to 1.

    A score of 0 gives weight 0. If all scores are 0, the weights are the density alone. Scores multiplied by a positive number give the same weights.
    Computed in logarithms, so that no product underflows before it is normalised.

    Args:
        mean_target_probs: Probability of the given label, averaged over the epochs that the scores read; in 0..1.
        scores: Scores whose high values are worth keeping; finite and never negative.
        keep: Fraction that stays, in 0..1.
        c_d: How late the draw turns to easy examples as the pruned fraction grows: the larger, the later; above 0. The paper: 4 for CIFAR-100.
        c_0: Concentration of the density, above 0.
        anchors: How many of the highest scores set the mean of the density; equal scores are taken in the order of their positions.

    Returns:
        One per example, in 0..1.

    Raises:
        UsageError: An argument is outside its range.
    """
    density = log_density(mean_target_probs, scores, keep, c_d, c_0=c_0, anchors=anchors)
    if not bool((scores > 0).any()):
        return density.softmax(0)
    return (density + scores.to(torch.float64).log()).softmax(0)


def checked_options(keep: float, c_d: float, c_0: float, anchors: int) -> None:
    """Refuse options outside their range.

    Raises:
        UsageError: An option is outside its range; the message names both.
    """
    budget_of(keep, 0)
    for name, value in (("c_d", c_d), ("c_0", c_0)):
        if not 0 < value < math.inf:
            raise UsageError(f"{name}={value} is not a finite number above 0.")
    if anchors < 1:
        raise UsageError(f"anchors={anchors} is below 1; the mean is taken over that many of the highest scores.")


@dataclasses.dataclass(frozen=True)
class Beta(AbstractSelector):
    """Draws examples without replacement, one after another with probability proportional to `beta_weights`.

    If fewer examples than the budget have a score above 0, all of these stay and the rest is drawn by the density alone. Budgets do not nest, because
    the density depends on `keep`. Equal scores at the edge of the anchors are ordered by id.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        seed: Seed of the draw.
        c_d: How late the draw turns to easy examples as the pruned fraction grows: the larger, the later; above 0.
        c_0: Concentration of the density, above 0.
        anchors: How many of the highest scores set the mean of the density.
        by_class: Whether each given class gives examples in proportion; the density is that of all examples.
    """

    keep: int | float
    seed: int
    c_d: float = 4.0
    c_0: float = 15.0
    anchors: int = 10
    by_class: bool = False
    name: ClassVar[str] = "beta"
    nests: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Cho et al. 2025, DUAL with beta sampling",
        "https://arxiv.org/abs/2502.06905",
        "seeded per id by Gumbel top-k, the same law as one draw after another; floor(keep * examples) exactly; zero scores are "
        "drawn last and by the density alone where the released code stops; classes by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        checked_options(0.0, self.c_d, self.c_0, self.anchors)

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Probabilities of the given label, and labels where classes give examples in proportion."""
        return frozenset({Need.TARGET_PROBS, Need.LABELS} if self.by_class else {Need.TARGET_PROBS})

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        keep = self.keep if isinstance(self.keep, float) else budget / max(1, len(pool))
        # Everything in the order of the ids: sums and ties then come out the same however the examples are arranged.
        by_id = torch.argsort(pool.ids.ranks)
        ids, scores = pool.ids.take(by_id), pool.values[by_id]
        if bool((low := scores < 0).any()):
            names = ids.take(low)
            raise UsageError(
                f"{len(names)} values of {pool.scores.title} are negative; ids {listed(names, len(names))}. "
                "They are factors of sampling weights: use a score that is never negative, such as dual or dyn_unc."
            )
        density = log_density(pool.mean_target_probs[by_id], scores, keep, self.c_d, c_0=self.c_0, anchors=self.anchors)
        positive = scores > 0
        gumbel = -(-uniform(ids.keys, self.seed, "policy beta").log()).log()
        order = ordered(density + torch.where(positive, scores, 1.0).log() + gumbel, ids, descending=True)
        order = torch.cat([order[positive[order]], order[~positive[order]]])
        if self.by_class:
            order = order[interleaved(pool.labels[by_id][order])]
        how = f"by {pool.scores.title} and mean probability of the given label (Beta density, seed {self.seed})"
        drop = "a score that ranks difficulty, such as dual or dyn_unc"
        warnings = suspects_stay(pool, budget, "values", "high", drop, "a policy that takes by=suspicion")
        return Selection(keep_first(by_id[order], budget), f"drawn {how}", f"not drawn {how}", warnings=warnings)
