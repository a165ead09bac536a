"""Remove the worst examples, as many as are asked for."""

import dataclasses
from typing import ClassVar

import torch

from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.selection import AbstractSelector, Pool, Selection, removable, worst


@dataclasses.dataclass(frozen=True)
class RemoveWorst(AbstractSelector):
    """Drops the `count` most suspect examples; of equal ones at the edge, the smallest ids stay.

    Where the score says by how much a target changes without an example (sgd_influence, loo, ...), only examples predicted to do harm are dropped: a
    larger count is refused, and the message says how many are harmful.

    Args:
        count: How many are dropped, at least 0.
        harmful_only: Whether at most the harmful examples may be dropped, for a score that tells harm from help; other scores only rank.
    """

    count: int
    harmful_only: bool = True
    name: ClassVar[str] = "remove_worst"
    reads: ClassVar[frozenset[Need]] = frozenset()
    nests: ClassVar[bool] = True
    counts_by_curve: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Hara et al. 2019, Data cleansing for models trained with SGD",
        "https://arxiv.org/abs/1906.08473",
        "by default never removes an example that is predicted to help; ties break by id",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.count < 0:
            raise UsageError(f"count={self.count} is below 0; it is how many examples are dropped.")

    def select(self, pool: Pool) -> Selection:
        scores, most = pool.scores, removable(pool.scores, self.harmful_only)
        if self.count > len(pool):
            raise UsageError(f"count={self.count} is more than the {len(pool)} examples; give a count in 0..{most}.")
        if self.count > most:
            raise UsageError(
                f"count={self.count}, but {scores.title} predicts only {most} of {len(pool)} examples to be harmful; give a count in "
                f"0..{most}, or harmful_only=false to drop helpful ones too."
            )
        kept = torch.ones(len(pool), dtype=torch.bool)
        kept[worst(scores, self.count)] = False
        harm = ", predicted to do harm" if scores.harmful() is not None and self.harmful_only else ""
        what = f"among the {self.count} most suspect by {scores.title}"
        return Selection(kept, f"not {what}", f"{what}{harm}")
