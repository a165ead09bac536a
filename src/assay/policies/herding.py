r"""Herding: few examples whose mean is that of all.

$$ c_j = \arg\min_{x \notin S} \Bigl\lVert j \mu - \sum_{s \in S} s - x \Bigr\rVert. $$

$\mu$ is the mean of all examples, $S$ those already taken.
"""

import dataclasses
from typing import ClassVar

import torch

from ..core.errors import UsageError
from ..core.method import Source
from ..core.selection import AbstractFeatureSelector, Pool, Selection, class_turns, count_of
from ..maths.coverage import herded


@dataclasses.dataclass(frozen=True)
class Herding(AbstractFeatureSelector):
    """Keeps the examples that a greedy search takes so that their mean in the space of some features stays nearest to the mean of all.

    Examples for a smaller budget are the first of those for a larger one. No score is read.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        features: Features whose mean is kept: `penultimate` or others of a kept model; `inputs`, the data themselves; or `rows:NAME`, rows from
            outside such as embeddings.
        by_class: Whether the mean of each given class is kept separately, with examples in proportion to the class.
    """

    keep: int | float
    features: str = "penultimate"
    by_class: bool = False
    name: ClassVar[str] = "herding"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Welling 2009, Herding dynamical weights to learn",
        "https://dl.acm.org/doi/10.1145/1553374.1553517",
        "the nearest example as in the paper, where DeepCore's code takes the farthest; each example at most once; the features of the trained net "
        "where DeepCore's code takes those of one trained on ImageNet; floor(keep * examples) exactly; ties break by id; classes by Webster's quotients",
    )

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        rows, ranks = pool.features(self.features), pool.ids.ranks
        order = torch.zeros(budget, dtype=torch.int64)
        reasons = {}
        for members, turns, among in class_turns(pool, self.by_class, budget):
            try:
                taken, apart = herded(rows[members] if self.by_class else rows, len(turns), ranks[members])
            except ValueError as error:
                raise UsageError(f"{self.title}: {error}") from error
            order[turns] = members[taken]
            for place, (position, gap) in enumerate(zip(members[taken].tolist(), apart.tolist(), strict=True), 1):
                reasons[position] = (
                    f"number {place}{among}: with it the mean in {self.features} is {gap:.4g} from that of all{among}"
                )
        return Selection.taken(order, pool, "herded", f"others keep the mean in {self.features} nearer to that of all", reasons)
