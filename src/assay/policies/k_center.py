r"""Greedy k-center: few examples, such that every other one is near to one of them.

$$ c_1 = \arg\min_i \lVert x_i - \bar x \rVert, \qquad c_{j+1} = \arg\max_i \min_{l \le j} \lVert x_i - x_{c_l} \rVert. $$
"""

import dataclasses
from typing import ClassVar

import torch

from ..core.errors import UsageError
from ..core.method import Source
from ..core.selection import AbstractFeatureSelector, Pool, Selection, class_turns, count_of
from ..maths.coverage import farthest_first


@dataclasses.dataclass(frozen=True)
class KCenter(AbstractFeatureSelector):
    """Keeps the examples that a greedy search takes as centers, each the farthest from those before it in the space of some features.

    The first center is the example nearest to the mean; equal distances go to the smallest id. The greatest distance of an example to its
    nearest center is at most twice that of the best choice of as many centers. Centers for a smaller budget are the first of those for a
    larger one. No score is read.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        features: Features between which distances are taken: `inputs`, the data themselves; `rows:NAME`, rows from outside such as embeddings; or
            features from a kept model, such as `penultimate`.
        by_class: Whether each given class is covered separately, with centers in proportion to its examples.
    """

    keep: int | float
    features: str = "inputs"
    by_class: bool = False
    name: ClassVar[str] = "k_center"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Sener and Savarese 2018, Active learning for convolutional neural networks: a core-set approach (greedy; Gonzalez 1985)",
        "https://arxiv.org/abs/1708.00489",
        "starts at the example nearest to the mean where Gonzalez starts anywhere and DeepCore's code at a random one; no pool of labelled "
        "centers beforehand and no integer program after the greedy search; exact distances on any features where DeepCore's code takes "
        "embeddings of a net trained on ImageNet; floor(keep * examples) exactly where it rounds; ties break by id; classes by Webster's "
        "quotients",
    )

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        rows, ranks = pool.features(self.features), pool.ids.ranks
        order = torch.zeros(budget, dtype=torch.int64)
        reasons, radius, uncovered = {}, 0.0, False
        for members, turns, among in class_turns(pool, self.by_class, budget):
            try:
                centers, radii = farthest_first(rows[members] if self.by_class else rows, len(turns), ranks[members])
            except ValueError as error:
                raise UsageError(f"{self.title}: {error}") from error
            order[turns] = members[centers]
            uncovered |= not len(turns)
            radius = max([radius, *radii[-1:].tolist()])
            for place, (position, apart) in enumerate(zip(members[centers].tolist(), [None, *radii.tolist()], strict=False), 1):
                where = "nearest to the mean" if apart is None else f"{apart:.4g} from the nearest one before it"
                reasons[position] = f"center {place}{among} in {self.features}, {where}"
        dropped = f"no center in {self.features}"
        if not uncovered:
            # Where a class has no center, nothing is near to one.
            dropped += f": at most {radius:.4g} from the nearest one{' of its class' if self.by_class else ''}"
        return Selection.taken(order, pool, "a center", dropped, reasons)
