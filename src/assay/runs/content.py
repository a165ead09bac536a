"""The content of the examples of a user's loop, as a run keeps it: fingerprints, and the losses of a few at each epoch's end."""

import dataclasses
import json
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import RunError
from ..core.ids import Ids
from ..maths import draws

NOTE = "content"
"""Under this name the shard of the first epoch has what is no tensor."""
POSITIONS, FIXED, WHOLE, START, LOSSES = (f"content {name}" for name in ("positions", "fixed", "whole", "start", "losses"))
"""Names of the tensors in the shards."""
LOOKED_AT, MOST_LOOKED_AT = 512, 4096
"""Up to so many examples all are looked at; of more every 64th, at least 512 and at most 4096."""
FEWEST_EVALUATED, MOST_EVALUATED = 16, 64
"""Every 32nd example is evaluated at each epoch's end, at least and at most so many: a per cent or two of what a step on all of them takes."""
OPENED = 3
"""How deep objects inside objects are opened; some hold themselves."""
HEAP_TYPE = 1 << 9
"""Python's flag of classes that are written in Python."""
PLAIN = (str, bytes, bool, int, float, np.generic, type(None))
"""Types of values that are told by their text."""


class Part(NamedTuple):
    """One value inside a batch of one example.

    Attributes:
        path: Where in the batch it stands, such as `[0]` or `['labels']`.
        fingerprint: Hash over type, shape and bytes; 64 bits.
        number: The value itself, where it is a single whole number; else None.
        known: Whether the fingerprint covers the whole value; of some objects it covers only the type.
    """

    path: str
    fingerprint: int
    number: int | None
    known: bool = True


def looked_at(ids: Ids) -> Int[Tensor, " some"]:
    """The positions whose content is kept, in an order that depends on the ids only; the first `evaluated` of them are evaluated too.

    If m of more than 512 examples are looked at, changes in a fraction q of all are missed with probability (1 - q)^m: 0.6 % for q = 1 %, m = 512.
    """
    count = min(len(ids), max(LOOKED_AT, min(len(ids) // 64, MOST_LOOKED_AT)))
    return draws.permutation(ids.keys, 0, "content")[:count]


def evaluated(examples: int) -> int:
    """How many of the examples of `looked_at` are evaluated at each epoch's end."""
    return min(examples, max(FEWEST_EVALUATED, min(examples // 32, MOST_EVALUATED)))


def parts_of(batch: Any, opened: int = OPENED) -> list[Part]:
    """Every value inside a batch, in a fixed order."""
    leaves = list(leaves_of(batch, opened=opened))
    inside = [then.startswith(f"{path}.") for (path, _), (then, _) in zip(leaves, [*leaves[1:], ("", None)], strict=True)]
    return [
        Part(path, _fingerprint(path, value), _number(value), _is_known(value, attributes))
        for (path, value), attributes in zip(leaves, inside, strict=True)
    ]


def leaves_of(batch: Any, path: str = "", opened: int = 0) -> Iterator[tuple[str, Any]]:
    """Every value inside nested mappings, tuples, lists and dataclasses, with its path.

    Args:
        batch: What is looked into.
        path: Where it stands.
        opened: To which depth other objects are opened: the object comes first, then its public attributes by name.
    """
    if isinstance(batch, Mapping):
        for key in batch:
            yield from leaves_of(batch[key], f"{path}[{key!r}]", opened)
    elif isinstance(batch, (tuple, list)):
        for place, value in enumerate(batch):
            yield from leaves_of(value, f"{path}[{place}]", opened)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            yield from leaves_of(getattr(batch, field.name), f"{path}.{field.name}", opened)
    else:
        yield path, batch
        for name, value in sorted(_attributes(batch).items() if opened else ()):
            if not name.startswith("_"):
                yield from leaves_of(value, f"{path}.{name}", opened - 1)


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes of a plain object; none of numbers, functions, classes and networks."""
    if isinstance(value, (Tensor, np.ndarray, *PLAIN, type, torch.nn.Module)) or callable(value):
        return {}
    try:
        return dict(vars(value))
    except Exception:
        # It has none, or a property of that name that fails.
        return {}


def _is_known(value: Any, opened: bool) -> bool:
    if isinstance(value, (Tensor, *PLAIN)):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype != object
    # What is kept in slots, by C or under names that are its own business is not told.
    plain = all(kind in (object, types.SimpleNamespace) or kind.__flags__ & HEAP_TYPE for kind in type(value).__mro__)
    private = hasattr(type(value), "__slots__") or any(name.startswith("_") for name in _attributes(value))
    return opened and plain and not private


def bytes_of(value: Tensor) -> bytes:
    """The numbers of a tensor as they stand in memory, of any type."""
    plain = value.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def together(parts: list[Part], without: frozenset[str] = frozenset()) -> int:
    """One fingerprint of several parts."""
    return _hashed(*(str(part.fingerprint).encode() for part in parts if part.path not in without))


def _fingerprint(path: str, value: Any) -> int:
    if isinstance(value, Tensor):
        return _hashed(path.encode(), f"{value.dtype} {tuple(value.shape)}".encode(), bytes_of(value))
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _hashed(path.encode(), f"{value.dtype} {value.shape}".encode(), np.ascontiguousarray(value).tobytes())
    if isinstance(value, str):
        # Of a path only what stays when a dataset is moved.
        value = value.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    # Of what a loop takes along besides numbers and texts only the kind is told: its text may hold an address in memory.
    plain = isinstance(value, PLAIN)
    return _hashed(path.encode(), repr(value).encode() if plain else type(value).__qualname__.encode())


def _hashed(*parts: bytes) -> int:
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _number(value: Any) -> int | None:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point() and not value.is_complex():
        return int(value) if value.dtype != torch.bool else None
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """What a run knows of its examples' content.

    Attributes:
        positions: The examples that were looked at, in the order of `looked_at`.
        fixed: Fingerprint of each example, without the parts that are drawn at random.
        whole: Fingerprint of each example, with the random parts drawn under the example's own seed.
        drawn: Paths of the parts that are drawn at random.
        label: Path of the part that is the label; None where no part is.
        losses_by: What computes the losses of evaluated examples: `losses` or `forward` as given to `record`, `pair` for the cross-entropy of
            a batch (inputs, labels).
        reason: Why there are no fingerprints, or no losses; empty if nothing is missing.
        opened: How deep objects inside batches were opened for the fingerprints; an older assay opened none.
    """

    positions: Int[Tensor, " some"]
    fixed: Int[Tensor, " some"]
    whole: Int[Tensor, " some"]
    drawn: tuple[str, ...] = ()
    label: str | None = None
    losses_by: str = "pair"
    reason: str = ""
    opened: int = OPENED

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are saved as tensors."""
        return {POSITIONS: self.positions.to(torch.int32), FIXED: self.fixed, WHOLE: self.whole}

    def note(self) -> str:
        """The other fields, as JSON text."""
        names = ("drawn", "label", "losses_by", "reason", "opened")
        return json.dumps({name: getattr(self, name) for name in names}, sort_keys=True)

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], note: str, examples: int, where: object) -> "Content":
        """The inverse of `tensors` and `note`.

        Args:
            tensors, note: As saved.
            examples: How many examples the run has.
            where: Name of the file, for messages.

        Raises:
            RunError: Tensors and note do not belong to such a run.
        """
        positions, fixed, whole = (tensors[name].to(torch.int64) for name in (POSITIONS, FIXED, WHOLE))
        try:
            rest = json.loads(note)
            drawn, label, by, reason = tuple(rest["drawn"]), rest["label"], rest["losses_by"], rest["reason"]
            opened = rest.get("opened", 0)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{where} holds no note on its examples' content; restore it from a copy or record again.") from error
        right = (
            all(isinstance(path, str) for path in drawn) and isinstance(label, str | None) and by in ("pair", "losses", "forward")
        )
        alike = positions.ndim == 1 and positions.shape == fixed.shape == whole.shape
        inside = alike and bool(((positions >= 0) & (positions < examples)).all()) and len(positions.unique()) == len(positions)
        if not (right and inside and isinstance(reason, str) and type(opened) is int and 0 <= opened <= OPENED):
            raise RunError(
                f"{where}: its notes on the examples' content are not of its examples; restore it from a copy or record again."
            )
        return cls(positions, fixed, whole, drawn, label, by, reason, opened)


Losses = Float[Tensor, " few"]
"""Losses of the first `evaluated` of the positions, in eval mode."""
