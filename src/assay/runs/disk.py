"""Writing that survives a kill at any moment, and reading that notices damage. The one place where OSError is met."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..core.errors import NotWritten, RunError, RunLocked


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Map what the operating system says while `path` is written.

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
    with writing(folder):
        new = [made for made in (folder, *folder.parents) if not made.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in new:
            _sync_folder(made.parent)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which stands at `folder` once the block has ended well, and nowhere if it has not.

    Raises:
        NotWritten: The operating system refuses, or something stands at `folder` by then.
    """
    folder = folder.absolute()
    make_folder(folder.parent)
    with writing(folder):
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        yield scratch / folder.name
        with writing(folder):
            os.rename(scratch / folder.name, folder)
            _sync_folder(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace(path: Path, body: bytes) -> None:
    """Put `body` at `path` so that a reader sees the old file or the new one, never a part: temp, fsync, rename, fsync.

    Raises:
        NotWritten: The operating system refuses; the old file is intact and no temporary file stays.
    """
    make_folder(path.parent)
    with writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add one line and force it to the disk.

    Raises:
        NotWritten: The operating system refuses; the file is as it was.
    """
    with writing(path):
        # Unbuffered, because a buffer would try to write the rest of a refused line once more when the file is closed.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            rest = line.encode() + b"\n"
            try:
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
        if not before:
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Take a superseded file away; one that is gone already is fine."""
    with writing(path), contextlib.suppress(FileNotFoundError):
        path.unlink()


def remove_leftovers(path: Path) -> None:
    """Take away what a killed `replace` of `path` left behind."""
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
    """One safetensors file by `replace`; the checksum of each tensor.

    Raises:
        NotWritten: The operating system refuses.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry, because safetensors writes several in any order, and the same run should give the same bytes.
    replace(path, to_safetensors(flat, {"notes": json.dumps(notes or {}, sort_keys=True)}))
    return {name: checksum(tensor) for name, tensor in flat.items()}


class TensorFile:
    """A safetensors file whose tensors are checked against their recorded checksums as they are read."""

    def __init__(self, path: Path, sums: Mapping[str, int], notes_sum: int, *, lasting: bool = False):
        """Open `path`. With `lasting`, what is read can be written into and then read again.

        Raises:
            RunError: Absent, or not a whole safetensors file.
        """
        self.path, self.sums, self._notes_sum, self._lasting = path, sums, notes_sum, lasting
        try:
            self._file = safe_open(path, framework="pt")
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing though the run committed it; restore it from a copy or record again.") from error
        except (SafetensorError, OSError) as error:
            raise RunError(f"{path} is damaged ({error}); restore it from a copy or record again.") from error

    @property
    def notes(self) -> dict[str, str]:
        """The texts saved beside the tensors.

        Raises:
            RunError: They differ from those that were committed.
        """
        try:
            notes = json.loads((self._file.metadata() or {})["notes"])
        except (KeyError, ValueError):
            notes = None
        if notes is None or checksum_notes(notes) != self._notes_sum:
            raise RunError(
                f"{self.path} is damaged: its notes are not what was committed. Restore it from a copy or record again."
            )
        return notes

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            RunError: It is absent, or its bytes differ from those that were committed.
        """
        try:
            tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise RunError(f"{self.path} is damaged: no readable {name!r} ({error}). Restore it or record again.") from error
        if name not in self.sums or checksum(tensor) != self.sums[name]:
            raise RunError(f"{self.path} is damaged: {name!r} is not what was committed. Restore it from a copy or record again.")
        # Tensors of one opened file share its memory.
        return tensor.clone() if self._lasting else tensor

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
        make_folder(path.parent)
        with writing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
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

    def release(self) -> None:
        """Let the next writer in."""
        if self._handle >= 0:
            # Not by closing alone: a child that is just being forked has the file open too.
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            self.drop()

    def drop(self) -> None:
        """Close the file, which frees the lock unless another process shares it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
