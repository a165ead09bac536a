r"""ZCore: examples that cover random planes of their features, less those that stand beside one that does; no labels, no training.

$$ s_i = u_i + \sum_t [i = c_t] - \sum_t \frac{d_t(i)^{-4}}{\sum_{j \in N(c_t)} d_t(j)^{-4}} [i \in N(c_t)]. $$

$c_t$ is the example nearest to the t-th point, which is drawn in a plane of two of the features, $N(c_t)$ are its neighbours in that plane at
distances $d_t$, and $u_i$ is uniform in 0..1.
"""

import dataclasses
from typing import ClassVar

import torch

from ..core.errors import UsageError
from ..core.method import Source
from ..core.scores import ordered
from ..core.selection import AbstractFeatureSelector, Pool, Selection, class_turns, count_of
from ..maths import draws
from ..maths.subspaces import covered_less_redundant


@dataclasses.dataclass(frozen=True)
class ZCore(AbstractFeatureSelector):
    """Keeps the examples that most often cover a point drawn among them in two of their features, and least often stand beside one that does.

    Neither labels nor scores are read. Best on embeddings of a model that was trained on much else (`features=rows:NAME`).

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        seed: Seed of the drawn points.
        features: Features whose planes are drawn: `inputs`, the data themselves; `rows:NAME`, rows from outside; or those of a kept model.
        samples: How many points are drawn, at least 1. The time grows with samples * examples.
        neighbours: How many examples beside the one that covers a point share the redundancy, at least 1; all others where there are fewer.
        exponent: How fast their share falls with the distance, at least 0.
        by_class: Whether each given class gives examples in proportion.
    """

    keep: int | float
    seed: int
    features: str = "inputs"
    samples: int = 100_000
    neighbours: int = 1000
    exponent: float = 4.0
    by_class: bool = False
    name: ClassVar[str] = "zcore"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Griffin, Marks and Corso 2024, Zero-shot coreset selection",
        "https://arxiv.org/abs/2411.15349",
        "100,000 points by default, where the paper draws 1,000,000 for sets of 50,000 and more; where several examples stand in the place of the one "
        "that covers a point, all of them share its redundancy, where the released code takes it from one; drawn per id; ties break by id",
    )

    def __post_init__(self):
        super().__post_init__()
        for option in ("samples", "neighbours"):
            if getattr(self, option) < 1:
                raise UsageError(f"{self.name}: {option}={getattr(self, option)} is below 1.")
        if not 0 <= self.exponent < float("inf"):
            raise UsageError(f"{self.name}: exponent={self.exponent} is not a number from 0 on.")

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        rows = pool.features(self.features)
        try:
            covers, beside = covered_less_redundant(rows, pool.ids.ranks, self.samples, self.seed, self.neighbours, self.exponent)
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error
        values = covers - beside + draws.uniform(pool.ids.keys, self.seed, "policy zcore")
        order = torch.zeros(budget, dtype=torch.int64)
        for members, turns, _ in class_turns(pool, self.by_class, budget):
            order[turns] = members[ordered(values[members], pool.ids.take(members), descending=True)[: len(turns)]]
        reasons = {
            place: f"covers {int(often)} of {self.samples} points in {self.features}, redundancy {shared:.4g}"
            for place, (often, shared) in enumerate(zip(covers.tolist(), beside.tolist(), strict=True))
        }
        return Selection.taken(order, pool, "covers", "redundant", reasons)
