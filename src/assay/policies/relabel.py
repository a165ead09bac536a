"""Give the most suspect examples the class that the model predicts on average."""

import dataclasses
from typing import ClassVar

import torch

from ..core.errors import UsageError
from ..core.method import Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, Pool, Selection, budget_of, finite_probs


@dataclasses.dataclass(frozen=True)
class Relabel(AbstractSelector):
    """Gives the most suspect examples the class with the largest mean probability over all recorded epochs; every example stays.

    An example whose mean prediction is its given label is left as it is. Equal mean probabilities go to the lower class.
    Give either `count` or `fraction`.

    Args:
        count: How many of the most suspect are looked at, at least 0.
        fraction: The same as a fraction of all examples, in 0..1, rounded down.
    """

    count: int | None = None
    fraction: float | None = None
    name: ClassVar[str] = "relabel"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.MEAN_PROBS})
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Tanaka et al. 2018, Joint optimization framework for learning with noisy labels (hard labels)",
        "https://arxiv.org/abs/1803.11364",
        "once, after the recorded run, and only the most suspect; the paper relabels all examples while it trains",
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.count is None) == (self.fraction is None):
            raise UsageError("relabel takes either count or fraction: how many of the most suspect are looked at.")
        if self.count is not None and self.count < 0:
            raise UsageError(f"count={self.count} is below 0; it is how many of the most suspect are looked at.")
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise UsageError(f"fraction={self.fraction} is outside 0..1; it is the part of the examples that is looked at.")

    def select(self, pool: Pool) -> Selection:
        n, title = len(pool), pool.scores.title
        count = self.count if self.count is not None else budget_of(self.fraction or 0.0, n)
        if count > n:
            raise UsageError(f"count={count} is more than the {n} examples; give a count in 0..{n}.")
        given, probs = pool.labels, finite_probs(pool)
        suspects = ordered(pool.scores.suspicion(), pool.ids, descending=True)[:count]
        predicted = probs.argmax(1)
        labels = torch.full((n,), -1, dtype=torch.int64)
        changed = suspects[predicted[suspects] != given[suspects]]
        labels[changed] = predicted[changed]
        among = f"among the {count} most suspect by {title}"
        agrees = f"{among}, but the model's mean prediction is its given label: left as it is"
        why_else = dict.fromkeys(suspects.tolist(), agrees)
        for position in changed.tolist():
            was, becomes = (pool.class_name(int(label[position])) for label in (given, predicted))
            why_else[position] = f"{among}: class {was} becomes {becomes}, the mean prediction"
        return Selection(
            torch.ones(n, dtype=torch.bool), f"not {among}", f"{among}: relabelled", labels=labels, why_else=why_else
        )
