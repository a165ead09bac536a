"""The formats of CIFAR-10 and CIFAR-100: the official Python archives, and Parquet with any label column."""

import bz2
import dataclasses
import gzip
import io
import lzma
import pathlib
import re
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..core.errors import MOST_WORDS, UnknownName, UsageError, listed, reading
from ..core.ids import Ids
from ..maths.normalisation import statistics
from . import labels as given
from .examples import Examples, Split
from .files import existing, first_rows, had_at
from .opcodes import content_of
from .pictures import pixels


@dataclasses.dataclass(frozen=True)
class Format:
    """What tells CIFAR-10 and CIFAR-100 apart.

    Attributes:
        title: Name for people.
        folder: Folder inside the archive.
        archive: Name of the archive.
        md5: Its checksum.
        train, test, meta: Names of the pickles.
        names: Key of the class names in `meta`.
        key: Key of the labels in the others.
        column: Column of the true labels in Parquet.
        classes: Names of the classes.
        most_bytes: Bytes of the largest pickle that is read.
    """

    title: str
    folder: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: str
    meta: str
    names: str
    key: str
    column: str
    classes: tuple[str, ...]
    most_bytes: int

    @property
    def site(self) -> str:
        """Where the archive is to be had."""
        return f"{self.title} is at https://www.cs.toronto.edu/~kriz/{self.archive} (MD5 {self.md5})"


def load(format: Format, path: str, labels: str | None, limit: int | None) -> Split:
    """Read both parts; mean and std are those of the training rows taken.

    Args:
        format: Which of the two sets.
        path: The archive, its unpacked folder, a folder of Parquet files, or a folder that holds one of these.
        labels: Column of the given training labels in Parquet; None for the true ones.
        limit: Number of training rows to use.

    Raises:
        UnknownName: There is no such column.
        UsageError: What stands at `path` is not that set, or is damaged.
    """
    cure = f"Give the path of the archive, its folder, or a folder of Parquet files. {format.site}."
    root = existing(path, cure)
    if not root.exists():
        raise UsageError(f"{root} is absent. {cure}")
    with had_at(f"{format.site}."):
        return _read(format, root, labels, limit)


def _read(format: Format, root: pathlib.Path, labels: str | None, limit: int | None) -> Split:
    archive, shards = _archive(format, root), _shards(root, "train")
    if archive is not None and shards:
        raise UsageError(f"{root} holds both {archive.name} and {shards[0].name}. Give the path of the one to read.")
    if archive is not None:
        with reading(archive, UsageError, "Fetch it again."):
            return _from_archive(format, archive, labels, limit)
    if shards:
        return _from_parquet(format, root, shards, labels, limit)
    raise UsageError(
        f"{root} is no {format.title}: it holds neither {format.folder}, {format.archive} nor Parquet files. Give the path of one. {format.site}."
    )


def _from_archive(format: Format, archive: pathlib.Path, column: str | None, limit: int | None) -> Split:
    if column not in (None, format.column):
        raise UnknownName(f"label column of {archive}", column, [format.column])
    bodies = _members(format, archive)
    names = _content(format, bodies[format.meta], f"{archive}: {format.meta}").get(format.names.encode())
    texts = [_text(name) for name in names] if isinstance(names, list) else []
    if not all(isinstance(text, str) for text in texts) or texts != list(format.classes):
        # Anything but texts is not shown: what a stranger nested has no end when it is written out.
        words = listed(texts, len(texts), 10)[:MOST_WORDS] if all(isinstance(text, str) for text in texts) else "by no texts"
        raise UsageError(
            f"{archive}: {format.meta} names the classes {words or 'by no list'} instead of those of {format.title}."
        )
    batches = [_batch(format, bodies[name], f"{archive}: {name}") for name in format.train]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    keep = first_rows(limit, len(images), str(archive))
    test = _batch(format, bodies[format.test], f"{archive}: {format.test}")
    return _split(format, (images[:keep], labels[:keep], None), test, len(images))


def _from_parquet(format: Format, root: pathlib.Path, shards: list[pathlib.Path], column: str | None, limit: int | None) -> Split:
    tests = _shards(root, "test")
    if not tests:
        raise UsageError(f"{root} holds {shards[0].name}, but no test.parquet or test-*.parquet beside it.")
    given_in = format.column if column is None else column
    columns = (given_in,) if given_in == format.column else (given_in, format.column)
    rows = _rows(shards)
    keep = first_rows(limit, rows, str(root))
    images, *labels = _table(format, shards, columns, keep)
    test_images, test_labels = _table(format, tests, (format.column,), _rows(tests))
    return _split(format, (images, labels[0], labels[1] if len(labels) == 2 else None), (test_images, test_labels), rows)


def _split(
    format: Format,
    train_part: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    test_part: tuple[np.ndarray, np.ndarray],
    rows: int,
) -> Split:
    (images, labels, truth), (test_images, test_labels) = train_part, test_part
    inputs = torch.from_numpy(images)
    mean, std = statistics(inputs)
    train = Examples(Ids(range(len(images))), inputs, torch.from_numpy(labels), format.classes, mean, std)
    test_ids = Ids(range(rows, rows + len(test_images)))
    test = Examples(test_ids, torch.from_numpy(test_images), torch.from_numpy(test_labels), format.classes, mean, std)
    return Split(train, test, torch.from_numpy(truth) if truth is not None else None)


# The official archive


def _archive(format: Format, root: pathlib.Path) -> pathlib.Path | None:
    if root.is_file():
        return root
    if (root / format.train[0]).is_file():
        return root
    return next((path for path in (root / format.folder, root / format.archive) if path.exists()), None)


MOST_UNPACKED = 2 * 2**30
"""Bytes of the largest archive that is gone through; both have 186 million when they are unpacked."""


MOST_READ = 256 * 2**20
"""Bytes that are read of an archive at once at most."""


class _Bounded(io.RawIOBase):
    """A stream that ends in an error instead of giving more bytes than an archive may have."""

    def __init__(self, file: Any, most: int):
        self._file, self._left = file, most

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MOST_READ:
            raise tarfile.ReadError(f"it asks for {size:,} bytes at once")
        body = self._file.read(size)
        self._left -= len(body)
        if self._left < 0:
            raise tarfile.ReadError(f"it holds more than {MOST_UNPACKED:,} bytes")
        return body


def _members(format: Format, archive: pathlib.Path) -> dict[str, bytes]:
    """The pickles by name, from the folder or the tar file; nothing is unpacked to disk."""
    wanted = (*format.train, format.test, format.meta)
    bodies: dict[str, bytes] = {}

    def kept(name: str, size: int, file: Any) -> None:
        if size > format.most_bytes:
            raise UsageError(
                f"{archive}: {name} has {size:,} bytes, which no batch of {format.title} has. Fetch the archive again."
            )
        bodies[name] = file.read(size)

    try:
        if archive.is_dir():
            for name in wanted:
                if (archive / name).is_file():
                    with (archive / name).open("rb") as file:
                        kept(name, (archive / name).stat().st_size, file)
        else:
            with _unpacked(archive) as stream, tarfile.open(fileobj=_Bounded(stream, MOST_UNPACKED), mode="r|") as tar:
                for member in tar:
                    name = pathlib.PurePosixPath(member.name).name
                    if name in wanted and member.isreg():
                        kept(name, member.size, tar.extractfile(member))
                    elif member.size > MOST_UNPACKED:
                        raise tarfile.ReadError(f"it claims {member.size:,} bytes of {name[:80]!r}")
    except UsageError:
        raise
    except Exception as error:  # a damaged archive may raise almost anything
        words = " ".join(str(error).split())[:MOST_WORDS]
        raise UsageError(f"{archive} cannot be read as the {format.title} archive ({words}). Fetch it again.") from error
    absent = [name for name in wanted if name not in bodies]
    if absent:
        raise UsageError(f"{archive} lacks {', '.join(absent)}. Fetch it again.")
    return bodies


def _unpacked(archive: pathlib.Path) -> Any:
    """The bytes of a tar file that may be compressed."""
    with archive.open("rb") as file:
        start = file.read(6)
    kinds = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    return kinds.get(start[:2], open)(archive, "rb")  # type: ignore[operator]


def _batch(format: Format, body: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    content = _content(format, body, source)
    data, labels = content.get(b"data"), content.get(format.key.encode())
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UsageError(f"{source}: `data` is not a uint8 array of rows of 3,072 bytes. Fetch the archive again.")
    if not isinstance(labels, list) or not all(label is None or type(label) in (int, float, str, bytes) for label in labels):
        raise UsageError(f"{source}: `{format.key}` is not a list of numbers. Fetch the archive again.")
    origin = given.Origin(source, range(len(data)))
    numbers = given.encode(given.checked(labels, origin), format.classes, origin)
    return data.reshape(-1, 3, 32, 32), numbers.numpy()


def _content(format: Format, body: bytes, source: str) -> dict[bytes, Any]:
    try:
        content = content_of(body)
    except Exception as error:  # a damaged pickle may raise almost anything
        words = " ".join(str(error).split())[:MOST_WORDS]
        raise UsageError(f"{source} is not a pickle of {format.title} ({words}). Fetch the archive again.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{source} holds a {type(content).__name__} instead of a dictionary. Fetch the archive again.")
    # Python 2 wrote the keys as bytes; a pickle written again by Python 3 has them as text.
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


def _text(value: object) -> object:
    return value.decode("latin1") if isinstance(value, bytes) else value


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
        with reading(shard, UsageError, "Fetch it again."):
            try:
                claimed, size = parquet.read_metadata(shard).num_rows, shard.stat().st_size
            except (OSError, ArrowException) as error:
                raise UsageError(f"{shard} cannot be read as Parquet ({error}). Fetch it again.") from error
            if claimed > max(SMALL_SET, size // SMALLEST_IMAGE):
                raise UsageError(f"{shard} claims {claimed:,} images in {size:,} bytes, which cannot be. Fetch it again.")
            rows += claimed
    return rows


SMALL_SET, SMALLEST_IMAGE = 60_000, 64
"""Images that any file may hold, and the bytes that each takes beyond them; a picture of 32 x 32 points has more."""
MOST_OF_IMAGE = 2**20
"""Bytes of the largest encoded image; those of CIFAR-10 have some 2,500."""


def _table(format: Format, shards: Sequence[pathlib.Path], columns: Sequence[str], keep: int) -> list[np.ndarray]:
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
                for batch in file.iter_batches(200, columns=["img", *columns]):
                    taken = batch.slice(0, keep - done)
                    if not len(taken):
                        break
                    places = range(done - start, done - start + len(taken))
                    for numbers, column in zip(labels, columns, strict=True):
                        origin = given.Origin(f"{shard}, column {column!r}", places)
                        values = given.checked(taken.column(column).to_pylist(), origin)
                        numbers.append(given.encode(values, format.classes, origin).numpy())
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
                f"Columns that do: {listed(whole, len(whole))}."
            )
    if "img" not in schema.names:
        raise UsageError(f"{shard} has no column 'img'; its columns are {', '.join(schema.names)}.")


def _image(cell: object, name: str) -> np.ndarray:
    body = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(body, bytes):
        raise UsageError(f"{name}: `img` holds no image bytes. Fetch the Parquet file that embeds the images.")
    if len(body) > MOST_OF_IMAGE:
        raise UsageError(f"{name}: `img` holds {len(body):,} bytes, which no image of 32 x 32 points has. Fetch the file again.")
    image = pixels(body, f"{name}: the image")
    if image.shape != (3, 32, 32):
        raise UsageError(f"{name}: the image is {image.shape[1]} x {image.shape[2]} pixels instead of 32 x 32.")
    return image
