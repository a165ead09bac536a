"""Whether the rows of a batch, and the labels given for them, are in the order of the items that they were made of."""

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from ..core.errors import UsageError
from ..core.ids import Ids
from ..replay.keyed import KeyedBatch, KeyedCollate
from ..replay.rows import ENOUGH, Finding, moved_in


class RowWatch:
    """Checks that the rows of the first batches are in the order of their items, where the values show it.

    Attributes:
        looking: Whether batches are still checked: until one epoch is complete.
    """

    def __init__(self, ids: Ids):
        self._ids = ids
        self._now: tuple[Finding, Tensor] | None = None
        self._suspected = self._labels_moved = 0
        self._trusted = False
        self.looking = True

    def hold(self, fetched: KeyedBatch, positions: Tensor, where: str) -> None:
        """Check a batch as the loader gave it.

        Args:
            fetched: The batch, with what was noted when it was collated.
            positions: Positions of its items.
            where: Epoch and batch, as the error message names them.

        Raises:
            UsageError: Its rows are in another order than its items.
        """
        finding = fetched.finding
        self._now = None if finding is None else (finding, positions)
        if finding is None or finding["follows"] is None:
            return
        if finding["follows"]:
            self._suspected = 0
            return
        self._suspected += len(positions)
        if finding["certain"] or self._suspected >= ENOUGH:
            row, other = finding["row"], self._ids.values[int(positions[finding["item"]])]
            raise UsageError(
                f"{where}: collate_fn gives other rows than the items in their order: row {row}, of id "
                f"{self._ids.values[int(positions[row])]}, is the item of id {other}. Keep every item and the order in collate_fn; sort in a "
                "batch_sampler instead."
            )

    def hold_labels(self, labels: Any, where: str) -> None:
        """Check the labels that the loop passes for the batch of the last `hold`; `where` is as there.

        Raises:
            UsageError: In several successive batches they are the items' labels in another order.
        """
        if self._now is None or self._trusted or not isinstance(labels, Tensor) or labels.is_floating_point():
            return
        (finding, positions), self._now = self._now, None
        moved = moved_in(finding["numbers"], labels.detach().flatten().tolist())
        self._trusted = moved is False
        self._labels_moved += len(positions) if moved else 0
        if self._labels_moved >= ENOUGH:
            raise UsageError(
                f"{where}: the labels given to recorder.batch are those of the batch's items in another order, so ids cannot follow them; give "
                "logits and labels in the order of the batch, and do not mix or sort its rows."
            )

    def rest(self, loader: DataLoader) -> None:
        """Stop checking, because one epoch is complete."""
        self._now, self.looking = None, False
        if isinstance(loader.collate_fn, KeyedCollate):
            loader.collate_fn.looking = 0
