"""The labels of a recording's examples, one class each or several that are 0 or 1; within a run they stay the same."""

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.ids import Ids


class KnownLabels:
    """What is known of the labels, and what the open epoch gives.

    Attributes:
        classes: The class of each example in the epochs before, or as it is known beforehand; -1 where it is not known.
        given: The class of each in the open epoch; -1 where it did not come.
        rows: (examples, labels), 0 or 1, where each has several; -1 where they are not known. None where each has one class.
    """

    def __init__(self, ids: Ids):
        self._ids = ids
        self.classes = torch.full((len(ids),), -1, dtype=torch.int64)
        self.rows: Tensor | None = None
        self._rows_beforehand: Tensor | None = None
        self._cure = ""
        self.clear(first=True)

    def expect(self, labels: Int[Tensor, "examples *labels"]) -> None:
        """Know the labels before the first epoch.

        Raises:
            UsageError: There is not one, or a row of them, for each example.
        """
        if labels.ndim not in (1, 2) or len(labels) != len(self._ids):
            raise UsageError(
                f"labels= has shape {tuple(labels.shape)}, where {len(self._ids)} examples have one each, or a row each."
            )
        if labels.ndim == 2:
            self._rows_beforehand = labels.to("cpu", torch.int64).clone()
        else:
            self.classes = labels.to("cpu", torch.int64).clone()
        self._cure = (
            "; labels known beforehand must be those that the loop gives, as data=assay.DataSpec(labels=...) to assay.record"
        )

    def clear(self, first: bool) -> None:
        """Forget the open epoch; `first` is whether it is the first one."""
        self.given = torch.full((len(self._ids),), -1, dtype=torch.int64)
        if first:
            self.rows = None if self._rows_beforehand is None else self._rows_beforehand.clone()

    def of_epoch(self) -> Int[Tensor, " examples"]:
        """The class of each example after the open epoch."""
        return torch.where(self.given < 0, self.classes, self.given)

    def unknown(self) -> Tensor:
        """Whether the label of an example was known before the open epoch."""
        return (self.classes if self.rows is None else self.rows[:, 0]) < 0

    def check_range(self, positions: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], classes: int, where: str) -> None:
        """Refuse labels that are none of the classes.

        Raises:
            UsageError: One is.
        """
        bad = (labels < 0) | (labels >= classes)
        if bool(bad.any()):
            names, values = self._ids.take(positions[bad]), labels[bad].unique().tolist()
            raise UsageError(
                f"{where}: {len(names)} labels are outside 0..{classes - 1} ({listed(values, len(values))}); "
                f"ids {listed(names, len(names))}. Give every example one of the classes."
            )

    def check_same(self, positions: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], known: Tensor, where: str) -> None:
        """Refuse labels that are not the known ones.

        Raises:
            UsageError: An example has two labels.
        """
        changed = (known >= 0) & (known != labels)
        if bool(changed.any()):
            at = int(changed.nonzero()[0])
            raise UsageError(
                f"{where}: the label of id {self._ids.values[int(positions[at])]} was {int(known[at])} "
                f"and is now {int(labels[at])}. Within a run an example has one label: record without mixing labels, without a collate_fn that "
                f"reorders its rows, and without a dataset that gives another item in the place of a broken one{self._cure}."
            )

    def learn_rows(self, positions: Int[Tensor, " rows"], labels: Int[Tensor, "rows labels"], where: str) -> None:
        """Take in the labels of examples that have several.

        Raises:
            UsageError: They are not those of before.
        """
        if self.rows is None:
            self.rows = torch.full((len(self._ids), labels.shape[1]), -1)
        known = self.rows[positions]
        self.rows[positions] = labels
        # An example that comes twice may differ from itself.
        changed = ((known >= 0) & (known != labels) | (self.rows[positions] != labels)).any(1)
        if bool(changed.any()):
            names = self._ids.take(positions[changed].unique())
            raise UsageError(
                f"{where}: the labels of {len(names)} examples are not those of before; ids {listed(names, len(names))}. Within a run an "
                "example has the same labels: record without mixing labels and without a collate_fn that reorders its rows."
            )
