"""What is kept of a training: one value for `assay.record`, for `Recorder` and for plans."""

import dataclasses
import numbers
from collections.abc import Iterable, Sequence
from typing import Literal

from ..core.arguments import checked_fields
from ..core.errors import UsageError
from ..core.method import AbstractMethod

Pass = Literal["train", "eval"]
Checkpoints = Literal["every", "last", "none"] | Sequence[int]


@dataclasses.dataclass(frozen=True)
@checked_fields
class Recording:
    """What is kept of a training.

    Attributes:
        view: `"train"` records the logits of the training pass, at no cost, augmented, in train mode. `"eval"` runs a clean pass
            over all examples after each epoch.
        keep_logits: Store every epoch's logits, for methods such as TDDS that are to be scored later.
        mean_probs: Store the sum of the probabilities over epochs, for relabelling: 8 bytes per example and class. By default where
            examples times classes are at most 4,194,304; a resumed run keeps its setting.
        checkpoints: After which epochs model and optimizer are saved, as the next epoch finds them: `"every"`, `"last"`, `"none"`, or
            a list of epochs (the newest is kept too, to resume from).
        live: Methods to compute during training: those that read epochs one by one, whose scores need no stored logits, and those that
            read steps, such as `liveval`. One that cannot go on stops with a warning; training and recording never end with it.

    Raises:
        UsageError: A setting is of a wrong kind or outside its range.
    """

    view: Pass = "train"
    keep_logits: bool = False
    mean_probs: bool | None = None
    checkpoints: Checkpoints = "last"
    live: Sequence[str | AbstractMethod] = ()

    def __post_init__(self):
        if self.view not in ("train", "eval"):
            raise UsageError(
                f"Recording: view={self.view!r} is neither 'train' (the training pass) nor 'eval' (a clean pass per epoch)."
            )
        kept = self.checkpoints
        if not (kept in ("every", "last", "none") if isinstance(kept, str) else _are_epochs(kept)):
            raise UsageError(
                f"Recording: checkpoints={kept!r} is not 'every', 'last', 'none' or a list of epochs counted from 0."
            )
        if not isinstance(kept, str):
            object.__setattr__(self, "checkpoints", tuple(map(int, kept)))
        if isinstance(self.live, str):
            raise UsageError(f"Recording: live={self.live!r} is a text; give a list of methods, [{self.live!r}].")
        object.__setattr__(self, "live", tuple(self.live))


def _are_epochs(value: object) -> bool:
    return isinstance(value, Iterable) and all(
        isinstance(one, numbers.Integral) and not isinstance(one, bool) and int(one) >= 0 for one in value
    )
