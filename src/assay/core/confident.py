"""The confident joint: how given and true labels are distributed together."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from .arguments import checked_fields
from .errors import UsageError
from .tabular import Tabular, texts
from .wrong_labels import ClassCount, WrongCount

COVERS = (
    "The interval is over the draw of examples, given the probabilities: where classes overlap, right labels of unclear examples are counted too, and the count is too large "
    "whatever the interval."
)
"""What the interval of the joint does not say."""


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class ConfidentJoint(Tabular):
    """How given and true labels are distributed together, by confident learning.

    Attributes:
        joint: Share of the examples of each given class (rows) and each true class (columns); adds up to 1.
        thresholds: Mean probability of each class over the examples with that label; infinite for a class that no label names.
        counts: How many examples of each given and true class were counted, before they were scaled to all.
        class_names: One name per class.
        examples: How many examples there are.
        confident: How many of them reach the threshold of a class; the others are counted nowhere.
        made_of: What the probabilities are, in words.
        warnings: What a reader must know before trusting them, a sentence each.
        low: Lower end of the 95 % interval of the number of wrong labels, over the draw of examples, given the probabilities. It does not cover what is wrong with
            these: where classes overlap, right labels of unclear examples are counted too.
        high: Upper end.
        by_class: How many labels of each given class are wrong, with such intervals.
        found: How many labels `confident_learning` finds wrong by default, which is at most about as many as are counted.
    """

    joint: Float64[Tensor, "given true"]
    thresholds: Float64[Tensor, " classes"]
    counts: Float64[Tensor, "given true"]
    class_names: tuple[str, ...]
    examples: int
    confident: int
    made_of: str
    warnings: tuple[str, ...] = ()
    low: float = 0.0
    high: float = math.inf
    by_class: tuple[ClassCount, ...] = ()
    found: int = 0

    def __post_init__(self):
        classes = len(self.class_names)
        if self.joint.shape != (classes, classes) or len(self.thresholds) != classes:
            raise UsageError(
                f"A joint of shape {tuple(self.joint.shape)} and {len(self.thresholds)} thresholds do not fit {classes} classes."
            )

    @property
    def wrong(self) -> float:
        """Estimated share of wrong labels: what lies outside the diagonal; in 0..1."""
        return float((self.joint - self.joint.diagonal().diag()).sum())

    @property
    def wrong_count(self) -> int:
        """Estimated number of wrong labels."""
        return round(self.wrong * self.examples)

    @property
    def seen(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low >= 0.5

    @property
    def sentence(self) -> str:
        """The count in words."""
        n, by = self.examples, f"by {self.confident:,} examples that reach the threshold of a class"
        if not math.isfinite(self.high):
            return f"About {self.wrong_count:,} of {n:,} labels are wrong ({100 * self.wrong:.1f} %), {by}."
        if not self.wrong_count:
            return f"The joint counts no wrong label among {n:,}, and at most {round(self.high):,} (95 % interval), {by}."
        return f"About {self.wrong_count:,} of {n:,} labels are wrong ({100 * self.wrong:.1f} %, 95 % interval {round(self.low):,} to {round(self.high):,}), {by}."

    def droppable(self, by_margins: WrongCount | None) -> bool:
        """Whether `confident_learning` may be advised: the interval of no count holds 0, and it finds no more than any of them says can be wrong.

        Args:
            by_margins: The count of wrong labels by margins; None where they cannot be counted.

        Returns:
            True if it may.
        """
        if not self.seen or not self.found or (by_margins is not None and not by_margins.seen):
            return False
        return self.found <= round(min(self.high, math.inf if by_margins is None else by_margins.high))

    def to_numpy(self) -> dict[str, np.ndarray]:
        """A row for each pair of classes: `given_class`, `true_class`, `share` of all examples, the `estimated` number of examples, and how many were `counted`."""
        names, many = self.class_names, len(self.class_names)
        return {
            "given_class": texts([name for name in names for _ in names]),
            "true_class": texts([name for _ in names for name in names]),
            "share": self.joint.flatten().numpy(),
            "estimated": (self.joint * self.examples).flatten().numpy(),
            "counted": self.counts.reshape(many * many).numpy().astype(np.int64),
        }

    def __repr__(self) -> str:
        warned = f"; warned: {self.warnings[0]}" if self.warnings else ""
        return f"ConfidentJoint({self.examples:,} examples, {len(self.class_names)} classes, {self.wrong_count:,} labels estimated to be wrong{warned})"
