r"""SSP: examples far from the prototypes of their features, or near to them.

$$ d_i = \min_c \; 1 - \cos(x_i, \mu_c), $$

with the centers $\mu_c$ of k-means. No label is needed; in the paper the features are of a self-supervised net.
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.features import FeatureSpec
from ..core.method import Asks, Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, Pool, Selection, count_of
from ..maths.neighbours import Metric
from ..maths.prototypes import k_means, prototype_distance
from ..maths.ranking import interleaved

ROUNDS = 100


def partly_balanced(
    order: Int[Tensor, " examples"], labels: Int[Tensor, " examples"], balance: float
) -> Int[Tensor, " examples"]:
    """An order of which the first b hold the first floor(balance * b) of the order that has every class in proportion; the rest as in the given order.

    So of a class with a share p of the examples, at least about balance * p * b are among the first b, and budgets nest.

    Args:
        order: Positions of the examples, the first to keep first.
        labels: Class of each example.
        balance: In 0..1; 0 gives the order itself, 1 every class in proportion.

    Returns:
        Positions, each once.
    """
    fair, plain = iter(order[interleaved(labels[order])].tolist()), iter(order.tolist())
    taken, found = set[int](), list[int]()
    for b in range(1, len(order) + 1):
        due = int(balance * b + 1e-9) > int(balance * (b - 1) + 1e-9)
        position = next(fair) if due else next(plain)
        while position in taken:
            position = next(plain)
        taken.add(position)
        found.append(position)
    return torch.tensor(found, dtype=torch.int64)


@dataclasses.dataclass(frozen=True)
class SSP(AbstractSelector):
    """Keeps the examples farthest from the nearest center of k-means, or the nearest ones; no label and no score is read.

    The far ones are hard and rare, and the paper keeps them where little is pruned; the near ones are typical, and it keeps these where few stay.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        seed: Seed of the start of k-means.
        features: Features in which distances are taken: `inputs`, `rows:NAME` such as embeddings of a self-supervised net, or those of a kept model.
        clusters: How many centers; by default as many as the run has classes.
        end: Which examples stay, those `far` from the centers or `near` to them.
        metric: Distance: 1 minus the `cosine` of the angle, or the `euclidean` one.
        balance: Fraction of the budget that is given to the classes in proportion, in 0..1; above 0 labels are read. The paper: 0.5 on ImageNet.
    """

    keep: int | float
    seed: int
    features: str = "inputs"
    clusters: int | None = None
    end: Literal["far", "near"] = "far"
    metric: Metric = "cosine"
    balance: float = 0.0
    name: ClassVar[str] = "ssp"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    spreads: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Sorscher et al. 2022, Beyond neural scaling laws (self-supervised prototypes)",
        "https://arxiv.org/abs/2206.14486",
        "any features, where the paper takes those of SwAV; k-means++ starts, seeded per id; by the cosine, k-means is spherical; ties break by id; a part of the "
        "budget by class by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        FeatureSpec.parse(self.features)
        if self.clusters is not None and self.clusters < 1:
            raise UsageError(f"clusters={self.clusters} is below 1; give how many prototypes there are.")
        if not 0 <= self.balance <= 1:
            raise UsageError(
                f"balance={self.balance} is outside 0..1; it is the part of the budget that classes have in proportion."
            )

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Features, and labels where classes have a part of the budget."""
        return frozenset({Need.FEATURES, Need.LABELS} if self.balance else {Need.FEATURES})

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,))

    def select(self, pool: Pool) -> Selection:
        n, budget = len(pool), count_of(self.keep, len(pool))
        clusters = self.clusters if self.clusters is not None else min(pool.classes, n)
        if not 1 <= clusters <= n:
            raise UsageError(
                f"{self.title}: clusters={clusters}, and there are {n} examples"
                f"{' without classes' if self.clusters is None else ''}; give clusters=NUMBER in 1..{n}."
            )
        # In the order of the ids, so that sums come out the same however the examples are arranged.
        by_id = torch.argsort(pool.ids.ranks)
        ids, rows = pool.ids.take(by_id), pool.features(self.features)[by_id]
        try:
            centers, rounds = k_means(rows, clusters, ids.keys, self.seed, self.metric, ROUNDS)
            apart, nearest = prototype_distance(rows, centers, self.metric)
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error
        order = ordered(apart, ids, descending=self.end == "far")
        if self.balance:
            order = partly_balanced(order, pool.labels[by_id], self.balance)
        reasons = {
            position: f"{distance:.4g} ({self.metric}) from the nearest of {clusters} prototypes in {self.features}, number {number}"
            for position, distance, number in zip(by_id.tolist(), apart.tolist(), nearest.tolist(), strict=True)
        }
        warnings = (
            (f"k-means was stopped after {rounds} rounds while examples still changed their cluster.",)
            if rounds == ROUNDS
            else ()
        )
        return Selection.taken(by_id[order][:budget], pool, "", "", reasons, warnings)
