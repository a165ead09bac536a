"""The keys of a batch, carried inside it past the code of a trainer that fetches batches ahead and hands them on."""

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor

from ..core.errors import UsageError
from ..replay.keyed import KeyedBatch, KeyedCollate

NAME = "assay_keys"
"""Name of the keys in a batch that is a dict."""
LABELS = ("labels", "label", "label_ids")
"""Names of the labels in a batch that is a dict, as trainers have them."""


class Carried:
    """The keys of a batch and what was noted of it. No tensor and no container, so that whatever moves batches to a device leaves it alone.

    Attributes:
        keys: One key per item.
        finding: As in `KeyedBatch`.
        digests: As in `KeyedBatch`.
        names: Names of the batch's parts, for whoever sees only what the model is given.
        labels: The batch's labels; None if it has none by a known name.
    """

    def __init__(self, made: KeyedBatch):
        self.keys, self.finding, self.digests = made.keys, made.finding, made.digests
        self.names, self.labels = tuple(made.batch), labels_in(made.batch)


class DictCollate(KeyedCollate):
    """Puts the keys into the batch itself, if that is a dict; any other batch goes into a `KeyedBatch`."""

    def __call__(self, fetched: KeyedBatch) -> Any:
        made = super().__call__(fetched)
        if not isinstance(made.batch, MutableMapping):
            # Somebody may ask whether a name is in this tuple, which an array does not answer.
            return made._replace(digests=None)
        made.batch[NAME] = Carried(made)
        return made.batch


def labels_in(batch: Any, names: tuple[str, ...] = LABELS) -> Any:
    """The labels of a batch: under one of some names in a dict, else the second of a pair; None if there are none."""
    if isinstance(batch, Mapping):
        return next((batch[name] for name in names if name in batch), None)
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None


def taken(batch: Any) -> KeyedBatch | None:
    """The keys of a batch and the batch without them, which are taken out of it; None if it carries none."""
    if isinstance(batch, KeyedBatch):
        return batch
    if not isinstance(batch, MutableMapping) or NAME not in batch:
        return None
    carried = batch.pop(NAME)
    return KeyedBatch(carried.keys, batch, carried.finding, carried.digests)


def logits_of(outputs: Any) -> Tensor | None:
    """The logits of what a model returned: by their name, or the tensor after the loss; None if there are none."""
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if found is None and isinstance(outputs, (tuple, list)):
        tensors = [part for part in outputs if isinstance(part, Tensor) and part.ndim]
        found = tensors[0] if tensors else None
    return found if isinstance(found, Tensor) else None


def check_one_label(logits: Tensor, labels: Any, where: str) -> None:
    """Refuse what has more than one label for each example.

    Raises:
        UsageError: The logits are those of tokens or pixels, or there are no labels.
    """
    if logits.ndim > 2:
        raise UsageError(
            f"{where}: logits of shape {tuple(logits.shape)} are those of parts of an example, such as tokens, and it is not known which label belongs to "
            "which; give data=assay.DataSpec(task='losses', losses=...), a function (model, batch) that returns the loss of each example, such as "
            "assay.token_losses(logits, labels) does."
        )
    if labels is None:
        raise UsageError(f"{where}: the batch holds no labels under {', '.join(LABELS)}; name the column `labels`.")
