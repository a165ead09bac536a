"""A hash of each example's content, so that identical examples of a pass are found."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

STACKED = 2**14
"""Bytes of an item up to which stacking many and hashing rows takes less time than hashing each by itself."""


def digests_of(items: Sequence[Any], batch: Any = None) -> np.ndarray:
    """A hash of the content of each item, equal for equal content: int64, 0 for items that have no content.

    Single whole numbers are left out: a label is compared separately, and an index in the dataset is no content.

    Args:
        items: Items of a dataset.
        batch: The items as torch's `default_collate` stacked them, if the loop uses it; saves stacking them again.

    Raises:
        TypeError: An item is of a kind whose content cannot be read.
    """
    rows = _rows(items, batch)
    if rows is None:
        return np.array([digest_of(item) for item in items], dtype=np.int64)
    return np.array([xxhash.xxh3_64_intdigest(row) for row in rows], dtype=np.uint64).view(np.int64)


def digest_of(item: Any) -> int:
    """The hash of one item, as `digests_of` gives it.

    Raises:
        TypeError: The item is of a kind whose content cannot be read.
    """
    leaves: list[Any] = []
    _gather(item, leaves)
    if len(leaves) == 1:
        return _signed(xxhash.xxh3_64_intdigest(leaves[0]))
    digest = xxhash.xxh3_64()
    for leaf in leaves:
        # With its length, so that two values are not one longer one.
        digest.update(struct.pack("q", memoryview(leaf).nbytes))
        digest.update(leaf)
    return _signed(digest.intdigest()) if leaves else 0


def _rows(items: Sequence[Any], batch: Any) -> np.ndarray | None:
    """The bytes of each item that is a flat tuple or dict with one small tensor beside whole numbers; None where they are others."""
    first = items[0]
    if not isinstance(first, (tuple, list, dict)):
        return None
    content = [key for key in (first if isinstance(first, dict) else range(len(first))) if not _is_number(first[key])]
    if len(content) != 1 or type(value := first[content[0]]) is not Tensor or not 0 < value.nbytes <= STACKED:
        return None
    if batch is not None:
        stacked = batch[content[0]]
    else:
        values = [item[content[0]] for item in items if len(item) == len(first)]
        if len(values) != len(items) or any(type(one) is not Tensor or one.shape != value.shape for one in values):
            return None
        stacked = torch.stack(values)
    return stacked.detach().cpu().contiguous().reshape(len(items), -1).view(torch.uint8).numpy()


def _is_number(value: Any) -> bool:
    """Whether a value is a single whole number, or nothing."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_floating_point() and not value.is_complex()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.size == 1 and value.dtype.kind in "biu"
    return value is None or isinstance(value, (bool, int))


def _gather(value: Any, leaves: list[Any]) -> None:
    """Put the bytes of a value, part by part, to others.

    Raises:
        TypeError: The value is of a kind whose content cannot be read.
    """
    if _is_number(value):
        return
    if isinstance(value, Tensor):
        value = value.detach().contiguous()
        leaves.append((value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy(force=True))
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufcSU":
        leaves.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, float):
        leaves.append(struct.pack("d", value))
    elif isinstance(value, str):
        leaves.append(value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, bytes):
        leaves.append(value)
    elif isinstance(value, list) and len(value) > 1 and all(type(part) in (bool, int, float) for part in value):
        leaves.append(repr(value).encode())
    elif isinstance(value, (tuple, list)):
        for part in value:
            _gather(part, leaves)
    elif isinstance(value, Mapping):
        for key in value:
            _gather(value[key], leaves)
    elif isinstance(getattr(value, "mode", None), str) and callable(getattr(value, "tobytes", None)):
        # A picture of Pillow.
        leaves.append(f"{value.mode} {getattr(value, 'size', '')}".encode() + value.tobytes())
    else:
        raise TypeError(f"{type(value).__name__} has no content that can be told")


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
