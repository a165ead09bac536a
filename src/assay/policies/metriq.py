r"""MetriQ (DRoP): more examples of the classes that a model recognises worse.

With N_k examples of class k, of whose validation examples a part r_k is predicted right, and B examples to keep, class k keeps

$$ N_k \min\{1, (1 - r_k) / Z\}, $$

with Z so that all classes together keep B.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.method import Asks, Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, By, Pool, Selection, count_of, suspects_stay
from ..maths.ranking import places_within
from .random import shuffled

NUMBERS = re.compile(r"[-+.\deE]+(/[-+.\deE]+)*")
"""Recalls that are given as numbers, not as the name of a target."""


def recall_quotas(counts: Int[Tensor, " classes"], recalls: Sequence[float], budget: int) -> Float64[Tensor, " classes"]:
    """How many examples each class keeps, before rounding: in proportion to its count times 1 - recall, and at most its count.

    What a class cannot give is divided among the others in the same way; where all others are recognised without an error, in proportion to their counts.

    Args:
        counts: Examples of each class.
        recalls: Part of the validation examples of each class that is predicted right, in 0..1.
        budget: How many examples stay in all, in 0..sum of the counts.

    Returns:
        One for each class, in 0..count; they add up to the budget.
    """
    full = counts.to(torch.float64)
    wanting = full * (1 - torch.tensor(recalls, dtype=torch.float64))
    quotas, open_to = torch.zeros_like(full), full > 0
    # Each round but the last fills a class.
    while bool(open_to.any()) and (left := budget - float(quotas[~open_to].sum())) > 0:
        weights = wanting if float(wanting[open_to].sum()) > 0 else full
        share = weights * open_to
        quotas[open_to] = (left * share / share.sum())[open_to]
        over = open_to & (quotas >= full)
        quotas[over] = full[over]
        if not bool(over.any()):
            break
        open_to = open_to & ~over
    return quotas


def rounded(quotas: Float64[Tensor, " classes"], counts: Int[Tensor, " classes"], budget: int) -> Int[Tensor, " classes"]:
    """Whole numbers that add up to the budget, by largest remainder, the lower class at a tie; none above its count."""
    # 1e-9 as in every budget: 2.9999999999 is 3.
    whole = torch.minimum((quotas + 1e-9).floor().to(torch.int64), counts)
    missing = budget - int(whole.sum())
    order = torch.argsort(torch.where(whole < counts, quotas - whole, -1.0), descending=True, stable=True)
    whole[order[:missing]] += 1
    return whole


@dataclasses.dataclass(frozen=True)
class MetriQ(AbstractSelector):
    """Keeps more of the classes of which a model predicts fewer validation examples right, and within each class the best by a score, or a random part.

    Meant for accuracy in the worst class when much is pruned. In the paper the examples of a class are drawn at random: give a seed. Without one a score is
    needed. Budgets do not nest.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        seed: Seed of the draw within each class, whatever the score; none to take the best by the score.
        recalls: Where the part of each class that is predicted right is taken from: `validation`, what the plan held out, by the last kept model; or numbers
            of your own in the order of the classes, separated by slashes, as in 0.9/0.75/0.98.
        end: Which values are best, the high or the low.
        by: Whether examples are ranked by their values or by suspicion.
    """

    keep: int | float
    seed: int | None = None
    recalls: str = "validation"
    end: Literal["high", "low"] = "high"
    by: By = "values"
    name: ClassVar[str] = "metriq"
    needs_score: ClassVar[bool] = False
    ignores_score: ClassVar[bool] = True
    nests: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Vysogorets et al. 2025, DRoP: distributionally robust data pruning (MetriQ in its first version)",
        "https://arxiv.org/abs/2404.05579",
        "whole numbers by largest remainder, exactly the budget; where every class with room is recognised without an error, which the paper does not define, "
        "room is given in proportion to the classes; any score within a class; drawn per id",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        if self.seed is not None and (self.end, self.by) != ("high", "values"):
            raise UsageError(
                f"{self.title}: with a seed each class is drawn at random, and end and by are not read; leave seed out, or these two."
            )
        self._given()

    def _given(self) -> list[float] | None:
        """The recalls that are given as numbers; None where a target has the rows that they are taken from."""
        if not NUMBERS.fullmatch(self.recalls) or self.recalls.isalpha():
            if "/" in self.recalls or not self.recalls:
                raise UsageError(f"{self.name}: recalls={self.recalls} is no list of numbers in 0..1 such as 0.9/0.75/0.98.")
            return None
        try:
            numbers = [float(text) for text in self.recalls.split("/")]
        except ValueError:
            numbers = [-1.0]
        if not all(0 <= number <= 1 for number in numbers):
            raise UsageError(f"{self.name}: recalls={self.recalls} is no list of numbers in 0..1 such as 0.9/0.75/0.98.")
        return numbers

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Labels, and the kept model where the recalls are not given."""
        return frozenset({Need.LABELS} if self._given() is not None else {Need.LABELS, Need.CHECKPOINTS})

    @property
    def asks(self) -> Asks:
        return Asks(queries=() if self._given() is not None else (self.recalls,))

    def _measured(self, pool: Pool) -> list[float]:
        if (given := self._given()) is not None:
            if len(given) != pool.classes:
                raise UsageError(
                    f"{self.name}: recalls={self.recalls} are {len(given)} numbers, and there are {pool.classes} classes; give one for each."
                )
            return given
        predicted, labels = pool.query_predictions(self.recalls)
        seen = torch.bincount(labels, minlength=pool.classes)
        if bool((seen == 0).any()):
            absent = pool.class_name(int((seen == 0).nonzero()[0]))
            raise UsageError(
                f"{self.name}: {self.recalls} has no example of class {absent}, so that nobody knows how many of them are recognised; hold out more when "
                "recording (validation=0.2), or give recalls=R0/R1/..., a number for each class."
            )
        right = torch.bincount(labels[predicted == labels], minlength=pool.classes)
        return (right / seen.to(torch.float64)).tolist()

    def select(self, pool: Pool) -> Selection:
        budget, labels = count_of(self.keep, len(pool)), pool.labels
        if self.seed is None and not pool.has_scores:
            raise UsageError(
                f"{self.title} takes the best of each class by a score, and none was given; give one of the run's scores, or a draw: seed=0."
            )
        recalls, counts = self._measured(pool), torch.bincount(labels, minlength=pool.classes)
        quotas = rounded(recall_quotas(counts, recalls, budget), counts, budget)
        warnings: tuple[str, ...] = ()
        if self.seed is None:
            order, how = (
                ordered(pool.by(self.by), pool.ids, descending=self.end == "high"),
                f"the {self.end}est by {self.by} of {pool.scores.title}",
            )
            again = f"{self.name}:end={{}},by=suspicion"
            warnings = suspects_stay(pool, budget, self.by, self.end, again.format("low"), again.format("high"))
        else:
            order, how = shuffled(pool.ids, self.seed, "policy metriq"), f"drawn at random, seed {self.seed}"
        place = torch.empty_like(order)
        place[order] = places_within(labels[order])
        kept = place < quotas[labels]
        said = {
            label: f"of class {pool.class_name(label)} {quotas[label]} of {counts[label]} stay, because {100 * recalls[label]:.1f} % of it are recognised"
            for label in labels.unique().tolist()
        }
        reasons = {
            position: f"{'among' if stays else 'not among'} those kept, {how}: {said[label]}"
            for position, (label, stays) in enumerate(zip(labels.tolist(), kept.tolist(), strict=True))
        }
        return Selection(kept, "", "", why_else=reasons, warnings=warnings)
