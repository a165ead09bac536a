"""The confident joint: how given and true labels are distributed together."""

import dataclasses

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from .arguments import checked_fields
from .errors import UsageError
from .tabular import Tabular, texts


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
    """

    joint: Float64[Tensor, "given true"]
    thresholds: Float64[Tensor, " classes"]
    counts: Float64[Tensor, "given true"]
    class_names: tuple[str, ...]
    examples: int
    confident: int
    made_of: str
    warnings: tuple[str, ...] = ()

    def __post_init__(self):
        classes = len(self.class_names)
        if self.joint.shape != (classes, classes) or len(self.thresholds) != classes:
            raise UsageError(
                f"A joint of shape {tuple(self.joint.shape)} and {len(self.thresholds)} thresholds do not fit {classes} classes."
            )

    @property
    def wrong(self) -> float:
        """Estimated share of wrong labels: what lies outside the diagonal; in 0..1."""
        return 1 - float(self.joint.trace())

    @property
    def wrong_count(self) -> int:
        """Estimated number of wrong labels."""
        return round(self.wrong * self.examples)

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
