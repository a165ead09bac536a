"""CIFAR-10 from the official Python archive or from Parquet, with any label column of the latter (CIFAR-10N)."""

import dataclasses
import io
import pathlib
import pickle
import re
import tarfile
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ..core.errors import UnknownName, UsageError, some
from ..core.ids import Ids
from ..maths.normalisation import statistics
from . import labels as given
from .dataset import AbstractDataset
from .examples import Examples, Split
from .files import first_rows
from .pictures import pixels

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FOLDER, _ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TRUE = "label"


@dataclasses.dataclass(frozen=True)
class CIFAR10(AbstractDataset):
    """Ids are rows of the training set; the test rows are counted on from there.

    Attributes:
        path: The archive, its unpacked folder, a folder of `train.parquet` and `test.parquet` (or of Hugging Face's shards
            `train-00000-of-00001.parquet`, also one folder further down), or a folder that holds one of these.
        labels: Column of the given training labels. With another than `label`, `label` is the truth. Test labels are `label`.
        limit: Take the first so many training rows only.
    """

    path: str
    labels: str = _TRUE
    limit: int | None = None
    name: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "CIFAR-10 from the Python archive or Parquet; labels=COLUMN for human labels (CIFAR-10N)"

    def load(self) -> Split:
        """Read both parts; mean and std are those of the training rows taken."""
        root = pathlib.Path(self.path).expanduser()
        if not root.exists():
            raise UsageError(f"{root} is absent. Give the path of the archive, its folder, or a folder of Parquet files.")
        archive, shards = _archive(root), _shards(root, "train")
        if archive is not None and shards:
            raise UsageError(f"{root} holds both {archive.name} and {shards[0].name}. Give the path of the one to read.")
        if archive is not None:
            return self._from_archive(archive)
        if shards:
            return self._from_parquet(root, shards)
        raise UsageError(
            f"{root} is no CIFAR-10: it holds neither {_FOLDER}, {_ARCHIVE} nor Parquet files. Give the path of one."
        )

    def _from_archive(self, archive: pathlib.Path) -> Split:
        if self.labels != _TRUE:
            raise UnknownName(f"label column of {archive}", self.labels, [_TRUE])
        bodies = _members(archive)
        names = _unpickled(bodies["batches.meta"], f"{archive}: batches.meta").get(b"label_names")
        if not isinstance(names, list) or [_text(name) for name in names] != list(_CLASSES):
            raise UsageError(f"{archive}: batches.meta names the classes {names!r} instead of those of CIFAR-10.")
        batches = [_batch(bodies[name], f"{archive}: {name}") for name in _TRAIN]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        keep = first_rows(self.limit, len(images), str(archive))
        test_images, test_labels = _batch(bodies["test_batch"], f"{archive}: test_batch")
        return _split(images[:keep], labels[:keep], None, test_images, test_labels, len(images))

    def _from_parquet(self, root: pathlib.Path, shards: list[pathlib.Path]) -> Split:
        tests = _shards(root, "test")
        if not tests:
            raise UsageError(f"{root} holds {shards[0].name}, but no test.parquet or test-*.parquet beside it.")
        columns = (self.labels,) if self.labels == _TRUE else (self.labels, _TRUE)
        rows = _rows(shards)
        keep = first_rows(self.limit, rows, str(root))
        images, *labels = _table(shards, columns, keep)
        test_images, test_labels = _table(tests, (_TRUE,), _rows(tests))
        return _split(images, labels[0], labels[1] if len(labels) == 2 else None, test_images, test_labels, rows)


def _split(
    images: np.ndarray, labels: np.ndarray, truth: np.ndarray | None, test_images: np.ndarray, test_labels: np.ndarray, rows: int
) -> Split:
    inputs = torch.from_numpy(images)
    mean, std = statistics(inputs)
    train = Examples(Ids(range(len(images))), inputs, torch.from_numpy(labels), _CLASSES, mean, std)
    test_ids = Ids(range(rows, rows + len(test_images)))
    test = Examples(test_ids, torch.from_numpy(test_images), torch.from_numpy(test_labels), _CLASSES, mean, std)
    return Split(train, test, torch.from_numpy(truth) if truth is not None else None)


# The official archive


def _archive(root: pathlib.Path) -> pathlib.Path | None:
    if root.is_file():
        return root
    if (root / _TRAIN[0]).is_file():
        return root
    return next((path for path in (root / _FOLDER, root / _ARCHIVE) if path.exists()), None)


def _members(archive: pathlib.Path) -> dict[str, bytes]:
    """The seven pickles by name, from the folder or the tar file; nothing is unpacked to disk."""
    wanted = (*_TRAIN, "test_batch", "batches.meta")
    bodies: dict[str, bytes] = {}
    try:
        if archive.is_dir():
            bodies = {name: (archive / name).read_bytes() for name in wanted if (archive / name).is_file()}
        else:
            with tarfile.open(archive) as tar:
                for member in tar:
                    name = pathlib.PurePosixPath(member.name).name
                    file = tar.extractfile(member) if name in wanted else None
                    if file is not None:
                        bodies[name] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UsageError(f"{archive} cannot be read as the CIFAR-10 archive ({error}). Fetch it again.") from error
    absent = [name for name in wanted if name not in bodies]
    if absent:
        raise UsageError(f"{archive} lacks {', '.join(absent)}. Fetch it again.")
    return bodies


def _batch(body: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickled(body, source)
    data, labels = content.get(b"data"), content.get(b"labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UsageError(f"{source}: `data` is not a uint8 array of rows of 3,072 bytes. Fetch the archive again.")
    if not isinstance(labels, list):
        raise UsageError(f"{source}: `labels` is not a list. Fetch the archive again.")
    origin = given.Origin(source, range(len(data)))
    numbers = given.encode(given.checked(labels, origin), _CLASSES, origin)
    return data.reshape(-1, 3, 32, 32), numbers.numpy()


def _unpickled(body: bytes, source: str) -> dict[Any, Any]:
    try:
        content = _Unpickler(io.BytesIO(body), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise almost anything
        raise UsageError(f"{source} is not a pickle of CIFAR-10 ({error}). Fetch the archive again.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{source} holds a {type(content).__name__} instead of a dictionary. Fetch the archive again.")
    # Python 2 wrote the keys as bytes; a pickle written again by Python 3 has them as text.
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


def _text(value: object) -> object:
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Unpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and plain values. Any other name in the pickle is refused, so that none of it can run code."""

    def find_class(self, module: str, name: str) -> Any:
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need")
        return _ALLOWED[key]


def _dtype(code: str | bytes, align: object = False, copy: object = False) -> np.dtype:
    # Old pickles say 0 and 1, of which NumPy warns.
    return np.dtype(_text(code), align=bool(align), copy=bool(copy))  # type: ignore[call-overload]


def _encode(text: str, encoding: str) -> bytes:
    if _text(encoding) != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy.core.numeric", "_frombuffer"): np._core.numeric._frombuffer,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytearray"): bytearray,
}


# Parquet


def _shards(root: pathlib.Path, part: str) -> list[pathlib.Path]:
    if (root / f"{part}.parquet").is_file():
        return [root / f"{part}.parquet"]
    shards = sorted(root.glob(f"{part}-*.parquet")) or sorted(root.glob(f"*/{part}-*.parquet"))
    if len({shard.parent for shard in shards}) > 1:
        raise UsageError(f"{root} holds {part} shards in several folders. Give the path of the one to read.")
    of = re.fullmatch(rf"{part}-\d+-of-(\d+)", shards[0].stem) if shards else None
    if of and int(of[1]) != len(shards):
        raise UsageError(f"{shards[0].parent} holds {len(shards)} of the {int(of[1])} {part} shards. Fetch the others too.")
    return shards


def _rows(shards: Sequence[pathlib.Path]) -> int:
    from pyarrow import ArrowException, parquet

    rows = 0
    for shard in shards:
        try:
            rows += parquet.read_metadata(shard).num_rows
        except (OSError, ArrowException) as error:
            raise UsageError(f"{shard} cannot be read as Parquet ({error}). Fetch it again.") from error
    return rows


def _table(shards: Sequence[pathlib.Path], columns: Sequence[str], keep: int) -> list[np.ndarray]:
    """Images and label columns of the first `keep` rows."""
    from pyarrow import ArrowException, parquet

    images = np.empty((keep, 3, 32, 32), np.uint8)
    labels: list[list[np.ndarray]] = [[] for _ in columns]
    done = 0
    for shard in shards:
        start = done
        try:
            with parquet.ParquetFile(shard) as file:
                _expect(file.schema_arrow, columns, shard)
                for batch in file.iter_batches(1000, columns=["img", *columns]):
                    taken = batch.slice(0, keep - done)
                    if not len(taken):
                        break
                    places = range(done - start, done - start + len(taken))
                    for numbers, column in zip(labels, columns, strict=True):
                        origin = given.Origin(f"{shard}, column {column!r}", places)
                        values = given.checked(taken.column(column).to_pylist(), origin)
                        numbers.append(given.encode(values, _CLASSES, origin).numpy())
                    for row, cell in zip(places, taken.column("img").to_pylist(), strict=True):
                        images[start + row] = _image(cell, f"{shard}, row {row}")
                    done += len(taken)
        except (OSError, ArrowException) as error:
            raise UsageError(f"{shard} cannot be read as Parquet ({error}). Fetch it again.") from error
    return [images, *(np.concatenate(numbers) for numbers in labels)]


def _expect(schema: Any, columns: Sequence[str], shard: pathlib.Path) -> None:
    import pyarrow

    whole = [field.name for field in schema if pyarrow.types.is_integer(field.type)]
    for column in columns:
        if column not in schema.names:
            raise UnknownName(f"label column of {shard}", column, whole)
        if column not in whole:
            raise UsageError(
                f"{shard}: column {column!r} holds {schema.field(column).type}, no class numbers. "
                f"Columns that do: {some(whole, len(whole))}."
            )
    if "img" not in schema.names:
        raise UsageError(f"{shard} has no column 'img'; its columns are {', '.join(schema.names)}.")


def _image(cell: object, name: str) -> np.ndarray:
    body = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(body, bytes):
        raise UsageError(f"{name}: `img` holds no image bytes. Fetch the Parquet file that embeds the images.")
    image = pixels(body, f"{name}: the image")
    if image.shape != (3, 32, 32):
        raise UsageError(f"{name}: the image is {image.shape[1]} x {image.shape[2]} pixels instead of 32 x 32.")
    return image
