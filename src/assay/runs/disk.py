"""Writing that survives a kill at any moment, and reading that notices damage. Errors of the operating system become assay's.

A folder may come from a stranger. Inside the folder of a run or a study no link is followed, for reading or for writing; only regular files
are opened; and the size that a file states is checked against the file before memory is allocated.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
import xxhash
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..core.errors import NotWritten, RunError, RunLocked, reading
from .paths import STUDY_PLAN, refuse_links

RESTORE = "Restore it from a copy or make it again."
MOST_TEXT = 32 * 2**20
"""Bytes of the largest JSON text that is read: objects take some 25 times the memory of the shortest text that makes them."""
MOST_COMMITS = 512 * 2**20
"""Bytes of the largest list of commits that is read."""


def opened(path: Path) -> tuple[int, int]:
    """A handle for reading and how many bytes the file has.

    Raises:
        RunError: A link inside a run, or no regular file: a folder, a pipe, a device.
        OSError: The operating system refuses.
    """
    refuse_links(path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise RunError(f"{path} is no regular file but a folder, a pipe or a device. {RESTORE}")
    # Not blocking, because a pipe could have been put there just now.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return handle, os.fstat(handle).st_size


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """The content of a small file.

    Raises:
        RunError: A link inside a run, no regular file, or larger than `most` bytes.
        OSError: The operating system refuses.
    """
    handle, size = opened(path)
    with open(handle, "rb") as file:
        if size > most:
            raise RunError(f"{path} has {size:,} bytes, where {most:,} are the most that such a file may have. {RESTORE}")
        return file.read(most)


def beginning(path: Path, most: int = 4096) -> bytes:
    """The first bytes of a file.

    Raises:
        RunError: A link inside a run, no regular file, or the operating system refuses.
    """
    with reading(path, RunError, "Name another file."):
        handle, _ = opened(path)
        with open(handle, "rb") as file:
            return file.read(most)


def study_in(plan: Path) -> str:
    """Name of the study that wrote a plan; empty if none did.

    Raises:
        RunError: As `beginning`.
    """
    line = beginning(plan).split(b"\n", 1)[0].decode(errors="replace") if os.path.lexists(plan) else ""
    return line.removeprefix(STUDY_PLAN) if line.startswith(STUDY_PLAN) else ""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the operating system while `path` is written into `NotWritten`.

    Raises:
        NotWritten: Disk full, read-only, no permission, no such place.
    """
    try:
        yield
    except OSError as error:
        why = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EROFS: "the file system is read-only; choose another folder",
            errno.EACCES: "there is no permission to write there; choose another folder",
            errno.EEXIST: "a file stands where a folder is needed; choose another folder",
            errno.ENOTDIR: "a file stands where a folder is needed; choose another folder",
        }.get(error.errno or 0, f"{error.strerror or error}; choose another folder")
        raise NotWritten(f"{path} was not written: {why}. What was saved before is intact.") from error


def make_folder(folder: Path) -> None:
    """The folder and its parents, forced to the disk where they are new.

    Raises:
        NotWritten: The operating system refuses.
    """
    refuse_links(folder)
    with writing(folder):
        new = [made for made in (folder, *folder.parents) if not made.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in new:
            _sync_folder(made.parent)


_UNSEEN: set[Path] = set()
"""Folders that are being filled and that nobody sees before they are whole: what is in them is forced to the disk once, at their end."""


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """The place of a temporary folder to make and fill: it becomes `folder` when the block ends without an error, else it is removed.

    Raises:
        NotWritten: The operating system refuses, or something stands at `folder` by then.
    """
    folder = folder.absolute()
    make_folder(folder.parent)
    with writing(folder):
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    _UNSEEN.add(scratch)
    try:
        yield scratch / folder.name
        with writing(folder):
            _sync_tree(scratch / folder.name)
            os.rename(scratch / folder.name, folder)
            _sync_folder(folder.parent)
    finally:
        _UNSEEN.discard(scratch)
        shutil.rmtree(scratch, ignore_errors=True)


def replace(path: Path, body: bytes) -> None:
    """Put `body` at `path` so that a reader sees the old file or the new one, never a part: temp, fsync, rename, fsync.

    Raises:
        NotWritten: The operating system refuses; the old file is intact and no temporary file stays.
    """
    with written_aside(path) as file, writing(path):
        file.write(body)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A new file to write and read, which is put at `path` when the block ends without an error, and removed otherwise.

    Raises:
        NotWritten: The operating system refuses; the old file is intact and no temporary file stays. Errors in the block pass unchanged.
    """
    make_folder(path.parent)
    refuse_links(path)
    name = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    with writing(path):
        # Not by tempfile, whose files nobody else may read whatever the umask says.
        file = os.fdopen(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "w+b")
    try:
        try:
            yield file
            with writing(path):
                file.flush()
                _sync(file.fileno(), path)
        finally:
            with writing(path):
                file.close()
        with writing(path):
            os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    with writing(path):
        _sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add one line and force it to the disk. A file that has other hard links is copied first.

    Raises:
        NotWritten: The operating system refuses; the file is as it was.
        RunError: A link, or no regular file.
    """
    refuse_links(path)
    with writing(path):
        if path.exists() and not path.is_file():
            raise RunError(f"{path} is no regular file but a folder, a pipe or a device. {RESTORE}")
        if path.exists() and path.stat().st_nlink > 1:
            replace(path, read_bytes(path, MOST_COMMITS))
        # Unbuffered, because a buffer would try to write the rest of a refused line once more when the file is closed.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            before = os.fstat(handle).st_size
            rest = line.encode() + b"\n"
            try:
                while rest:
                    rest = rest[os.write(handle, rest) :]
                _sync(handle, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
        if not before:
            _sync_folder(path.parent)


def _sync(handle: int, path: Path) -> None:
    """Force a file or folder to the disk, unless that is done at the end of the folder that is being filled (see `whole_folder`)."""
    if _UNSEEN.isdisjoint((path, *path.parents)):
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        _sync(handle, folder)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    """Force everything in a folder to the disk, and the folder itself."""
    for held in (*folder.rglob("*"), folder):
        handle = os.open(held, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Remove a superseded file; it may be gone already."""
    refuse_links(path.parent)
    with writing(path), contextlib.suppress(FileNotFoundError):
        path.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that a killed `replace` of `path` left."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        remove(leftover)


def checksum(tensor: Tensor) -> int:
    """XXH3 (64 bits) over type, shape and bytes of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = xxhash.xxh3_64(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.intdigest()


def checksum_notes(notes: Mapping[str, str]) -> int:
    """CRC-32 over the texts saved beside tensors."""
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> dict[str, int]:
    """Write one safetensors file by `replace`; returns the checksum of each tensor.

    Raises:
        NotWritten: The operating system refuses.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry, because safetensors writes several in any order, and the same run should give the same bytes.
    replace(path, to_safetensors(flat, {"notes": json.dumps(notes or {}, sort_keys=True)}))
    return {name: checksum(tensor) for name, tensor in flat.items()}


KINDS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""Types of numbers by their names in safetensors."""

Expected = Callable[[str, torch.dtype, tuple[int, ...]], str]
"""What is wrong with a tensor of that name, type and shape, in words; empty if nothing is."""


class TensorFile:
    """A safetensors file whose tensors are checked against their recorded checksums as they are read.

    Tensors are read, not mapped: if a mapped file is truncated, the process ends without a message. The reader may modify the tensors.
    """

    def __init__(self, path: Path, sums: Mapping[str, int], notes_sum: int, expected: Expected | None = None):
        """Open `path`.

        Args:
            path: The file.
            sums: Checksum of each tensor.
            notes_sum: Checksum of the texts.
            expected: Says what is wrong with a tensor's type and shape, before it is read.

        Raises:
            RunError: The file is absent, a link inside a run, or not a whole safetensors file.
        """
        self.path, self.sums, self._notes_sum, self._expected = path, sums, notes_sum, expected
        try:
            self._handle, size = opened(path)
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing though the run committed it; restore it from a copy or record again.") from error
        except OSError as error:
            raise RunError(
                f"{path} cannot be read ({error.strerror or error}); restore it from a copy or record again."
            ) from error
        self._close = weakref.finalize(self, os.close, self._handle)
        with self._seam():
            length = int.from_bytes(os.pread(self._handle, 8, 0), "little")
            if size < 8 or length > min(size - 8, MOST_TEXT):
                raise ValueError(f"a head of {length:,} bytes in a file of {size:,}")
            head = json.loads(os.pread(self._handle, length, 8))
            self._texts = head.pop("__metadata__", {})
            self._begin = 8 + length
            self._places = {name: self._place(entry, size - self._begin) for name, entry in head.items()}
            if max((end for *_, end in self._places.values()), default=0) != size - self._begin:
                raise ValueError("its tensors do not fill it")

    def _seam(self) -> contextlib.AbstractContextManager[None]:
        return reading(self.path, RunError, "Restore it from a copy or record again.")

    @staticmethod
    def _place(entry: dict[str, Any], size: int) -> tuple[torch.dtype, tuple[int, ...], int, int]:
        kind, shape, (begin, end) = KINDS[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"a shape {shape} at {begin}..{end}")
        if end > size or end - begin != math.prod(shape) * kind.itemsize:
            raise ValueError(f"a tensor of shape {shape} at {begin}..{end} of {size} bytes")
        return kind, shape, begin, end

    @property
    def notes(self) -> dict[str, str]:
        """The texts saved beside the tensors.

        Raises:
            RunError: The texts differ from those that were committed.
        """
        with self._seam():
            notes = json.loads(self._texts["notes"]) if "notes" in self._texts else None
            if (
                not isinstance(notes, dict)
                or not all(isinstance(text, str) for text in notes.values())
                or checksum_notes(notes) != self._notes_sum
            ):
                raise RunError(
                    f"{self.path} is damaged: its notes are not what was committed. Restore it from a copy or record again."
                )
        return notes

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            RunError: The tensor is absent, or of another type or shape than the run's, or its bytes differ from those that were committed.
        """
        if name not in self._places or name not in self.sums:
            raise RunError(f"{self.path} is damaged: it holds no {name!r}. Restore it from a copy or record again.")
        kind, shape, begin, end = self._places[name]
        if self._expected is not None and (wrong := self._expected(name, kind, shape)):
            raise RunError(f"{self.path} does not fit its run: {wrong}. Restore it from a copy or record again.")
        with self._seam():
            tensor = torch.empty(shape, dtype=kind)
            room = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            done = 0
            while done < end - begin:
                part = os.preadv(self._handle, [room[done:]], self._begin + begin + done)
                if not part:
                    raise RunError(f"{self.path} was cut off while it was read. Restore it from a copy or record again.")
                done += part
        if checksum(tensor) != self.sums[name]:
            raise RunError(f"{self.path} is damaged: {name!r} is not what was committed. Restore it from a copy or record again.")
        return tensor

    def read_all(self) -> dict[str, Tensor]:
        """Every tensor that was committed."""
        return {name: self.read(name) for name in self.sums}


_held: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


def _drop_inherited() -> None:
    for lock in list(_held):
        lock.drop()


# A forked child, such as a loader's worker, would share the lock and hold it on after its parent is killed.
os.register_at_fork(after_in_child=_drop_inherited)


class WriterLock:
    """Held by the one process that writes a run; the kernel frees it when the process ends, however it ends."""

    def __init__(self, path: Path):
        """Take the lock.

        Raises:
            RunLocked: Another process holds it.
            NotWritten: The operating system refuses.
        """
        self._path = path
        make_folder(path.parent)
        refuse_links(path)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise RunError(f"{path} is a link, a folder, a pipe or a device, and no file; take it away.")
        with writing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.drop()
                raise RunLocked(
                    f"{path.parent} is being written by another process; wait for it, or record to another folder."
                ) from error
            except OSError:
                self.drop()
                raise
        _held.add(self)

    def check(self) -> None:
        """Refuse to continue writing if the folder was replaced, or another process may be writing in it.

        Raises:
            RunError: The lock was deleted, or its folder was moved, since it was taken.
        """
        if self._handle < 0:
            return
        try:
            same = os.path.samestat(os.lstat(self._path), os.fstat(self._handle))
        except OSError:
            same = False
        if not same:
            raise RunError(
                f"{self._path.parent} is no longer the folder that is being recorded: it was moved or renamed, or its {self._path.name} was "
                "deleted. Nothing more is written; move it back and resume the recording."
            )

    def release(self) -> None:
        """Release the lock for the next writer."""
        if self._handle >= 0:
            # Not by closing alone: a child that is just being forked has the file open too.
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            self.drop()

    def drop(self) -> None:
        """Close the file, which frees the lock unless another process shares it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
