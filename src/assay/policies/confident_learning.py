"""Drop the examples whose labels confident learning finds to be wrong."""

import dataclasses
from typing import ClassVar

import torch

from ..core.method import Source
from ..core.needs import Need
from ..core.passes import in_sample
from ..core.selection import AbstractSelector, Pool, Selection, finite_probs
from ..maths.confident import By, find


@dataclasses.dataclass(frozen=True)
class ConfidentLearning(AbstractSelector):
    """Drops the examples whose labels are wrong by the joint distribution of given and true labels; how many these are the joint says. No score is read.

    The joint is counted over the examples that reach the mean probability of a class, and scaled to the numbers of the given labels. An example whose
    most probable class is its label stays. The probabilities should be of models that were not trained on the example, as a recording by folds has
    them; of others a warning says so.

    Args:
        by: Which examples: of each given class those with the lowest probability of it (`class`); of each pair of classes those with the largest difference
            (`noise_rate`); those that both name (`both`); or those that are confidently of another class than their label (`off_diagonal`).
        relabel: Whether they get the most probable class and stay, instead of being dropped.
    """

    by: By = "both"
    relabel: bool = False
    name: ClassVar[str] = "confident_learning"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.MEAN_PROBS})
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Northcutt, Jiang and Chuang 2021, Confident learning",
        "https://arxiv.org/abs/1911.00068",
        "each class keeps an example that counts as right, and no example is touched whose most probable class is its label, both as in cleanlab; of several "
        "classes that reach their threshold the most probable counts (the paper), where cleanlab takes the most probable of all; of equally probable ones the "
        "label itself, where cleanlab takes the first class",
    )

    def select(self, pool: Pool) -> Selection:
        labels, probs = pool.labels, finite_probs(pool)
        # Of equal examples those with the smallest ids stay.
        wrong = find(probs, labels, -pool.ids.ranks, self.by)
        likely = probs.argmax(1)
        verb = "relabelled" if self.relabel else "dropped"
        why_else = {
            at: f"confident learning ({self.by}): given {pool.class_name(int(labels[at]))}, most probable {pool.class_name(int(likely[at]))}: {verb}"
            for at in wrong.nonzero().flatten().tolist()
        }
        return Selection(
            torch.ones_like(wrong) if self.relabel else ~wrong,
            f"not among the labels that confident learning ({self.by}) finds wrong",
            f"among the labels that confident learning ({self.by}) finds wrong",
            labels=torch.where(wrong, likely, -1) if self.relabel else None,
            why_else=why_else,
            warnings=in_sample(pool.passes),
        )
