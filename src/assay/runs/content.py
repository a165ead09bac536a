"""What the examples of a user's loop consist of, as a run keeps it: fingerprints, and the losses of a few at each epoch's end."""

import dataclasses
import json
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


class Part(NamedTuple):
    """One value inside a batch of one example.

    Attributes:
        path: Where in the batch it stands, such as `[0]` or `['labels']`.
        fingerprint: Over type, shape and bytes; 64 bits.
        number: The value itself, where it is a single whole number; else None.
    """

    path: str
    fingerprint: int
    number: int | None


def looked_at(ids: Ids) -> Int[Tensor, " some"]:
    """The positions whose content is kept, in an order that depends on the ids only; the first `evaluated` of them are evaluated too.

    Where m of more than 512 are looked at, a share q of examples that changed is missed with the probability (1 - q)^m: 0.6 % for q = 1 %, m = 512.
    """
    count = min(len(ids), max(LOOKED_AT, min(len(ids) // 64, MOST_LOOKED_AT)))
    return draws.permutation(ids.keys, 0, "content")[:count]


def evaluated(examples: int) -> int:
    """How many of them are evaluated at each epoch's end."""
    return min(examples, max(FEWEST_EVALUATED, min(examples // 32, MOST_EVALUATED)))


def parts_of(batch: Any) -> list[Part]:
    """Every value inside a batch, in a fixed order."""
    return [Part(path, _fingerprint(path, value), _number(value)) for path, value in leaves_of(batch)]


def leaves_of(batch: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside nested mappings, tuples, lists and dataclasses, with its path."""
    if isinstance(batch, Mapping):
        for key in batch:
            yield from leaves_of(batch[key], f"{path}[{key!r}]")
    elif isinstance(batch, (tuple, list)):
        for place, value in enumerate(batch):
            yield from leaves_of(value, f"{path}[{place}]")
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            yield from leaves_of(getattr(batch, field.name), f"{path}.{field.name}")
    else:
        yield path, batch


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
    plain = isinstance(value, (str, bytes, bool, int, float, np.generic, type(None)))
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
        fixed: Fingerprint of each, without what is drawn at random.
        whole: Fingerprint of each, what is drawn at random drawn under its own seed.
        drawn: Paths of the parts that are drawn at random.
        label: Path of the part that is the label; None where no part is.
        losses_by: What the losses of the few are computed by: `losses` or `forward` as given to `record`, `pair` for the cross-entropy of
            a batch (inputs, labels).
        reason: Why there are no fingerprints, or no losses; empty if nothing is missing.
    """

    positions: Int[Tensor, " some"]
    fixed: Int[Tensor, " some"]
    whole: Int[Tensor, " some"]
    drawn: tuple[str, ...] = ()
    label: str | None = None
    losses_by: str = "pair"
    reason: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """What is saved as tensors."""
        return {POSITIONS: self.positions.to(torch.int32), FIXED: self.fixed, WHOLE: self.whole}

    def note(self) -> str:
        """The rest, as text."""
        return json.dumps(
            {"drawn": self.drawn, "label": self.label, "losses_by": self.losses_by, "reason": self.reason}, sort_keys=True
        )

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], note: str, examples: int, where: object) -> "Content":
        """The inverse of both.

        Args:
            tensors, note: As saved.
            examples: How many the run has.
            where: What is read, for messages.

        Raises:
            RunError: They do not belong to such a run.
        """
        positions, fixed, whole = (tensors[name].to(torch.int64) for name in (POSITIONS, FIXED, WHOLE))
        try:
            rest = json.loads(note)
            drawn, label, by, reason = tuple(rest["drawn"]), rest["label"], rest["losses_by"], rest["reason"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{where} holds no note on its examples' content; restore it from a copy or record again.") from error
        right = (
            all(isinstance(path, str) for path in drawn) and isinstance(label, str | None) and by in ("pair", "losses", "forward")
        )
        alike = positions.ndim == 1 and positions.shape == fixed.shape == whole.shape
        inside = alike and bool(((positions >= 0) & (positions < examples)).all()) and len(positions.unique()) == len(positions)
        if not (right and inside and isinstance(reason, str)):
            raise RunError(
                f"{where}: its notes on the examples' content are not of its examples; restore it from a copy or record again."
            )
        return cls(positions, fixed, whole, drawn, label, by, reason)


Losses = Float[Tensor, " few"]
"""Losses of the first `evaluated` of the positions, in eval mode."""
