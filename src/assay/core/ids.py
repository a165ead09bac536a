"""Stable names of examples. Everything that is kept or handed on is keyed by them."""

import functools
import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .errors import Mismatch, UsageError, listed

MOST_BYTES = 2**30
"""Memory that ids of very long texts may take: each takes as much as the longest of them."""


class Ids:
    """Unique ids in a fixed order: 64-bit integers, or strings. Immutable.

    An id says *which* example, a position says *where in this order*. Two artefacts are joined by id, never by position.

    Reads like a list of its ids: `ids[0]`, `ids[:10]`, `ids[mask]`, `len(ids)`, `7 in ids`, `np.asarray(ids)`, and for ids that are
    integers `torch.tensor(ids)` and `torch.utils.data.Subset(dataset, ids)`.
    """

    def __init__(self, values: Iterable[int] | Iterable[str] | np.ndarray | Tensor):
        """Keep `values` in the given order.

        Raises:
            UsageError: A value occurs twice, is neither a 64-bit integer nor a string, or the two kinds are mixed.
        """
        if isinstance(values, (bytes, type)) or not hasattr(values, "__iter__"):
            raise UsageError(f"Ids cannot be made of {values!r}; give a list, an array or a tensor with one id for each example.")
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        if not isinstance(values, np.ndarray) or values.dtype.kind in "OU":
            values = _of_one_kind(values.tolist() if isinstance(values, np.ndarray) else list(values))
        array = np.asarray(values)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iuU":
            raise UsageError(
                f"Ids must be one row of integers or of strings, not {array.ndim} axes of {array.dtype}. "
                "Give each example one integer or one string."
            )
        if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
            raise UsageError(f"Id {array.max()} does not fit 64 bits with a sign; give smaller integers, or strings.")
        array = np.array(array.astype(np.int64) if array.dtype.kind in "iu" else array.astype(np.str_))
        unique, counts = np.unique(array, return_counts=True)
        if len(unique) != len(array):
            twice = unique[counts > 1]
            raise UsageError(f"{len(twice)} ids occur more than once: {listed(twice, len(twice))}. Ids must be unique.")
        array.flags.writeable = False
        self.values = array

    @property
    def numeric(self) -> bool:
        """Whether the ids are integers."""
        return self.values.dtype.kind == "i"

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[int | str]:
        return iter(self.values.tolist())

    @overload
    def __getitem__(self, place: int) -> int | str: ...
    @overload
    def __getitem__(self, place: "slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor") -> "Ids": ...
    def __getitem__(self, place: Any) -> "int | str | Ids":
        """One id by its position, counted from the end below 0; or the ids of a slice, of positions, or where a mask is true.

        Returns:
            The id itself for one position, else Ids in the order that was asked for.

        Raises:
            IndexError: There is no such position.
        """
        if isinstance(place, slice):
            return Ids(self.values[place])
        if not isinstance(place, (Tensor, np.ndarray)) or place.ndim == 0:
            try:
                return self.values[operator.index(place)].item()
            except TypeError:
                pass
        return self.take(place)

    def __contains__(self, wanted: object) -> bool:
        if isinstance(wanted, (bool, np.bool_)) or not isinstance(wanted, (int, np.integer) if self.numeric else str):
            return False
        if not isinstance(wanted, str) and not -(2**63) <= int(wanted) < 2**63:
            return False
        values = self._sorted[1]
        place = int(np.searchsorted(values, wanted))  # type: ignore[arg-type]
        return place < len(values) and bool(values[place] == wanted)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The ids as NumPy asks for them, read-only unless copied."""
        return np.array(self.values, dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ids) and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Ids({listed(self.values, len(self), 4)})" if len(self) else "Ids()"

    def take(self, positions: Sequence[int] | np.ndarray | Tensor) -> "Ids":
        """The ids at these positions (or where this mask is true)."""
        index = positions.detach().cpu().numpy() if isinstance(positions, Tensor) else np.asarray(positions)
        return Ids(self.values[index if index.size else index.astype(np.int64)])

    @functools.cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.values, kind="stable")
        return order, self.values[order]

    @functools.cached_property
    def ranks(self) -> Int[Tensor, " examples"]:
        """Place of each id when all are sorted (numbers by size, strings by code point): how ties are broken."""
        ranks = np.empty(len(self), np.int64)
        ranks[self._sorted[0]] = np.arange(len(self))
        return torch.from_numpy(ranks)

    def positions(self, wanted: "Ids", here: str = "this set") -> Int[Tensor, " wanted"]:
        """Position of each id in `wanted`.

        Args:
            wanted: The ids to look up.
            here: Name of this set of ids in the message.

        Returns:
            One position per wanted id, from 0.

        Raises:
            Mismatch: An id is not among these; names the first ones.
        """
        order, values = self._sorted
        if len(wanted) and (self.numeric != wanted.numeric or not len(self)):
            raise Mismatch(f"{listed(wanted.values, len(wanted))} are not ids of {here}, whose ids look like {self!r}.")
        place = np.searchsorted(values, wanted.values)
        found = place < len(values)
        found[found] = values[place[found]] == wanted.values[found]
        if not found.all():
            alien = wanted.values[~found]
            raise Mismatch(f"{len(alien)} ids are not in {here}: {listed(alien, len(alien))}. Its ids look like {self!r}.")
        return torch.from_numpy(order[place]) if len(wanted) else torch.zeros(0, dtype=torch.int64)

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """One 64-bit word per id for counter-based draws: the integer itself, or a BLAKE2b digest of the string."""
        if self.numeric:
            return self.values.astype(np.uint64)
        digests = (hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in self.values)
        return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the ids in order, 16 hex digits."""
        body = self.values.astype("<i8").tobytes() if self.numeric else "\0".join(self.values.tolist()).encode()
        return hashlib.sha256(self.values.dtype.kind.encode() + body).hexdigest()[:16]


def _of_one_kind(values: list) -> list:
    texts = [value for value in values if isinstance(value, str)]
    if 0 < len(texts) < len(values):
        number = next(value for value in values if not isinstance(value, str))
        raise UsageError(f"Ids mix strings such as {texts[0]!r} and others such as {number!r}; give one kind.")
    longest = max(map(len, texts), default=0)
    if longest > 1000 and 4 * longest * len(texts) > MOST_BYTES:
        raise UsageError(f"An id of {longest:,} letters makes {len(texts):,} ids of as many; give each example a shorter name.")
    for text in texts:
        # NumPy would cut a NUL off, and what is no Unicode cannot be written to any file.
        if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
            raise UsageError(f"Id {text!r} holds a NUL or a broken character; rename this example.")
    return values


def dataset_fingerprint(ids: Ids, labels: Int[Tensor, " examples"]) -> str:
    """Fingerprint that artefacts of the same dataset share: SHA-256 over ids in sorted order and given labels, 16 hex digits.

    It does not depend on the order of the examples, but on every label.

    Returns:
        16 hex digits.
    """
    order = torch.argsort(ids.ranks)
    digest = hashlib.sha256(ids.take(order).fingerprint.encode())
    digest.update(labels.detach().cpu()[order].to(torch.int64).numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def index_of(values: Any) -> Ids | None:
    """The index of a DataFrame or Series of pandas as ids.

    Returns:
        The ids; None for anything that has no index.

    Raises:
        UsageError: The index names no rows: a value occurs twice, or is neither a whole number nor a text.
    """
    return Ids(np.asarray(values.index)) if hasattr(values, "iloc") and hasattr(values, "index") else None
