"""What trainings without some examples came to, kept in a run's folder as they are made, so that a killed command goes on."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..core.lineage import fingerprint
from .coalitions import NAME, KeptValues, values_in
from .disk import remove
from .paths import refuse_links

PATIENCE = 10.0
"""Seconds to wait for a process that appends to the same file: one whose command was killed may not be gone yet."""


@dataclasses.dataclass(frozen=True)
class KeptRetrainings:
    """What trainings without some examples came to: a folder with a file for each call, to which the process that trains appends after every training.

    A training is named by all that its numbers depend on, so that a file of other trainings that is copied here names none of these.

    Attributes:
        folder: The folder.
        made_of: Fingerprint of all that the trainings depend on, apart from who is left out.
        width: How many numbers a training comes to.
    """

    folder: Path
    made_of: str
    width: int

    def name(self, group: np.ndarray) -> bytes:
        """Name of the training without the examples at these positions, in whatever order they are given."""
        left_out = np.sort(np.asarray(group, dtype=np.int64)).tobytes()
        return hashlib.blake2b(self.made_of.encode() + b"\0" + left_out, digest_size=NAME).digest()

    def known(self) -> dict[bytes, tuple[float, ...]]:
        """What is kept of every finished training, by name: its numbers, and how many seconds it took. What is damaged is not among them.

        Raises:
            RunError: A file or the folder is a link.
        """
        found: dict[bytes, tuple[float, ...]] = {}
        for path in sorted(refuse_links(self.folder).glob("*.values")):
            # It only saves time; a training whose numbers cannot be read is done again.
            with contextlib.suppress(OSError):
                found = values_in(path, self.width + 1) | found
        return found

    def part(self, names: Iterable[bytes]) -> Path:
        """The file of the call that does these trainings."""
        return self.folder / f"{fingerprint(self.made_of, *sorted(names))}.values"

    def opened(self, path: Path) -> KeptValues:
        """What the file of a call holds, to append to.

        Raises:
            NotWritten: The operating system refuses.
            RunError: A link, or no regular file.
        """
        return KeptValues(path, self.made_of, self.width + 1, patience=PATIENCE)

    def forget(self) -> None:
        """Remove the folder, because what is in it is kept elsewhere or must not be used.

        Raises:
            NotWritten: The operating system refuses.
            RunError: The folder is a link.
        """
        for pattern in ("*.values", "*.state", ".*.state.*.tmp"):
            for path in refuse_links(self.folder).glob(pattern):
                remove(path)
        # Others may have something there, or be at work in it.
        with contextlib.suppress(OSError):
            self.folder.rmdir()
