"""Images that stay on disk as encoded files and are decoded by several threads, a batch at a time: for sets that are larger than memory."""

import collections
import concurrent.futures
import contextlib
import copy
import ctypes
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.errors import UsageError, reading

MOST_THREADS = 32
"""Threads that decode at most, whatever the number of processors."""
PART = 2**26
"""Bytes of decoded images that are held at a time where all are gone through."""
SHARE = 0.8
"""Part of the machine's memory that images which are asked for all at once may take."""

LARGE = 2**20
"""Bytes of memory from which on a block is given back to the system as soon as it is freed, where the C library is glibc."""
_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's malloc.h."""

Read = TypeVar("Read")
Change = Callable[[Tensor, np.ndarray], Tensor]
"""Changes decoded images; the second argument says which of all files they are of."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Files of images, and how one is read.

    Attributes:
        paths: The files.
        read: One file as uint8 (channels, height, width).
        shape: Shape of every image.
        changes: What is done to the images after reading.
        whole_files: Whether the files' own bytes say what the images are, so that a hash of them need not decode a million.
    """

    paths: Sequence[str]
    read: Callable[[str], np.ndarray]
    shape: tuple[int, int, int]
    changes: tuple[Change, ...] = ()
    whole_files: bool = False

    def one(self, place: int) -> np.ndarray:
        """One image.

        Raises:
            UsageError: The file is absent, no image or of another shape; names it.
        """
        path = self.paths[place]
        image = self.read(path)
        if image.shape != self.shape:
            one, other = (" x ".join(map(str, shape)) for shape in (self.shape, image.shape))
            raise UsageError(
                f"{path} is an image of {other} numbers, the others have {one}. Give size= to scale all images to one size."
            )
        return image

    def start(self, places: np.ndarray) -> Callable[[], Tensor]:
        """Begin to decode some images; what is returned waits for them and gives them, (images, channels, height, width).

        Raises:
            UsageError: As `one`, when they are waited for.
        """
        _give_back_large_blocks()
        room = np.empty((len(places), *self.shape), np.uint8)

        def fill(rows: np.ndarray) -> None:
            for row in rows.tolist():
                room[row] = self.one(int(places[row]))

        parts = np.array_split(np.arange(len(places)), min(len(places), 4 * _threads())) if len(places) else []
        waiting = [_pool(os.getpid()).submit(fill, part) for part in parts]

        def finished() -> Tensor:
            try:
                for future in waiting:
                    future.result()
            finally:
                for future in waiting:
                    future.cancel()
            made = torch.from_numpy(room)
            for change in self.changes:
                made = change(made, places)
            return made

        return finished


def decoded_each(read: Callable[[str], Read], paths: Sequence[str]) -> Iterator[Read | UsageError]:
    """Each file as it is read, or the error of one that cannot be, in their order; a few are read ahead by several threads."""

    def tried(path: str) -> Read | UsageError:
        try:
            return read(path)
        except UsageError as error:
            return error

    waiting: collections.deque[concurrent.futures.Future[Read | UsageError]] = collections.deque()
    try:
        for path in paths:
            waiting.append(_pool(os.getpid()).submit(tried, path))
            # The first alone: it may be that all are read later.
            if len(waiting) > (8 * _threads() if len(paths) > 1 and path is not paths[0] else 0):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _raised(results: Iterable[bytes | UsageError]) -> Iterator[bytes]:
    for one in results:
        if isinstance(one, UsageError):
            raise one
        yield one


def _hash(path: str) -> bytes:
    with reading(path, UsageError, "Restore it."), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@functools.lru_cache(maxsize=1)
def _give_back_large_blocks() -> None:
    # By default glibc keeps freed blocks of up to 32 MB on its heap once some were freed, and batches of that size leave gaps there that no later batch fits into: memory
    # grew by 4 MB a step. Under a fixed bound they are pages of their own, which go back to the system.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)


def _threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, MOST_THREADS))


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> concurrent.futures.ThreadPoolExecutor:
    # Of each process its own: threads are not there any more in a process that was forked.
    return concurrent.futures.ThreadPoolExecutor(_threads(), "assay-decode")


class DiskImages(Tensor):
    """A uint8 tensor (images, channels, height, width) whose rows are decoded from their files when they are used.

    Slices, splits and concatenations along the first axis and `rows` stay on disk. An index of positions, or anything else, gives a plain tensor of the
    rows that it takes, decoded.
    """

    files: ImageFiles
    places: np.ndarray
    # Functions of torch arrive below, at the operations that they are made of.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, files: ImageFiles, places: np.ndarray | None = None) -> "DiskImages":
        places = np.arange(len(files.paths)) if places is None else places
        made = torch.Tensor._make_wrapper_subclass(
            cls, (len(places), *files.shape), dtype=torch.uint8, device=torch.device("cpu")
        )  # type: ignore[attr-defined]
        made.files, made.places = files, places
        return made

    def __init__(self, files: ImageFiles, places: np.ndarray | None = None):
        super().__init__()

    def rows(self, positions: Tensor) -> "DiskImages":
        """Some of the images, still on disk."""
        return DiskImages(self.files, self.places[positions.numpy()])

    def changed(self, change: Change) -> "DiskImages":
        """The images with a change that is made whenever they are decoded."""
        return DiskImages(dataclasses.replace(self.files, changes=(*self.files.changes, change)), self.places)

    def start(self, positions: Tensor) -> Callable[[], Tensor]:
        """Begin to decode the images at these positions; what is returned waits for them."""
        return self.files.start(self.places[positions.numpy()])

    def decoded(self, more: int = 0) -> Tensor:
        """All of the images as a plain tensor.

        Args:
            more: Bytes that each number takes besides, in what is made of it.

        Raises:
            UsageError: They do not fit into the machine's memory, or a file cannot be read.
        """
        size, held = math.prod(self.shape) * (1 + more), _memory()
        if size > SHARE * held:
            raise UsageError(
                f"{len(self):,} images of {' x '.join(map(str, self.files.shape))} numbers stay on disk; decoded they take {size / 1e9:.0f} GB, and something asks "
                f"for all of them at once on a machine of {held / 1e9:.0f} GB. Ask for features of a kept model (features=penultimate), or take a subset= of the examples."
            )
        return self.files.start(self.places)()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        ops, first = torch.ops.aten, args[0]
        if func is ops.cat.default and (len(args) == 1 or args[1] == 0) and _of_the_same_files(first):
            return DiskImages(first[0].files, np.concatenate([part.places for part in first]))
        if isinstance(first, DiskImages):
            if func in (ops.detach.default, ops.alias.default):
                return DiskImages(first.files, first.places)
            if func is ops.slice.Tensor and (len(args) < 2 or args[1] == 0):
                return DiskImages(first.files, first.places[slice(*args[2:5])])
            if func is ops.split.Tensor and (len(args) < 3 or args[2] == 0):
                return [DiskImages(first.files, first.places[at : at + args[1]]) for at in range(0, max(1, len(first)), args[1])]
            if func is ops.index.Tensor and len(args[1]) == 1 and args[1][0].ndim == 1:
                return first.rows(args[1][0].cpu()).decoded()
            if func is ops.select.int and args[1] == 0:
                return first.rows(torch.tensor([args[2]])).decoded()[0]
            if func is ops._to_copy.default and kwargs and isinstance(kind := kwargs.get("dtype"), torch.dtype):
                return func(first.decoded(kind.itemsize), **kwargs)
        if func._schema.is_mutable and any(isinstance(one, DiskImages) for one in args[:1]):
            raise UsageError("Images that stay on disk cannot be changed in place; copy them first, or write other files.")
        return func(
            *pytree.tree_map_only(DiskImages, DiskImages.decoded, args),
            **pytree.tree_map_only(DiskImages, DiskImages.decoded, kwargs or {}),
        )

    def __setitem__(self, index: Any, value: Any) -> None:
        raise UsageError("Images that stay on disk cannot be changed in place; copy them first, or write other files.")

    def numpy(self, *, force: bool = False) -> np.ndarray:  # type: ignore[override]
        """All of the images, decoded."""
        return self.decoded().numpy()

    def tolist(self) -> list[Any]:
        """All of the images, decoded."""
        return self.decoded().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> "DiskImages":
        return DiskImages(self.files, self.places.copy())

    def __copy__(self) -> "DiskImages":
        return DiskImages(self.files, copy.copy(self.places))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return DiskImages, (self.files, self.places)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"DiskImages({len(self):,} images of {' x '.join(map(str, self.files.shape))})"


def _of_the_same_files(parts: Any) -> bool:
    return bool(parts) and all(isinstance(part, DiskImages) and part.files is parts[0].files for part in parts)


def _memory() -> int:
    """Bytes of memory that the machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def rows_of(inputs: Tensor, positions: Tensor) -> Tensor:
    """The inputs at these positions; those on disk stay there."""
    return inputs.rows(positions) if isinstance(inputs, DiskImages) else inputs[positions]


def blocks(inputs: Tensor) -> Iterable[Tensor]:
    """Inputs in parts of a bounded size, plain and contiguous, in their order."""
    each = max(1, math.prod(inputs.shape[1:])) * inputs.element_size()
    for part in inputs.split(max(1, PART // each)):
        yield part.decoded() if isinstance(part, DiskImages) else part.contiguous()


def pieces_of(inputs: Tensor) -> tuple[int, Iterable[bytes]]:
    """What a hash of inputs is taken of, and how many bytes that are: their own, or a hash of each file where the files say it all."""
    if isinstance(inputs, DiskImages) and inputs.files.whole_files and not inputs.files.changes:
        return 32 * len(inputs), _raised(decoded_each(_hash, [inputs.files.paths[int(place)] for place in inputs.places]))
    return math.prod(inputs.shape) * inputs.element_size(), (part.numpy().tobytes() for part in blocks(inputs))
