"""Where an artefact comes from: what it was made of, by which code, on which device, in how many seconds."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

SCHEMA = 2
"""Version of everything that assay writes to disk. A newer one is refused, an older one is read."""


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The provenance that every saved artefact carries.

    Attributes:
        dataset: Fingerprint of ids and given labels.
        parents: Fingerprint of each artefact that this one was made of, by its kind (`run`, `scores`, `decision`).
        code: Version of assay.
        seed: Seed of the step that made it, if it draws at random.
        device: Where it was computed.
        seconds: How long that took.
        folder: The run's folder when this was made; empty without one.
        drawn: Whether the examples are only the part of the loop's dataset that its sampler drew from; positions among them are then not
            positions in the dataset.
    """

    dataset: str
    parents: Mapping[str, str] = dataclasses.field(default_factory=dict)
    code: str = ""
    seed: int | None = None
    device: str = "cpu"
    seconds: float = 0.0
    folder: str = ""
    drawn: bool = False


@dataclasses.dataclass(frozen=True)
class Long:
    """A part of what is hashed that comes in pieces, so that it is never held whole.

    Attributes:
        size: Bytes of all pieces.
        pieces: Its bytes, in their order.
    """

    size: int
    pieces: Iterable[bytes]


def fingerprint(*parts: bytes | str | Long) -> str:
    """SHA-256 over the parts, each with its length before it; 16 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Long):
            digest.update(part.size.to_bytes(8, "little"))
            for piece in part.pieces:
                digest.update(piece)
            continue
        body = part.encode() if isinstance(part, str) else part
        digest.update(len(body).to_bytes(8, "little") + body)
    return digest.hexdigest()[:16]
