"""Writing that survives a kill at any moment, and reading that notices damage. The one place where OSError is met."""

import contextlib
import errno
import fcntl
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
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
            errno.ENOTDIR: "a file stands where a folder is needed; choose another folder",
        }.get(error.errno or 0, f"{error.strerror or error}; choose another folder")
        raise NotWritten(f"{path} was not written: {why}. What was saved before is intact.") from error


def make_folder(folder: Path) -> None:
    """The folder and its parents.

    Raises:
        NotWritten: The operating system refuses.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


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
        NotWritten: The operating system refuses. A part of the line may stand at the end; it counts as not written.
    """
    with writing(path), open(path, "ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


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


def checksum(tensor: Tensor) -> int:
    """CRC-32 over the bytes of a tensor."""
    return zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).reshape(-1).numpy())  # type: ignore[arg-type]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> dict[str, int]:
    """One safetensors file by `replace`; the checksum of each tensor."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    replace(path, to_safetensors(flat, dict(notes or {})))
    return {name: checksum(tensor.reshape(-1) if tensor.ndim == 0 else tensor) for name, tensor in flat.items()}


class TensorFile:
    """A safetensors file whose tensors are checked against their recorded checksums as they are read."""

    def __init__(self, path: Path, sums: Mapping[str, int]):
        """Open `path`.

        Raises:
            RunError: Absent, or not a whole safetensors file.
        """
        self.path, self._sums = path, sums
        try:
            self._file = safe_open(path, framework="pt")
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing though the run committed it; restore it from a copy or record again.") from error
        except (SafetensorError, OSError) as error:
            raise RunError(f"{path} is damaged ({error}); restore it from a copy or record again.") from error

    @property
    def notes(self) -> dict[str, str]:
        """The texts saved beside the tensors."""
        return dict(self._file.metadata() or {})

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            RunError: It is absent, or its bytes differ from those that were committed.
        """
        try:
            tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise RunError(f"{self.path} is damaged: no readable {name!r} ({error}). Restore it or record again.") from error
        if name not in self._sums or checksum(tensor.reshape(-1) if tensor.ndim == 0 else tensor) != self._sums[name]:
            raise RunError(f"{self.path} is damaged: {name!r} is not what was committed. Restore it from a copy or record again.")
        return tensor

    def read_all(self) -> dict[str, Tensor]:
        """Every tensor that was committed."""
        return {name: self.read(name) for name in self._sums}


class WriterLock:
    """Held by the one process that writes a run; the kernel frees it when the process ends, however it ends."""

    def __init__(self, path: Path):
        """Take the lock.

        Raises:
            RunLocked: Another process holds it.
        """
        make_folder(path.parent)
        with writing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._handle)
            raise RunLocked(
                f"{path.parent} is being written by another process; wait for it, or record to another folder."
            ) from error

    def release(self) -> None:
        """Let the next writer in."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
