"""What is to be known of a loop's data beside its loader."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from ..core.arguments import checked_fields
from ..core.errors import UsageError
from ..core.ids import Ids
from ..replay.division import Accumulate, Division, Reduction
from ..replay.losses import Forward, Losses, cross_entropies


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class DataSpec:
    """Facts about a loader's examples and batches that the loader itself does not tell.

    Attributes:
        ids: Ids by position in the loader's dataset, instead of `ids_of(dataset)`.
        class_names: One name per output of the model.
        losses: `losses(model, batch)`, the loss of each example, for methods computed at each step of training, and for the losses of a few
            examples in eval mode at each epoch's end, by which model and data are checked when the run is scored; cross-entropy of a
            batch `(inputs, labels)` by default, or of what `forward` gives.
        reduction: How the losses of a batch become what your loop calls backward on, for methods computed at each step: their `"mean"`, their `"sum"`, or
            their sum divided by what `reduction(batch)` returns; as `assay.Loop` takes it.
        accumulate: Where your loop adds up the gradients of several batches before a step, what it divides the loss of each by, for methods computed at
            each step: a number, 1 where it does not divide, `"batches"`, `"examples"` or a function; as `assay.Loop` takes it. Without it these
            methods stop at the first such step, with a warning.
        forward: `forward(model, batch) -> (logits, labels)`, where a batch is not `(inputs, labels)` or the model returns no tensor: for the clean pass of
            `view="eval"`, and in place of `losses`, whose cross-entropies are then of these logits.
        clean: For `view="eval"`: a dataset of the same examples in the same order without augmentation; the loader's own by default.
        labels: The class of each example, by position, or (examples, labels) with `task="labels"`; needed with `visits="any"` where the first epoch leaves
            examples out and the dataset is neither a TensorDataset with its labels last nor has them as `targets`. Not with `task="losses"`.
        visits: `"each"`: every epoch trains on each example once, or the recording is refused. `"any"`: an epoch as it was drawn, with a weighted sampler, with
            replacement, a part of the examples, or `drop_last`: visits are counted, the facts of an example are those of its last visit in the
            epoch, and missing where it had none. Methods whose value is a mean over epochs then take it over the epochs that trained on the
            example; others that read epochs are refused. The clean pass of `view="eval"` always looks at every example.
        id_field: Where the batches hold the ids of their examples themselves, as those of an IterableDataset must: the key, the attribute or the place of
            that part of a batch. `ids=` then names all examples.
        task: `"classes"`; `"labels"`, where an example has several labels, each 0 or 1, and logits and labels are (batch, labels); or `"losses"`,
            where the loss of each example is recorded. By default it is classes or losses, as `recorder.batch` or `recorder.losses` is called first;
            to be said for several labels, and for losses with `view="eval"`, where `losses` is what is recorded.
        reduce_labels: For `task="labels"`: how the values of an example's labels become its own, their `"mean"`, or the `"worst"`, that of the most
            suspect or hardest label.

    Raises:
        UsageError: A value is of a wrong kind.
    """

    ids: Ids | Sequence[int] | Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    losses: Losses = cross_entropies
    reduction: Reduction = "mean"
    accumulate: Accumulate = None
    forward: Forward | None = None
    clean: Dataset | None = None
    labels: Tensor | Sequence[Any] | np.ndarray | None = None
    visits: Literal["each", "any"] = "each"
    id_field: str | int | None = None
    task: Literal["classes", "labels", "losses"] | None = None
    reduce_labels: Literal["mean", "worst"] = "mean"

    def __post_init__(self):
        self.division  # noqa: B018  (made, so that it is refused here if it cannot be)
        if self.visits not in ("each", "any"):
            raise UsageError(
                f"DataSpec: visits={self.visits!r} is neither 'each' (every epoch trains on each example once) nor 'any' (an epoch as it is drawn)."
            )
        if self.task not in (None, "classes", "labels", "losses"):
            raise UsageError(
                f"DataSpec: task={self.task!r} is neither 'classes' nor 'labels' nor 'losses'; give one of them, or leave it out."
            )
        if self.reduce_labels not in ("mean", "worst"):
            raise UsageError(f"DataSpec: reduce_labels={self.reduce_labels!r} is neither 'mean' nor 'worst'; give one of them.")
        if self.reduce_labels != "mean" and self.task != "labels":
            raise UsageError(
                f"DataSpec: reduce_labels={self.reduce_labels!r} is for task='labels', where an example has several; leave it out."
            )

    @property
    def division(self) -> Division:
        """What the losses of a step are divided by."""
        return Division(self.reduction, self.accumulate, where="DataSpec")


def labels_of(dataset: Any, several: bool = False) -> Tensor | None:
    """The class of each example of a dataset, where it says so: the last tensor of a TensorDataset, or the attribute `targets`; None elsewhere.

    `several`: a row of labels for each, as in `as_labels`.
    """
    if isinstance(dataset, Subset):
        whole = labels_of(dataset.dataset, several)
        return None if whole is None else whole[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, TensorDataset):
        found: Any = dataset.tensors[-1]
    else:
        found = getattr(dataset, "targets", None)
    return None if found is None else as_labels(found, len(dataset), several)


def as_labels(given: Any, examples: int, several: bool = False) -> Tensor | None:
    """Whole numbers of any type, one for each example, or with `several` a row of 0 and 1 for each; None where these are something else."""
    try:
        labels = torch.as_tensor(given).to("cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    if not several and labels.shape == (examples, 1):
        labels = labels[:, 0]
    if (
        labels.is_complex()
        or labels.ndim != 1 + several
        or len(labels) != examples
        or bool((labels != labels.to(torch.int64)).any())
    ):
        return None
    labels = labels.to(torch.int64)
    return None if several and bool(((labels != 0) & (labels != 1)).any()) else labels


def ids_in(batch: Any, field: str | int) -> list[Any]:
    """The ids that a batch holds of its examples.

    Raises:
        UsageError: It holds none there.
    """
    try:
        if isinstance(batch, Mapping) or (isinstance(batch, (tuple, list)) and isinstance(field, int)):
            found: Any = batch[field]  # type: ignore[index, call-overload]
        else:
            found = getattr(batch, str(field))
    except (KeyError, IndexError, AttributeError) as error:
        raise UsageError(
            f"A batch ({type(batch).__name__}) has no {field!r}, where id_field= says that the ids of its examples are; let collate_fn keep them there."
        ) from error
    values = found.tolist() if isinstance(found, (Tensor, np.ndarray)) else found
    if not isinstance(values, (list, tuple)):
        raise UsageError(
            f"The part {field!r} of a batch is a {type(found).__name__}, no list or tensor of one id for each example."
        )
    try:
        return [value if isinstance(value, str) else operator.index(value) for value in values]
    except TypeError as error:
        strange = next(value for value in values if not isinstance(value, str) and not hasattr(value, "__index__"))
        raise UsageError(
            f"The part {field!r} of a batch holds {strange!r}, of type {type(strange).__name__}; ids are texts or whole numbers, one for each example, so let "
            "collate_fn put these there."
        ) from error
