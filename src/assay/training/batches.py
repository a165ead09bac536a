"""Which examples each step sees: the order of an epoch and its cut into batches. Depends on ids and seed, never on position."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.errors import UsageError, listed
from ..core.ids import Ids
from ..maths import draws
from .recipe import Recipe

Prepare = Callable[[Tensor], Tensor]
"""Turns a batch of stored inputs (uint8 images, say) into what the net takes."""

Augment = Callable[..., Tensor]
"""`augment(batch_inputs, keys, epoch=, step=)`: changes a batch before it is prepared; `keys` are the batch's `Ids.keys`."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingData:
    """The examples of a training, and how a batch of them becomes the input of the net.

    Attributes:
        inputs: One row per example; integer inputs (uint8 images) need `prepare`.
        labels: Given class of each example, integers (examples,).
        ids: Ids of the examples.
        prepare: Turns a batch of inputs into what the net takes, on the training device.
        augment: Changes a batch before it is prepared: `augment(batch, keys, epoch=, step=)`, step counted within the epoch.

    Raises:
        UsageError: Inputs, labels and ids do not fit together.
    """

    inputs: Tensor
    labels: Tensor
    ids: Ids
    prepare: Prepare | None = None
    augment: Augment | None = None

    def __post_init__(self):
        if not len(self.inputs) == len(self.labels) == len(self.ids):
            raise UsageError(f"{len(self.inputs)} inputs, {len(self.labels)} labels and {len(self.ids)} ids do not go together.")
        if self.labels.is_floating_point() or self.labels.dtype == torch.bool:
            raise UsageError(f"Labels are {self.labels.dtype}; give class numbers as integers.")
        if self.prepare is None and not self.inputs.is_floating_point():
            raise UsageError(f"Inputs are {self.inputs.dtype}; give `prepare`, which makes the floats that the net takes.")

    def ready(self, batch: Tensor) -> Tensor:
        """A batch as the net takes it."""
        return batch if self.prepare is None else self.prepare(batch)


def order(keys: np.ndarray, seed: int, epoch: int) -> Int[Tensor, " examples"]:
    """Positions in the order in which an epoch visits them."""
    return draws.permutation(keys, seed, "order", epoch)


def sizes(examples: int, batch: int, last_batch: str) -> tuple[int, ...]:
    """How many examples each step of an epoch sees.

    keep: the last batch holds what is left. drop: what is left is not visited this epoch. even: as many batches as with
    `keep`, whose sizes differ by at most one, larger ones first.

    Raises:
        UsageError: There would be no step at all.
    """
    if examples == 0:
        raise UsageError("There are no examples to train on.")
    full, left = divmod(examples, batch)
    if last_batch == "drop":
        if not full:
            raise UsageError(
                f"{examples} examples do not fill one batch of {batch}, and last_batch='drop' drops the rest; "
                "use a smaller batch, or last_batch='keep'."
            )
        return (batch,) * full
    count = full + (left > 0)
    if last_batch == "even":
        low, larger = divmod(examples, count)
        return (low + 1,) * larger + (low,) * (count - larger)
    return (batch,) * full + ((left,) if left else ())


def batches(keys: np.ndarray, recipe: Recipe, epoch: int) -> tuple[Int[Tensor, " batch"], ...]:
    """The positions that each step of an epoch sees."""
    cut = sizes(len(keys), recipe.batch, recipe.last_batch)
    return order(keys, recipe.seed, epoch)[: sum(cut)].split(list(cut))


def inputs_at(inputs: Tensor, cut: Iterable[Tensor]) -> Iterator[Tensor]:
    """The inputs at each of some rows of positions, whose lengths may differ, one after another.

    Inputs that stay on disk (`start`) are decoded a batch ahead, while the batch before is computed on.
    """
    start = getattr(inputs, "start", None)
    if start is None:
        for positions in cut:
            yield inputs[positions]
        return
    waiting = None
    for positions in cut:
        following = start(positions)
        if waiting is not None:
            yield waiting()
        waiting = following
    if waiting is not None:
        yield waiting()


def mapped(function: Callable[[Any], Any], batch: Any) -> Any:
    """A batch with a function applied to every value in it: in tuples, lists, mappings, dataclasses and objects that hold tensors, nested as they may be.

    What holds the values is copied, not changed.
    """

    def inside(leaf: Any) -> Any:
        if (parts := _fields(leaf)) is None:
            return function(leaf)
        made = copy.copy(leaf)
        for key, value in parts.items():
            if isinstance(leaf, MutableMapping):
                made[key] = mapped(function, value)
            else:
                # Dataclasses may be frozen.
                object.__setattr__(made, key, mapped(function, value))
        return made

    return pytree.tree_map(inside, batch)


def leaves(batch: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value in a batch, as `mapped` reaches it, with the keys under which it stands, as `pytree.keystr` words them."""
    for path, leaf in pytree.tree_flatten_with_path(batch)[0]:
        parts = _fields(leaf)
        if parts is None:
            yield path, leaf
            continue
        kind = pytree.MappingKey if isinstance(leaf, MutableMapping) else pytree.GetAttrKey
        for key, value in parts.items():
            for more, found in leaves(value):
                yield (*path, kind(key), *more), found


def tensors(batch: Any) -> Iterator[Tensor]:
    """The tensors in a batch, in their order."""
    return (part for _, part in leaves(batch) if isinstance(part, Tensor))


def placed(batch: Any, device: torch.device) -> Any:
    """A batch on a device."""
    return mapped(lambda part: part.to(device) if isinstance(part, Tensor) else part, batch)


def _fields(value: Any) -> dict[Any, Any] | None:
    """What a container that torch's pytree does not open holds: a mapping of any class, a dataclass, or an object with tensors in its attributes."""
    if isinstance(value, (Tensor, nn.Module, type)) or callable(value):
        return None
    if isinstance(value, MutableMapping):
        # A copy of it must not share what it holds: UserDict's own copying sees to that.
        return dict(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    held = getattr(value, "__dict__", None)
    if not held or not any(isinstance(part, Tensor) for part in held.values()):
        return None
    return dict(held)


class MicroBatches(NamedTuple):
    """The batches whose gradients are added up in one optimizer step.

    Attributes:
        parts: The batches, in the order in which they were trained on.
        share: What the loop divides the loss of each by, so that their sum is that of the step.
        divisors: What the sum of the losses of each is divided by in all: `share` times what the loop's reduction divides by.
    """

    parts: tuple[Any, ...]
    share: float
    divisors: tuple[float, ...]


def parts_of(batch: Any) -> tuple[Any, ...]:
    """The batches of a step: several where gradients were added up, else the batch alone."""
    return batch.parts if isinstance(batch, MicroBatches) else (batch,)


def size_of(batch: Any) -> int:
    """How many examples stand in a batch: the length of its first tensor.

    Raises:
        UsageError: The batch holds no tensor.
    """
    if isinstance(batch, MicroBatches):
        return sum(map(size_of, batch.parts))
    sizes = (len(part) for part in tensors(batch) if part.ndim)
    if (size := next(sizes, None)) is None:
        parts = [f"{pytree.keystr(path)} ({type(part).__name__})" for path, part in leaves(batch) if path]
        what = f"A batch ({type(batch).__name__}) holds no tensor in tuples, lists, mappings, dataclasses or attributes"
        if parts:
            raise UsageError(
                f"{what}, only {listed(parts, len(parts))}; let collate_fn put the tensors that these hold into its batch themselves."
            )
        raise UsageError(f"{what}; let collate_fn return one of them, such as dict(batch).")
    return size


def rows(batch: Any, index: Tensor | slice) -> Any:
    """The examples of a batch at the positions `index`; of several batches of one step (`MicroBatches`), by a mask over all of their examples."""
    if isinstance(batch, MicroBatches):
        assert isinstance(index, Tensor) and index.dtype == torch.bool
        cut = index.split([size_of(part) for part in batch.parts])
        return batch._replace(parts=tuple(rows(part, own) for part, own in zip(batch.parts, cut, strict=True)))
    size = size_of(batch)
    return mapped(lambda part: part[index] if isinstance(part, Tensor) and part.ndim and len(part) == size else part, batch)


def without_rows(batch: Any) -> dict[str, str]:
    """The parts of a batch that `rows` passes on unchanged, because they are not tensors with a row for each example: their types by path."""
    if isinstance(batch, MicroBatches):
        return {path: kind for part in batch.parts for path, kind in without_rows(part).items()}
    size = size_of(batch)
    found: dict[str, str] = {}
    for path, part in leaves(batch):
        if part is None or (isinstance(part, Tensor) and part.ndim and len(part) == size):
            continue
        shape = f"Tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
        # Of lists that hold only numbers or texts the whole is meant.
        while len(path) > 1 and isinstance(path[-1], pytree.SequenceKey) and isinstance(part, (int, float, str, bytes)):
            path, shape = path[:-1], f"list of {type(part).__name__}"
        found.setdefault(pytree.keystr(path), shape)
    return found
