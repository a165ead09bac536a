"""Whether the rows of a batch are in the order in which its items were fetched, found from the values alone, without calling user code."""

from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LOOKED = 64
"""Rows that are compared with their own items."""
SEARCHED = 16
"""Rows that are looked for among all items, where they are not their own item's."""
ENOUGH = 16
"""Rows whose numbers alone say that they were reordered, before that is believed: a few may be so by chance."""

Path = tuple[Any, ...]
Finding = dict[str, Any]
"""`follows` (True, False, or None where this cannot be decided), `row` and `item` of the first row that is another item's, `certain`, and `numbers`: the
whole numbers of each item, by their path in the item."""


def compared(fields: Sequence[Mapping[Path, Tensor]], batch: Any) -> Finding:
    """Compare the rows of a batch with the items that it was made of.

    Args:
        fields: Fields of each item, as `fields_of` gives them before the batch is made.
        batch: The batch that the loop's collate made of the items.
    """
    shared = [path for path in fields[0] if all(path in own for own in fields)] if fields else []
    finding: Finding = {"follows": None, "numbers": _numbers(fields, shared)}
    columns = [[own[path] for own in fields] for path in shared]
    columns = [column for column in columns if any(not _same(column[0], other) for other in column[1:])]
    leaves = [leaf for _, leaf in tensors_in(batch) if leaf.ndim and len(leaf) == len(fields)]
    # Numbers first, because they are the cheapest.
    pairs = [(column, leaf) for column in sorted(columns, key=lambda one: one[0].numel()) for leaf in leaves]
    for column, leaf in pairs:
        if all(_fits(row, part) for row, part in zip(leaf[:LOOKED], column[:LOOKED], strict=True)):
            return finding | {"follows": True}
    for column, leaf in pairs:
        numbers = column[0].numel() == 1 and leaf[0].numel() == 1
        if numbers and (not _rearranged(column, leaf) or _function(column, leaf)):
            continue
        few = leaf if numbers else leaf[:SEARCHED]
        at = [next((item for item, part in enumerate(column) if _fits(row, part)), None) for row in few]
        moved = next((row for row, part in enumerate(column[: len(few)]) if not _fits(leaf[row], part)), None)
        if None not in at and moved is not None:
            return finding | {"follows": False, "row": moved, "item": at[moved], "certain": not numbers}
    return finding


def fields_of(item: Any, path: Path = ()) -> dict[Path, Tensor]:
    """The numbers, arrays and lists of numbers in an item of a dataset, by their path in the item."""
    value = _as_tensor(item, listed=bool(path))
    if value is not None:
        return {path: value}
    parts: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(item, (dict, UserDict)):
        parts = iter(item.items())
    elif isinstance(item, (tuple, list)) and len(item) <= LOOKED:
        parts = enumerate(item)
    return {inner: found for key, part in parts for inner, found in fields_of(part, (*path, key)).items()}


def tensors_in(batch: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor or array of numbers in a batch: of mappings, sequences, and the attributes of objects."""
    if isinstance(batch, Tensor) and batch.layout == torch.strided:
        yield path, batch
    elif isinstance(batch, np.ndarray) and batch.dtype.kind in "biuf":
        yield path, torch.as_tensor(np.ascontiguousarray(batch))
    elif isinstance(batch, (dict, UserDict)):
        for key in batch:
            yield from tensors_in(batch[key], (*path, key))
    elif isinstance(batch, (tuple, list)):
        for key, part in enumerate(batch):
            yield from tensors_in(part, (*path, key))
    elif len(path) < 3 and not isinstance(batch, type) and hasattr(batch, "__dict__"):
        for key, part in vars(batch).items():
            yield from tensors_in(part, (*path, key))


def moved_in(numbers: Mapping[Path, Sequence[int]], labels: Sequence[int]) -> bool | None:
    """Whether labels are those of a batch's items in another order; None where this cannot be decided.

    Args:
        numbers: The whole numbers of each item, by their path in the item.
        labels: The labels that a loop gave for the batch.
    """
    known = [list(column) for column in numbers.values() if len(column) == len(labels) and len(set(column)) > 1]
    labels = list(labels)
    if any(column == labels for column in known):
        return False
    for column in known:
        if sorted(column) == sorted(labels) and len(set(zip(column, labels, strict=True))) > len(set(column)):
            return True
    return None


def _as_tensor(value: Any, listed: bool) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach() if value.layout == torch.strided and value.device.type != "meta" else None
    if isinstance(value, (bool, int, float, np.generic)) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
        return torch.as_tensor(value) if not isinstance(value, np.generic) or value.dtype.kind in "biuf" else None
    if listed and isinstance(value, list) and value and all(isinstance(part, (bool, int, float)) for part in value):
        return torch.tensor(value)
    return None


def _numbers(fields: Sequence[Mapping[Path, Tensor]], shared: Sequence[Path]) -> dict[Path, list[int]]:
    whole = [path for path in shared if fields[0][path].numel() == 1 and not fields[0][path].is_floating_point()]
    return {path: [int(own[path]) for own in fields] for path in whole if all(own[path].numel() == 1 for own in fields)}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _fits(row: Tensor, part: Tensor) -> bool:
    """Whether a row of a batch is this part of an item, whatever its type, or as a sequence padded or cut at either end."""
    if row.numel() == part.numel() == 1:
        return bool(row.reshape(()).to(torch.float64) == part.reshape(()).to(torch.float64))
    if row.shape == part.shape:
        return torch.equal(row, part.to(row.dtype))
    if row.ndim != part.ndim or row.ndim == 0 or row.shape[1:] != part.shape[1:]:
        return False
    length = min(len(row), len(part))
    part = part.to(row.dtype)
    return length > 0 and (torch.equal(row[:length], part[:length]) or torch.equal(row[-length:], part[-length:]))


def _rearranged(column: Sequence[Tensor], leaf: Tensor) -> bool:
    return sorted(map(float, column)) == sorted(map(float, leaf))


def _function(column: Sequence[Tensor], leaf: Tensor) -> bool:
    """Whether equal numbers became equal numbers, as where classes are named anew."""
    pairs = {(float(part), float(row)) for part, row in zip(column, leaf, strict=True)}
    return len(pairs) == len({part for part, _ in pairs})
