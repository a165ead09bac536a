"""Examples with stable ids, stored as tensors, as every dataset reader of this package makes them."""

import dataclasses
import functools
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.ids import Ids, dataset_fingerprint
from ..core.lineage import Long, fingerprint
from .disk_images import pieces_of, rows_of


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Examples of one part (train or test) of a dataset.

    Attributes:
        ids: Stable id of each example: a given column, a file path or the index in the full set.
        inputs: uint8 images (examples, channels, height, width), in memory or `DiskImages`, or float32 rows (examples, dims);
            without any number (examples, 0) where texts or cells are for people to read only.
        labels: Given class of each example, in [0, classes).
        class_names: One name per class, in the order of the class numbers.
        mean: What to subtract from float inputs: per channel for images (of values in 0..1), else None.
        std: What to divide by after that; None with `mean`.
        rows: For tables and texts, the original cells as text, one tuple per example, for people to read; else None.
        columns: Names of the cells in `rows`.
    """

    ids: Ids
    inputs: Tensor
    labels: Int[Tensor, " examples"]
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    rows: tuple[tuple[str, ...], ...] | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self):
        n = len(self.ids)
        if len(self.inputs) != n or self.labels.shape != (n,):
            raise UsageError(f"{n} ids, {len(self.inputs)} inputs and {tuple(self.labels.shape)} labels do not go together.")
        bad = (self.labels < 0) | (self.labels >= len(self.class_names))
        if bool(bad.any()):
            names = self.ids.take(bad)
            raise UsageError(
                f"{len(names)} labels are outside 0..{len(self.class_names) - 1}; ids {listed(names, len(names))}. "
                "Give every example one of the classes."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def pictures(self) -> bool:
        """Whether the inputs are images."""
        return self.inputs.ndim == 4

    @property
    def has_numbers(self) -> bool:
        """Whether an input has numbers; texts, and cells of which some are none, have rows only."""
        return self.inputs.ndim < 2 or bool(self.inputs.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    def take(self, positions: Tensor) -> "Examples":
        """The examples at these positions (or where this mask is true)."""
        if positions.dtype == torch.bool:
            positions = positions.nonzero().flatten()
        rows = tuple(self.rows[i] for i in positions.tolist()) if self.rows is not None else None
        return dataclasses.replace(
            self, ids=self.ids.take(positions), inputs=rows_of(self.inputs, positions), labels=self.labels[positions], rows=rows
        )

    def with_labels(self, labels: Int[Tensor, " examples"]) -> "Examples":
        """The same inputs under other given labels."""
        return dataclasses.replace(self, labels=labels)

    def prepared(self, inputs: Tensor) -> Tensor:
        """A batch of `inputs` as the float32 tensor that a net takes: images are scaled to 0..1; then comes (x - mean) / std."""
        self._check_numbers()
        batch = inputs.to(torch.float32)
        if inputs.dtype == torch.uint8:
            batch = batch / 255
        if self.mean is not None and self.std is not None:
            shape = (1, -1) + (1,) * (batch.ndim - 2)
            mean, std = (torch.tensor(v, dtype=torch.float32, device=batch.device).view(shape) for v in (self.mean, self.std))
            batch = (batch - mean) / std
        return batch

    def plain(self) -> Tensor:
        """All inputs as float32, images in 0..1, nothing subtracted."""
        self._check_numbers()
        return self.inputs.to(torch.float32) / 255 if self.inputs.dtype == torch.uint8 else self.inputs.to(torch.float32)

    def _check_numbers(self) -> None:
        if not self.has_numbers:
            raise UsageError(
                f"These {len(self)} examples are texts or cells for people to read, without numbers to compute with; give "
                "assay.examples_from_arrays the numbers that the model takes."
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over ids and given labels, independent of their order; `Scores` and `Run` are matched by it."""
        return dataset_fingerprint(self.ids, self.labels)

    @functools.cached_property
    def content(self) -> str:
        """Hash over ids, inputs (their type and shape too) and labels in order: changes when a pixel does. Without numbers, over the cells too."""
        read = () if self.has_numbers else (repr((self.columns, self.rows)),)
        return fingerprint(
            self.ids.fingerprint,
            f"{self.inputs.dtype} {self.shape}",
            Long(*pieces_of(self.inputs)),
            self.labels.to(torch.int64).numpy().tobytes(),
            *read,
        )


def joined(one: Examples, other: Examples) -> tuple[Examples, Tensor]:
    """The examples of two parts of one dataset, sorted by id; and the position of each in the two parts one after the other."""
    ids = Ids(np.concatenate([one.ids.values, other.ids.values]))
    order = torch.argsort(ids.ranks)
    rows = None if one.rows is None or other.rows is None else [*one.rows, *other.rows]
    return (
        dataclasses.replace(
            one,
            ids=ids.take(order),
            inputs=rows_of(torch.cat([one.inputs, other.inputs]), order),
            labels=torch.cat([one.labels, other.labels])[order],
            rows=None if rows is None else tuple(rows[place] for place in order.tolist()),
        ),
        order,
    )


class RowReader(Protocol):
    """Reads a row of a user's own as the training part was read."""

    def read(self, path: str) -> tuple[Tensor, int | None, tuple[str, ...]]:
        """The encoded row, (1, dims); its class where the file says it; and its cells as text.

        Raises:
            UsageError: The file holds no such row.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Training and test part of a dataset, as a reader returns them.

    Attributes:
        train: Examples to train on and to value.
        test: Examples to measure accuracy on; never valued.
        true_labels: True class of each training example, if the dataset holds it besides the given one. No method may read it.
        notes: What the reader had to decide on the way, a sentence each, for people to read.
        own: For tables, what reads a row of the user's own; else None.
        drawn: Whether the test part was drawn from the same rows as the training part, and did not come as a part of its own.
        test_true_labels: True class of each test example, where the test part was drawn and `true_labels` are known.
    """

    train: Examples
    test: Examples
    true_labels: Int[Tensor, " examples"] | None = None
    notes: tuple[str, ...] = ()
    own: RowReader | None = None
    drawn: bool = False
    test_true_labels: Int[Tensor, " examples"] | None = None

    def __post_init__(self):
        train, test = self.train, self.test
        if not len(train) or not len(test):
            raise UsageError(f"{len(train)} training and {len(test)} test examples: each part needs at least one.")
        if train.class_names != test.class_names:
            raise UsageError(
                f"The training part has {train.classes} classes ({listed(train.class_names, train.classes)}), the test part "
                f"{test.classes} ({listed(test.class_names, test.classes)}). Give both the same class names in the same order."
            )
        if train.shape != test.shape or train.inputs.dtype != test.inputs.dtype:
            raise UsageError(
                f"A training input is {train.inputs.dtype} of shape {train.shape}, a test input {test.inputs.dtype} of shape "
                f"{test.shape}. Bring both parts to one type and shape."
            )
        if bool((train.labels == train.labels[0]).all()):
            raise UsageError(
                f"All {len(train)} training examples have the label {train.class_names[int(train.labels[0])]!r}. "
                "Nothing can be learnt from one class; give at least two."
            )
        if self.true_labels is not None:
            if self.true_labels.shape != train.labels.shape:
                raise UsageError(
                    f"{tuple(self.true_labels.shape)} true labels for {len(train)} training examples; give one for each."
                )
            bad = (self.true_labels < 0) | (self.true_labels >= train.classes)
            if bool(bad.any()):
                names = train.ids.take(bad)
                raise UsageError(
                    f"{len(names)} true labels are outside 0..{train.classes - 1}; ids {listed(names, len(names))}. "
                    "Give every training example one of the classes."
                )
