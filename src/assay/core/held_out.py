"""Examples that were held out of a training, by which learners are valued."""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from .errors import UsageError, listed
from .features import DATA
from .ids import Ids
from .models import Queries


def rows_name(name: str, target: str) -> str:
    """The name of the user's rows of the examples of a target, beside those of the training examples under `name`."""
    return f"{name}@{target}"


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutRows:
    """Rows of held-out examples as a learner takes them.

    Attributes:
        rows: A row of numbers for each.
        labels: Class of each.
        weights: How much each counts; they add up to 1.
    """

    rows: Float[Tensor, "queries dims"]
    labels: Int[Tensor, " queries"]
    weights: Float64[Tensor, " queries"]

    @classmethod
    def alike(cls, rows: Float[Tensor, "queries dims"], labels: Int[Tensor, " queries"]) -> "HeldOutRows":
        """Examples that all count the same."""
        return cls(rows, labels, torch.full((len(labels),), 1 / max(1, len(labels)), dtype=torch.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Examples that were not trained on, those of a target.

    Attributes:
        ids: Ids of the examples.
        labels: Class of each, in [0, classes).
        weights: How much each counts, above 0; they add up to 1.
        inputs: Their inputs under the name `DATA`, and the user's rows of them by name, in the form of the training examples'; as far as anybody reads them.
    """

    ids: Ids
    labels: Int[Tensor, " queries"]
    weights: Float64[Tensor, " queries"]
    inputs: Mapping[str, Tensor]

    @property
    def queries(self) -> Queries:
        """The examples as rows that are predicted for."""
        return Queries(self.ids, self.labels, self.weights)

    @classmethod
    def of(cls, name: str, inputs: Tensor, labels: Tensor, classes: int) -> "HeldOut":
        """Held-out examples that all count the same, numbered from 0.

        Args:
            name: Name of the target, for messages.
            inputs: An input of each.
            labels: Class of each.
            classes: How many classes there are.

        Returns:
            The examples, whose inputs are those that were given.

        Raises:
            UsageError: Inputs and labels do not fit, there are none, an input is not finite, or a label is none of the classes.
        """
        ids = Ids(range(len(labels)))
        if not len(labels) == len(inputs) or not len(labels) or inputs.ndim < 2 or labels.ndim != 1:
            raise UsageError(
                f"Held-out examples {name!r}: inputs of shape {tuple(inputs.shape)} and labels of shape {tuple(labels.shape)} do not go together; give "
                "a row and a class for each of at least one."
            )
        found = cls(ids, labels.to(torch.int64), torch.full((len(ids),), 1 / len(ids), dtype=torch.float64), {DATA: inputs})
        found.check(name, classes)
        return found

    def check(self, name: str, classes: int) -> None:
        """Refuse what no learner can be valued by.

        Raises:
            UsageError: There is not a row for each, an input is not finite, or a label is none of the classes.
        """
        outside = (self.labels < 0) | (self.labels >= classes)
        if bool(outside.any()):
            strange = self.labels[outside].unique().tolist()
            raise UsageError(
                f"Held-out examples {name!r}: labels {listed(strange, len(strange))} are outside 0..{classes - 1}, the classes of the training examples; "
                "give classes that are trained on."
            )
        for given, rows in self.inputs.items():
            if len(rows) != len(self.ids):
                raise UsageError(
                    f"{len(rows)} rows {given!r} do not fit the {len(self.ids)} held-out examples {name!r}; give a row for each."
                )
            bad = ~rows.isfinite().flatten(1).all(1)
            if bool(bad.any()):
                names = self.ids.take(bad)
                raise UsageError(
                    f"Held-out examples {name!r}: inputs of {len(names)} are NaN or infinite; ids {listed(names, len(names))}. Leave them out."
                )
