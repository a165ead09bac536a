"""What is to be known of a loop's data beside its loader, and by what it selects: the values that `record` takes."""

import dataclasses
import functools
from collections.abc import Sequence

from torch.utils.data import Dataset

from ..core.arguments import checked_fields
from ..core.errors import UsageError
from ..core.ids import Ids
from ..core.live_selection import AbstractLiveSelector
from ..policies import parse_live
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
            batch `(inputs, labels)` by default.
        forward: For `view="eval"`: `forward(model, batch) -> (logits, labels)`, where a batch is not `(inputs, labels)`.
        clean: For `view="eval"`: a dataset of the same examples in the same order without augmentation; the loader's own by default.

    Raises:
        UsageError: A value is of a wrong kind.
    """

    ids: Ids | Sequence[int] | Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    losses: Losses = cross_entropies
    forward: Forward | None = None
    clean: Dataset | None = None


@dataclasses.dataclass(frozen=True)
@checked_fields
class LiveSelection:
    """A live selector for a loop: it chooses the examples of each epoch before it begins.

    Attributes:
        selector: A live selector, such as `"infobatch:ratio=0.5"`.
        epochs: How many epochs the loop trains in all; a selector may train the last ones on all examples.

    Raises:
        UnknownName: No such selector or option.
        UsageError: A value is of a wrong kind or outside its range.
    """

    selector: str | AbstractLiveSelector
    epochs: int

    def __post_init__(self):
        if self.epochs < 1:
            raise UsageError(
                f"LiveSelection: epochs={self.epochs} is not 1 or more; give how many epochs the loop trains in all."
            )
        self.live  # noqa: B018

    @functools.cached_property
    def live(self) -> AbstractLiveSelector:
        """The selector itself."""
        return parse_live(self.selector)
