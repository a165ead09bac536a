"""Rows of numbers for each example that are made once: in memory, or in a temporary file where they are large."""

import contextlib
import dataclasses
import functools
import itertools
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import NotWritten
from ..core.features import BLOCK
from ..core.ids import Ids
from ..core.models import ExampleRows

ON_DISK = 2**28
"""Bytes of features beyond which they are kept in a file: 128,000 rows of a ResNet's 512 numbers stay in memory, gradients of the heads of such nets do not."""


@dataclasses.dataclass(frozen=True, eq=False)
class Filed:
    """Features in a temporary file, which has no name, so that the system takes it away when the last reader lets go, or dies.

    Attributes:
        what: What they are, for messages.
        shape: Rows, and numbers in each.
        dtype: Of the numbers.
        make: Makes the blocks, from the first to the last; called once.
    """

    what: str
    shape: tuple[int, int]
    dtype: torch.dtype
    make: Callable[[], Iterator[tuple[slice, Tensor]]]

    @functools.cached_property
    def _file(self) -> Any:
        with self._writing():
            file = tempfile.TemporaryFile(prefix="assay-features-")  # noqa: SIM115
        weakref.finalize(self, file.close)
        for _, block in self.make():
            with self._writing():
                # Not through the mapping: on a full disk that would end the process.
                file.write(np.ascontiguousarray(block.numpy()).data)
        with self._writing():
            file.flush()
        return file

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            size = self.shape[0] * self.shape[1] * self.dtype.itemsize
            raise NotWritten(
                f"{self.what} take {size / 1e9:.1f} GB and cannot be written to {tempfile.gettempdir()} ({error}); make room there, "
                "or set TMPDIR to a folder that has it."
            ) from error

    def whole(self) -> Tensor:
        """All rows, as a memory map of the file; what a reader writes into them stays private to the reader."""
        return torch.from_numpy(np.memmap(self._file, torch.empty(0, dtype=self.dtype).numpy().dtype, "c", shape=self.shape))

    def read(self) -> Iterator[tuple[slice, Tensor]]:
        """The blocks, each a copy in memory."""
        rows = self.whole()
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            yield part, rows[part].clone()


def example_rows(name: str, ids: Ids, make: Callable[[], Iterator[Tensor]]) -> ExampleRows:
    """Rows that are made now and not kept with a run: in memory, or where they are large in a temporary file.

    Args:
        name: What they are, for messages.
        ids: Ids of the examples.
        make: Makes the rows in blocks, from first to last.
    """
    blocks = make()
    held = [next(blocks)]
    first = held[0]
    dims, size = first.shape[1], first.element_size() * first.shape[1]
    if len(ids) * size > ON_DISK:
        filed = Filed(name, (len(ids), dims), first.dtype, lambda: ((slice(0), one) for one in itertools.chain(held, blocks)))
        return ExampleRows(dims, size, False, filed.read)
    whole = torch.cat([*held, *blocks])

    def read() -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(whole), BLOCK):
            yield slice(start, start + BLOCK), whole[start : start + BLOCK].clone()

    return ExampleRows(dims, size, False, read)
