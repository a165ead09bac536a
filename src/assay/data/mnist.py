"""MNIST, and any set in the same four idx files (Fashion-MNIST, KMNIST): grey images of 10 classes."""

import dataclasses
import gzip
import pathlib
import zlib
from typing import ClassVar

import numpy as np
import torch

from ..core.errors import UsageError
from ..core.ids import Ids
from ..core.npy import SMALL, TIMES
from ..maths import draws
from ..maths.normalisation import statistics
from . import labels as given
from .dataset import AbstractDataset
from .examples import Examples, Split
from .files import first_rows, folder_at, had_at

_DIGITS = tuple("0123456789")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclasses.dataclass(frozen=True)
class Source:
    """A set in the four idx files.

    Attributes:
        classes: Names of the classes.
        site: Where the files are to be had.
        md5: Checksum of each with `.gz`, in the order of `FILES`.
    """

    classes: tuple[str, ...]
    site: str
    md5: tuple[str, str, str, str]

    @property
    def words(self) -> str:
        """Where the files are to be had, and their checksums."""
        files = ", ".join(f"{name}.gz (MD5 {md5})" for name, md5 in zip(FILES, self.md5, strict=True))
        return f"The four files are at {self.site}: {files}."


@dataclasses.dataclass(frozen=True)
class MNIST(AbstractDataset):
    """Ids are rows of the training file; the numbers of the test rows continue from there.

    Attributes:
        path: Folder of the four files, each as it is or with `.gz` (the plain one is read if both are there).
        limit: Number of training rows to use, from the first one on.
        permute: Random seed of one order of the pixels, in which those of every image stand (permuted MNIST); None leaves them.
    """

    path: str
    limit: int | None = None
    permute: int | None = None
    name: ClassVar[str] = "mnist"
    summary: ClassVar[str] = (
        "MNIST or a set in its format: the four idx files in a folder, gzipped or not; permute=SEED shuffles pixels"
    )
    source: ClassVar[Source] = Source(
        _DIGITS,
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    )

    def load(self) -> Split:
        """Read the four files; mean and std are those of the training rows taken."""
        return load(self.source, self.path, self.limit, self.permute)


def load(source: Source, path: str, limit: int | None, permute: int | None) -> Split:
    """Read four idx files.

    Args:
        source: Names of the classes, and where the files are to be had.
        path: Their folder.
        limit: Number of training rows to use.
        permute: Random seed of the order of the pixels; None leaves them.

    Raises:
        UsageError: A file is absent or damaged, or they do not go together.
    """
    folder = folder_at(path, source.words)
    with had_at(source.words):
        images, labels = _part(source, folder, "train")
        test_images, test_labels = _part(source, folder, "t10k")
    if images.shape[1:] != test_images.shape[1:]:
        raise UsageError(f"{folder}: training images are {images.shape[1:]}, test images {test_images.shape[1:]}.")
    keep = first_rows(limit, len(images), str(folder))
    inputs, test_inputs = (torch.from_numpy(part)[:, None] for part in (images[:keep], test_images))
    if permute is not None:
        order = draws.permutation(np.arange(images[0].size, dtype=np.uint64), permute, "order of pixels")
        inputs, test_inputs = (part.flatten(1)[:, order].view(part.shape) for part in (inputs, test_inputs))
    mean, std = statistics(inputs)
    train = Examples(Ids(range(keep)), inputs, torch.from_numpy(labels[:keep]), source.classes, mean, std)
    ids = Ids(range(len(images), len(images) + len(test_images)))
    return Split(train, Examples(ids, test_inputs, torch.from_numpy(test_labels), source.classes, mean, std))


def _part(source: Source, folder: pathlib.Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _file(source, folder, f"{part}-images-idx3-ubyte"), _file(source, folder, f"{part}-labels-idx1-ubyte")
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise UsageError(f"{images} holds {len(pixels)} images, but {labels} {len(classes)} labels. Fetch the pair again.")
    origin = given.Origin(str(labels), range(len(classes)))
    return pixels, given.encode(classes.astype(np.int64), source.classes, origin).numpy()


def _file(source: Source, folder: pathlib.Path, name: str) -> pathlib.Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UsageError(
        f"{folder} holds neither {name} nor {name}.gz. Give the folder of the four idx files. {source.site}/{name}.gz is one "
        f"(MD5 {source.md5[FILES.index(name)]})."
    )


def read_idx(path: pathlib.Path, axes: int) -> np.ndarray:
    """The bytes of an idx file (LeCun's format) as a uint8 array of `axes` dimensions.

    Raises:
        UsageError: Wrong magic number, number of axes or length, or a broken gzip stream; names the file.
    """
    magic, head = bytes((0, 0, 8, axes)), 4 + 4 * axes
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            most = max(SMALL, TIMES * path.stat().st_size)
            body = file.read(most + 1)
        if len(body) > most:
            raise UsageError(f"{path} holds more than {most:,} bytes, which its size cannot mean. Fetch it again.")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read ({error}). Fetch it again.") from error
    if body[:4] != magic:
        raise UsageError(
            f"{path} begins with {body[:4].hex() or 'nothing'} instead of {magic.hex()}. "
            f"It is no idx file of bytes with {axes} axes; fetch it again."
        )
    if len(body) < head:
        raise UsageError(f"{path} ends after {len(body)} bytes, inside its head of {head}. Fetch it again.")
    shape = tuple(int(size) for size in np.frombuffer(body, ">u4", axes, 4))
    if 0 in shape:
        raise UsageError(f"{path} announces the shape {shape}, which holds nothing. Fetch it again.")
    expected = head + int(np.prod([int(size) for size in shape], dtype=object))
    if len(body) != expected:
        raise UsageError(f"{path} has {len(body)} bytes, but its head {shape} announces {expected}. Fetch it again.")
    return np.frombuffer(body, np.uint8, offset=head).reshape(shape).copy()
