"""What is to be known of a loop's data beside its loader."""

import dataclasses
from collections.abc import Sequence

from torch.utils.data import Dataset

from ..core.arguments import checked_fields
from ..core.ids import Ids
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
        forward: `forward(model, batch) -> (logits, labels)`, where a batch is not `(inputs, labels)` or the model returns no tensor: for the clean pass of
            `view="eval"`, and in place of `losses`, whose cross-entropies are then of these logits.
        clean: For `view="eval"`: a dataset of the same examples in the same order without augmentation; the loader's own by default.

    Raises:
        UsageError: A value is of a wrong kind.
    """

    ids: Ids | Sequence[int] | Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    losses: Losses = cross_entropies
    forward: Forward | None = None
    clean: Dataset | None = None
