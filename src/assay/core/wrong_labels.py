"""How many labels are wrong: a count with an interval, overall and by class, and for each example the chance that its label is wrong."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ..maths import draws
from ..maths.mixtures import beyond_zero
from .arguments import checked_fields
from .errors import MissingEvidence, UsageError
from .evidence import Evidence
from .ids import Ids
from .lineage import Lineage, fingerprint
from .needs import Need
from .scores import Scores, ordered
from .tabular import Tabular

READS = frozenset({Need.MARGINS, Need.LABELS})
"""What the count is made of."""


@dataclasses.dataclass(frozen=True)
class ClassCount:
    """How many labels of one class are wrong.

    Attributes:
        name: Name of the given class.
        examples: How many examples have that label.
        count: How many of these labels are estimated to be wrong.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    name: str
    examples: int
    count: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class WrongCount(Tabular):
    """How many labels of a recording are wrong.

    As a table of columns: `id`, and `chance`, that the label is wrong.

    Attributes:
        ids: The examples that were counted.
        chances: For each, the chance that its label is wrong, in 0..1.
        count: How many labels are estimated to be wrong: the sum of the chances.
        low: Lower end of the 95 % interval.
        high: Upper end.
        by_class: The same for each given class.
        clear: Whether the model resists wrong labels as a group that can be told from right ones; if not, the count is 0 and only its upper end says anything.
        lineage: Where it comes from; None for evidence in memory.
    """

    ids: Ids
    chances: Float64[Tensor, " examples"]
    count: float
    low: float
    high: float
    by_class: tuple[ClassCount, ...] = ()
    clear: bool = True
    lineage: Lineage | None = None

    def __post_init__(self):
        if self.chances.shape != (len(self.ids),):
            raise UsageError(f"{len(self.ids)} ids cannot carry chances of shape {tuple(self.chances.shape)}.")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"WrongCount({self.sentence.removesuffix('.')})"

    @property
    def whole(self) -> int:
        """The count as a whole number."""
        return round(self.count)

    @property
    def seen(self) -> bool:
        """Whether there is any sign of wrong labels: the interval leaves out 0."""
        return self.low >= 0.5

    @property
    def sentence(self) -> str:
        """The count in words."""
        low, high, n = round(self.low), round(self.high), len(self)
        if not self.clear:
            return (
                f"How many of {n:,} labels are wrong cannot be told: the model has not learned enough of the right ones (up to {high:,} labels had a "
                "smaller output than another class); train longer, or a larger net, and count again."
            )
        if not self.seen:
            return f"No sign of wrong labels among {n:,}: the model resists none as a group of its own, and at most {high:,} are wrong (95 % interval)."
        return f"About {self.whole:,} of {n:,} labels are wrong (95 % interval {low:,} to {high:,})."

    def among(self, ids: Ids) -> int:
        """How many labels of these examples are estimated to be wrong, as a whole number; those that were not counted add nothing."""
        return self.whole if ids == self.ids else round(float(self.chances[np.isin(self.ids.values, ids.values)].sum()))

    def false_discoveries(self, scores: Scores) -> Float64[Tensor, " examples"]:
        """The part of right labels to expect among the k most suspect by a score, for k = 1 to all.

        It is the mean of 1 - chance over the k most suspect.

        Returns:
            In 0..1, one per k.

        Raises:
            UsageError: The score ranks difficulty.
            Mismatch: A scored example was not counted.
        """
        # Of equal ones the largest ids first, as policies drop them.
        order = ordered(scores.suspicion(), scores.ids, descending=False).flip(0)
        right = 1 - self.chances[self.ids.positions(scores.ids, "the count of wrong labels")][order]
        return right.cumsum(0) / torch.arange(1, len(right) + 1)

    def to_numpy(self) -> dict[str, np.ndarray]:
        return {"id": self.ids.values, "chance": self.chances.numpy()}

    def shown_first(self) -> np.ndarray:
        return np.argsort(-self.chances.numpy(), kind="stable")

    @property
    def fingerprint(self) -> str:
        """Hash over the ids and what was counted."""
        return fingerprint(self.ids.fingerprint, self.chances.numpy().tobytes(), repr((self.count, self.low, self.high)))


def mean_margins(evidence: Evidence) -> tuple[Float64[Tensor, " examples"], Tensor]:
    """Margin of the given label, in logits, averaged over the recorded epochs that have facts of the example; and which examples have one.

    Returns:
        The means, 0 for examples without any; and a mask.

    Raises:
        MissingEvidence: The evidence has no margins.
    """
    view = evidence.narrow("the count of wrong labels", frozenset({Need.MARGINS}))
    if not view.recorded:
        raise MissingEvidence("The count of wrong labels reads margins, and no epoch is recorded; record a training.")
    total, seen = torch.zeros(len(view.ids), dtype=torch.float64), torch.zeros(len(view.ids), dtype=torch.int64)
    for index in range(view.recorded):
        epoch = view.epoch(index).narrow(frozenset({Need.MARGINS}), partial=True)
        missing = epoch.missing
        total += epoch.margins if missing is None else epoch.margins.masked_fill(missing, 0)
        seen += 1 if missing is None else (~missing).to(torch.int64)
    return total / seen.clamp(min=1), seen > 0


def count_of_margins(
    ids: Ids, margins: Float64[Tensor, " examples"], labels: Int[Tensor, " examples"] | None, class_names: Sequence[str] = ()
) -> WrongCount:
    r"""How many labels are wrong, from the mean margin of each example's label.

    Margins below 0 mean that another class had the larger output. Minus the margins is a mixture of normal distributions, of which those centred above 0
    are the wrong labels (`maths.mixtures.beyond_zero`): right labels, however hard, are rarely resisted as a group.

    Args:
        ids: The examples.
        margins: Mean margin of each, in logits.
        labels: Given class of each; None to count over all classes only.
        class_names: Names of the classes; by default their numbers.

    Returns:
        The count with a 95 % interval.

    Raises:
        UsageError: No examples, or a margin is not finite.
    """
    if not len(ids) or not bool(margins.isfinite().all()):
        raise UsageError("Wrong labels are counted from finite margins of at least one example; score and train again.")
    groups = np.zeros(len(ids), dtype=np.int64) if labels is None else labels.numpy()
    found = beyond_zero(-margins.numpy(), groups, draws.integer(0, "count of wrong labels"))
    names = [] if labels is None else list(class_names) or [str(at) for at in range(len(found.by_group))]
    sizes = np.bincount(groups, minlength=len(found.by_group))
    by_class = tuple(
        ClassCount(name, int(size), *map(float, row)) for name, size, row in zip(names, sizes, found.by_group, strict=False)
    )
    return WrongCount(
        ids, torch.from_numpy(found.chances), float(found.count), float(found.low), float(found.high), by_class, bool(found.clear)
    )


def wrong_count(evidence: Evidence, class_names: Sequence[str] = ()) -> WrongCount:
    """How many labels are wrong, from the recorded margins of a run.

    Returns:
        The count with a 95 % interval, of the examples that an epoch has facts of.

    Raises:
        MissingEvidence: No margins were recorded.
    """
    margins, seen = mean_margins(evidence)
    labels = evidence.narrow("the count of wrong labels", frozenset({Need.LABELS})).labels
    if bool(seen.all()):
        return count_of_margins(evidence.ids, margins, labels, class_names)
    return count_of_margins(evidence.ids.take(seen), margins[seen], labels[seen], class_names)
