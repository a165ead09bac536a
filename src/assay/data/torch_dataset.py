"""Examples from any map-style torch dataset of (input, label) pairs."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..core.errors import UsageError
from ..core.ids import Ids
from .arrays import examples_from_arrays
from .examples import Examples


def examples_from_dataset(
    dataset: Dataset[Any],
    ids: Ids | Iterable[int] | Iterable[str] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Examples:
    """Read every item once, in order, and keep it in memory.

    A random transform of the dataset would be frozen at what it draws now: leave it out, and augment while training.

    Args:
        dataset: Has `len()` and yields (input, label). An input is a tensor or array (channels, height, width) or (dims,), or a
            PIL image; all of one shape and type. A label is a class number or a text.
        ids: One per item; None for indices. Items of a `Subset` keep their indices in the dataset that it was taken from.
        class_names: Names in the order of the class numbers; None for the attribute `classes` that torchvision's datasets
            have, else for the labels that occur.
        mean: As in `examples_from_arrays`.
        std: As in `examples_from_arrays`.

    Raises:
        UsageError: No map-style dataset, an item that cannot be read or differs from the first in shape or type, or labels
            that cannot be used; names the index.
    """
    if not hasattr(dataset, "__len__") or not hasattr(type(dataset), "__getitem__"):
        raise UsageError(
            f"{type(dataset).__name__} is no map-style dataset: it lacks len() or indexing, so its examples have no stable ids."
        )
    n = len(dataset)
    if not n:
        raise UsageError(f"{type(dataset).__name__} is empty.")
    first, label = _item(dataset, 0)
    inputs = np.empty((n, *first.shape), first.dtype)
    inputs[0], labels = first, [label]
    for index in range(1, n):
        value, label = _item(dataset, index)
        if value.shape != first.shape or value.dtype != first.dtype:
            raise UsageError(
                f"Item {index} is {value.dtype} of shape {value.shape}, item 0 {first.dtype} of shape {first.shape}. "
                "Bring all inputs to one type and shape."
            )
        inputs[index] = value
        labels.append(label)
    names = class_names if class_names is not None else _classes(dataset)
    return examples_from_arrays(
        inputs,
        labels,
        ids if ids is not None else _indices(dataset),
        class_names=names,
        mean=mean,
        std=std,
        source=type(dataset).__name__,
    )


def _item(dataset: Dataset[Any], index: int) -> tuple[np.ndarray, object]:
    try:
        item = dataset[index]
    except Exception as error:  # the user's code may raise anything
        raise UsageError(f"Item {index} of {type(dataset).__name__} cannot be read ({type(error).__name__}: {error}).") from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise UsageError(f"Item {index} of {type(dataset).__name__} is a {type(item).__name__}; give pairs of (input, label).")
    value, label = item
    if isinstance(label, (Tensor, np.ndarray, np.generic)):
        label = label.item() if label.ndim == 0 else label
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    elif not isinstance(value, np.ndarray):
        value = _picture(value, index)
    if value.ndim == 0:
        raise UsageError(f"Input of item {index} is a single number; give a row (dims,) or an image (channels, height, width).")
    return value, label


def _picture(value: object, index: int) -> np.ndarray:
    from PIL import Image

    if not isinstance(value, Image.Image) or value.mode not in ("L", "RGB"):
        what = f"{value.mode!r} image" if isinstance(value, Image.Image) else type(value).__name__
        raise UsageError(f"Input of item {index} is a {what}; give a tensor, an array, or a PIL image of mode L or RGB.")
    array = np.asarray(value)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]


def _indices(dataset: Dataset[Any]) -> list[int]:
    if isinstance(dataset, Subset):
        below = _indices(dataset.dataset)
        return [below[int(index)] for index in dataset.indices]
    return list(range(len(dataset)))  # type: ignore[arg-type]


def _classes(dataset: Dataset[Any]) -> tuple[str, ...] | None:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    return tuple(str(name) for name in names) if isinstance(names, (list, tuple)) else None
