"""Examples from any map-style torch dataset of (input, label) pairs, or of texts and plain cells with a label."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from ..core.arguments import checked_arguments, described
from ..core.errors import UsageError
from ..core.ids import Ids
from .arrays import as_array, examples_from_arrays
from .examples import Examples
from .pictures import ROUNDING
from .readable import is_plain

LABELS = ("label", "labels")
"""Names of the field of an item that is its label."""


@checked_arguments
def examples_from_dataset(
    dataset: Any,
    ids: Ids | Iterable[int] | Iterable[str] | np.ndarray | Tensor | None = None,
    *,
    item: Callable[[Any], tuple[Any, Any]] | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | np.ndarray | Tensor | None = None,
    std: Sequence[float] | np.ndarray | Tensor | None = None,
) -> Examples:
    """Read every item once, in order, and keep it in memory.

    Leave random transforms out of the dataset, because their first result would be kept; augment while training.

    Args:
        dataset: Has `len()` and yields (input, label). An input is a tensor or array (channels, height, width) or (dims,), an array of
            an image (height, width, channels), which is transposed, or a PIL image; all of one shape and type. Or it is a text, or a dict of
            cells by name (texts, numbers, dates), which the page then shows (see `examples_from_arrays`). A label is a class number or a
            text. Items may also be dicts of such cells, of which `label` or `labels` is the label.
        ids: One per item; None for indices. Items of a `Subset` keep their indices in the dataset that it was taken from.
        item: Function from an item of the dataset to (input, label), where the items are something else:
            `item=lambda row: (row["image"], row["label"])`.
        class_names: Names in the order of the class numbers; None for the attribute `classes` that torchvision's datasets
            have, else for the labels that occur.
        mean: Mean of each channel of images in 0..1, as torchvision's `Normalize` takes it. Where the items have been normalised by it (their
            numbers lie outside 0..1, and within it once that is undone), they are stored without the normalisation, and `Examples.prepared`
            normalises them again. For other inputs, as in `examples_from_arrays`.
        std: Standard deviation of each channel; required with `mean`.

    Raises:
        UsageError: No map-style dataset, an item that cannot be read or differs from the first in shape or type, or labels
            that cannot be used; names the index.
    """
    if not _sized(dataset) or not hasattr(type(dataset), "__getitem__"):
        raise UsageError(
            f"{type(dataset).__name__} is no map-style dataset: it lacks len() or indexing, so its examples have no stable ids."
        )
    n = len(dataset)
    if not n:
        raise UsageError(f"{type(dataset).__name__} is empty.")
    first, label = _item(dataset, 0, item)
    inputs: Any = np.empty((n, *first.shape), first.dtype) if isinstance(first, np.ndarray) else [None] * n
    inputs[0], labels = first, [label]
    for index in range(1, n):
        value, label = _item(dataset, index, item)
        if _form(value) != _form(first):
            raise UsageError(f"Item {index} is {_form(value)}, item 0 {_form(first)}. Bring all inputs to one type and shape.")
        inputs[index] = value
        labels.append(label)
    columns = list(first) if isinstance(first, dict) else None
    if columns is not None:
        table = np.empty((n, len(columns)), object)
        for index, cells in enumerate(inputs):
            table[index] = [cells[name] for name in columns]
        inputs = table
    names = class_names if class_names is not None else _classes(dataset)
    made = examples_from_arrays(
        inputs,
        labels,
        ids if ids is not None else _indices(dataset),
        columns=columns,
        class_names=names,
        mean=mean,
        std=std,
        source=type(dataset).__name__,
    )
    plain = _before_normalising(made)
    return made if plain is None else dataclasses.replace(made, inputs=plain)


def _sized(dataset: Any) -> bool:
    try:
        len(dataset)
    except (TypeError, NotImplementedError):
        return False
    return True


def _before_normalising(examples: Examples) -> Tensor | None:
    """The images in 0..1 that were normalised by the examples' mean and std; None where they cannot have been."""
    inputs = examples.inputs
    if examples.mean is None or examples.std is None or inputs.ndim != 4 or inputs.dtype == torch.uint8:
        return None
    if float(inputs.min()) >= -ROUNDING and float(inputs.max()) <= 1 + ROUNDING:
        return None
    mean, std = (torch.tensor(part, dtype=torch.float64).view(1, -1, 1, 1) for part in (examples.mean, examples.std))
    plain = inputs.to(torch.float64) * std + mean
    if float(plain.min()) < -ROUNDING or float(plain.max()) > 1 + ROUNDING:
        return None
    # Images come as bytes: a number beside one of theirs is that number, so that normalising it again gives the very same bits.
    bytes_ = (plain * 255).round()
    return torch.where((plain * 255 - bytes_).abs() < 255 * ROUNDING, bytes_ / 255, plain).to(torch.float32)


def _form(value: np.ndarray | str | dict[str, Any]) -> str:
    """What all items must have in common, in words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return "a text" if isinstance(value, str) else f"a row of {', '.join(sorted(value)) or 'no cells'}"


def _item(
    dataset: Any, index: int, pair: Callable[[Any], tuple[Any, Any]] | None
) -> tuple[np.ndarray | str | dict[str, Any], object]:
    name = type(dataset).__name__
    try:
        item = dataset[index]
    except Exception as error:  # the user's code may raise anything
        raise UsageError(f"Item {index} of {name} cannot be read ({type(error).__name__}: {error}).") from error
    try:
        item = item if pair is None else pair(item)
    except Exception as error:
        raise UsageError(
            f"item= fails on item {index} of {name}, a {type(item).__name__} ({type(error).__name__}: {error}); give a function from what "
            "the dataset yields to (input, label)."
        ) from error
    if pair is None and (found := _labelled(item)) is not None:
        item = found
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        what = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
        raise UsageError(
            f"Item {index} of {name} is {what}; give pairs of (input, label), by item=: "
            + (
                'item=lambda row: (row["image"], row["label"]), or of texts (row["text"], row["label"]).'
                if isinstance(item, Mapping)
                else "item=lambda row: (row[0], row[1])."
            )
        )
    value, label = item
    if isinstance(label, (Tensor, np.ndarray, np.generic)):
        label = label.item() if label.ndim == 0 else label
    if isinstance(value, str):
        return value, label
    if isinstance(value, Mapping):
        return _cells(value, index), label
    if isinstance(value, Tensor):
        value = as_array(value)
    elif not isinstance(value, np.ndarray):
        value = _picture(value, index)
    if value.ndim == 3 and value.shape[2] in (1, 3, 4) and value.shape[0] > 4:
        value = value.transpose(2, 0, 1)
    if value.ndim == 0:
        raise UsageError(f"Input of item {index} is a single number; give a row (dims,) or an image (channels, height, width).")
    return value, label


def _labelled(item: Any) -> tuple[dict[str, Any], Any] | None:
    """Cells and label of an item that is a dict of plain values, one of them its label; None for any other."""
    names = [name for name in LABELS if isinstance(item, Mapping) and name in item]
    if len(names) != 1 or len(item) < 2 or not all(map(is_plain, item.values())):
        return None
    return {name: value for name, value in item.items() if name != names[0]}, item[names[0]]


def _cells(value: Mapping[Any, Any], index: int) -> dict[str, Any]:
    if not value or (strange := [name for name, cell in value.items() if not is_plain(cell)]):
        what = f"holds {described(value[strange[0]])} as {strange[0]!r}" if value else "is empty"
        raise UsageError(
            f"Input of item {index} is a {type(value).__name__} that {what}; give cells that are texts, numbers, truth values or dates, by item=: "
            'item=lambda row: (row["text"], row["label"]).'
        )
    return {str(name): cell for name, cell in value.items()}


def _picture(value: object, index: int) -> np.ndarray:
    from PIL import Image

    if not isinstance(value, Image.Image) or value.mode.startswith(("I", "F")):
        what = f"{value.mode!r} image of more than 8 bits" if isinstance(value, Image.Image) else type(value).__name__
        raise UsageError(
            f"Input of item {index} is a {what}; give a tensor, an array, a PIL image of 8 bits per channel, a text, or a dict of cells by name."
        )
    array = np.asarray(value.convert("L" if value.mode in ("1", "L", "LA") else "RGB"))
    return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]


def _indices(dataset: Any) -> list[int]:
    if isinstance(dataset, Subset):
        below = _indices(dataset.dataset)
        return [below[int(index)] for index in dataset.indices]
    return list(range(len(dataset)))


def _classes(dataset: Any) -> tuple[str, ...] | None:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    return tuple(str(name) for name in names) if isinstance(names, (list, tuple)) else None
