"""Reviews: what a person marked, example by example, the decision that comes of it, and how good the suspects were."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..maths import draws
from ..maths.statistics import clopper_pearson
from .arguments import checked_fields
from .decision import Action, Decision
from .errors import UsageError, listed
from .ids import Ids
from .lineage import Lineage, fingerprint

Rest = Literal["keep", "decision"]
FEWEST_DRAWN = 5
"""Marks of the random sample that are taken for one where others were marked besides: fewer may be there by chance."""


class Mark(enum.Enum):
    """What a reviewer says of a given label."""

    RIGHT = "right"
    WRONG = "wrong"
    UNSURE = "unsure"


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Review:
    """Marks of a reviewer.

    Attributes:
        ids: The examples that were marked.
        marks: One mark each.
        labels: The class that the reviewer puts in the place of a wrong one; -1 where none was named.
        dataset: Fingerprint of the dataset that the page showed.
        decision: Fingerprint of the decision that the page showed; empty if it showed none.
    """

    ids: Ids
    marks: tuple[Mark, ...]
    labels: Int[Tensor, " examples"]
    dataset: str
    decision: str = ""

    def __post_init__(self):
        if len(self.marks) != len(self.ids) or self.labels.shape != (len(self.ids),):
            raise UsageError(f"A review of {len(self.ids)} examples needs one mark and one label for each.")
        odd = torch.tensor([mark is not Mark.WRONG for mark in self.marks], dtype=torch.bool) & (self.labels >= 0)
        if bool(odd.any()):
            names = self.ids.take(odd)
            raise UsageError(
                f"{len(names)} examples have a new label but are not marked wrong: {listed(names, len(names))}; mark them wrong, or take the label away."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def marked(self, mark: Mark) -> Ids:
        """The examples with this mark."""
        return self.ids.take(np.array([one is mark for one in self.marks], dtype=bool))

    def counts(self) -> dict[str, int]:
        """Number of examples for each mark, those without any left out."""
        return {mark.value: n for mark in Mark if (n := self.marks.count(mark))}

    @property
    def fingerprint(self) -> str:
        """Hash over what was marked how."""
        marks = (mark.value for mark in self.marks)
        return fingerprint(
            self.dataset, self.decision, self.ids.fingerprint, *marks, self.labels.to(torch.int64).numpy().tobytes()
        )


@dataclasses.dataclass(frozen=True)
class Precision:
    """The share of wrong labels among reviewed examples.

    Attributes:
        wrong: How many were marked wrong.
        right: How many were marked right.
        unsure: How many the reviewer could not tell; they are left out of the share.
        low: Lower end of the exact 95 % interval (Clopper and Pearson); None where it would be about nothing else than what was seen.
        high: Upper end.
        population: What was reviewed, in words.
        about: What the interval is about, in words.
    """

    wrong: int
    right: int
    unsure: int
    low: float | None
    high: float | None
    population: str
    about: str

    @property
    def share(self) -> float:
        """Fraction of wrong labels among those told apart, in [0, 1]."""
        return self.wrong / (self.wrong + self.right)

    @property
    def sentence(self) -> str:
        """The share, its interval, and what each is about."""
        n = self.wrong + self.right
        doubt = f" ({self.unsure:,} unsure, left out)" if self.unsure else ""
        span = (
            f"95 % interval {100 * self.low:.1f} to {100 * self.high:.1f} %, "
            if self.low is not None and self.high is not None
            else ""
        )
        return f"Of {self.population}, {self.wrong:,} of {n:,} labels are wrong{doubt}: {100 * self.share:.1f} %; {span}{self.about}."


@dataclasses.dataclass(frozen=True, eq=False)
class ReviewResult:
    """What comes of a review.

    Attributes:
        review: The marks.
        decision: What is to be done with each example.
        precision: How many of the suspects were wrong; None if none of them was told apart.
    """

    review: Review
    decision: Decision
    precision: Precision | None

    @property
    def sentence(self) -> str:
        """The measured share, in words."""
        return (
            self.precision.sentence
            if self.precision is not None
            else "No suspect was marked right or wrong, so that no share is measured."
        )

    def __repr__(self) -> str:
        return f"ReviewResult({self.decision!r}; {self.sentence})"


def suspects_of(decision: Decision) -> Ids:
    """The examples that a decision drops, relabels or weights."""
    return decision.ids.take(decision.touched)


def sample_order(suspects: Ids) -> Ids:
    """The suspects in an order that is drawn at random, always the same: the first k of it are a random sample of k."""
    return suspects.take(draws.permutation(suspects.keys, 0, "sample for review"))


def precision_of(
    review: Review, suspects: Ids, ranked: Ids | None = None, by: str = "", noun: str = "suspects"
) -> Precision | None:
    """The share of wrong labels among the reviewed suspects.

    An interval is given where it is about something: all suspects, if a random sample of them was reviewed; labels like those that were seen
    otherwise. The first of a ranking are no sample of the rest, and a whole set that was seen has no more to be estimated.

    Args:
        review: The marks.
        suspects: Those that were to be reviewed.
        ranked: The suspects, the most suspect first, if they are ranked.
        by: What ranks them.
        noun: What they are called.

    Returns:
        None if no suspect was marked right or wrong.
    """
    told_of = dict(zip(review.ids, review.marks, strict=True))
    seen = review.ids.take(np.isin(review.ids.values, suspects.values) if len(suspects) else np.zeros(len(review), bool))
    drawn = sample_order(suspects).take(range(_marked_first(seen, sample_order(suspects))))
    total = len(suspects)
    about = f"as if they were a sample of labels like these; it holds for the other {noun} only if these were picked at random"
    population = f"the {len(seen):,} {noun} reviewed, of {total:,}"
    if len(seen) == total:
        population, about = f"all {total:,} {noun}", "all were looked at, so that nothing is left to estimate"
    elif ranked is not None and len(drawn) < len(seen) == _marked_first(seen, ranked):
        population = f"the first {len(seen):,} of {total:,} {noun} by {by}"
        about = f"as if they were a sample of labels like these; it says nothing of the {noun} further down, which are likely better labelled"
    elif len(seen) and (len(drawn) == len(seen) or (len(drawn) >= FEWEST_DRAWN and 2 * len(drawn) >= len(seen))):
        # What was marked besides the sample is no part of it.
        seen, population, about = drawn, f"{len(drawn):,} {noun} drawn at random from {total:,}", f"for all {total:,}"
    marks = [told_of[id_] for id_ in seen]
    wrong, right, unsure = (marks.count(mark) for mark in (Mark.WRONG, Mark.RIGHT, Mark.UNSURE))
    if not wrong + right:
        return None
    if seen is drawn and unsure:
        about += " whose label a reviewer can tell"
    low, high = clopper_pearson(wrong, wrong + right) if len(seen) < total else (None, None)
    return Precision(wrong, right, unsure, low, high, population, about)


def _marked_first(seen: Ids, order: Ids) -> int:
    """How many of the first of an order were marked, up to the first that was not."""
    there = np.isin(order.values, seen.values) if len(seen) else np.zeros(len(order), bool)
    return len(order) if there.all() else int(there.argmin())


def decided(review: Review, base: Decision, class_names: Sequence[str], rest: Rest) -> Decision:
    """The decision that a review makes of another one.

    Examples marked wrong are relabelled where the reviewer named a class, and dropped where not; those marked right or unsure are kept. All others
    are kept, or with rest="decision" treated as that decision does.

    Args:
        review: The marks.
        base: The decision that was reviewed.
        class_names: One name per class.
        rest: What is done with examples that were not reviewed.

    Returns:
        A decision on the same examples.

    Raises:
        Mismatch: A marked example is not among those decided on.
    """
    place = base.ids.positions(review.ids, "the decision")
    n = len(base)
    actions, labels = torch.full((n,), int(Action.KEEP)), torch.full((n,), -1)
    weights = torch.ones(n, dtype=torch.float64)
    reasons = ["not reviewed"] * n
    if rest == "decision":
        actions, labels, weights = base.actions.clone(), base.labels.clone(), base.weights.clone()
        reasons = [f"not reviewed; {reason}" for reason in base.reasons]
    for at, mark, label in zip(place.tolist(), review.marks, review.labels.tolist(), strict=True):
        relabelled, dropped = mark is Mark.WRONG and label >= 0, mark is Mark.WRONG and label < 0
        actions[at] = int(Action.RELABEL if relabelled else Action.DROP if dropped else Action.KEEP)
        labels[at], weights[at] = label if relabelled else -1, 0.0 if dropped else 1.0
        reasons[at] = f"marked {mark.value} by a reviewer" + (f", who names {class_names[label]}" if relabelled else "")
    title = f"review of {base.title}" if rest == "keep" else f"review and rest of {base.title}"
    parents = dict(base.lineage.parents) if base.lineage is not None else {}
    if review.decision:
        parents["decision"] = review.decision
    lineage = dataclasses.replace(
        base.lineage or Lineage(review.dataset), parents={**parents, "review": review.fingerprint}, seed=None
    )
    return Decision(
        base.ids, actions, labels, weights, tuple(reasons), "review", {"rest": rest}, title, lineage,
        warnings=base.warnings if rest == "decision" else (), class_names=tuple(class_names),
    )  # fmt: skip
