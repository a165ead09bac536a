"""STL-10's labelled images, in its official binary format."""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError, listed, reading
from ..core.ids import Ids
from ..maths.normalisation import statistics
from .dataset import AbstractDataset
from .examples import Examples, Split
from .files import first_rows, folder_at, had_at

SIDE = 96
"""Height and width of every image."""
BYTES = 3 * SIDE * SIDE
CLASSES = 10
_FOLDER, _NAMES = "stl10_binary", "class_names.txt"
SITE = "STL-10 is at https://cs.stanford.edu/~acoates/stl10: stl10_binary.tar.gz (MD5 91f7769df0f17e558f3565bffb0c7dfb), to be unpacked."
_MOST = 2**16
"""Bytes of the longest file of names that is read; STL-10's has 60."""


@dataclasses.dataclass(frozen=True)
class STL10(AbstractDataset):
    """Ids are rows of the training file; the numbers of the test rows continue from there.

    Images are mapped from the files and read when they are looked at, so the files must stay as they are meanwhile. The 100,000 images without labels
    are not read.

    Attributes:
        path: Folder of train_X.bin, train_y.bin, test_X.bin, test_y.bin and class_names.txt, or the folder that holds it as stl10_binary.
        limit: Number of training rows to use, from the first one on.
    """

    path: str
    limit: int | None = None
    name: ClassVar[str] = "stl10"
    summary: ClassVar[str] = (
        "STL-10: 5,000 training and 8,000 test colour images of 96 x 96 pixels, 10 classes; the official binary files"
    )

    def load(self) -> Split:
        """Map the images and read the labels; mean and std are those of the training rows taken."""
        folder = folder_at(self.path, SITE)
        if not (folder / "train_X.bin").exists() and (folder / _FOLDER).is_dir():
            folder = folder / _FOLDER
        with had_at(SITE):
            names = _class_names(folder)
            images, labels = _part(folder, "train")
            test_images, test_labels = _part(folder, "test")
        keep = first_rows(self.limit, len(images), str(folder))
        mean, std = statistics(images[:keep])
        train = Examples(Ids(range(keep)), images[:keep], labels[:keep], names, mean, std)
        ids = Ids(range(len(images), len(images) + len(test_images)))
        return Split(train, Examples(ids, test_images, test_labels, names, mean, std))


def _file(folder: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / name
    if not path.is_file():
        raise UsageError(f"{folder} holds no {name}. Give the folder of the unpacked files. {SITE}")
    return path


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
    path = _file(folder, _NAMES)
    with reading(path, UsageError, "Fetch it again."):
        with path.open("rb") as file:
            body = file.read(_MOST + 1)
        try:
            names = tuple(body.decode("ascii").split())
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is no text of English letters. Fetch it again.") from error
    if len(names) != CLASSES or len(set(names)) != CLASSES or len(body) > _MOST:
        raise UsageError(f"{path} names {len(set(names))} classes instead of {CLASSES}. Fetch it again.")
    return names


def _part(folder: pathlib.Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (rows, 3, 96, 96) mapped from their file, and labels from 0 on.

    Raises:
        UsageError: A file is absent, of a wrong size, or holds other labels than 1..10.
    """
    pixels, classes = _file(folder, f"{part}_X.bin"), _file(folder, f"{part}_y.bin")
    with reading(pixels, UsageError, "Fetch it again."):
        size, count = pixels.stat().st_size, classes.stat().st_size
        if not size or size % BYTES:
            raise UsageError(f"{pixels} has {size:,} bytes, which is no number of images of 3 x {SIDE} x {SIDE}. Fetch it again.")
        rows = size // BYTES
        if count != rows:
            raise UsageError(f"{pixels} holds {rows:,} images, but {classes} {count:,} labels. Fetch the pair again.")
        # Private pages: a tensor must be writable, the file never is.
        mapped = np.memmap(pixels, np.uint8, "c", shape=(rows, 3, SIDE, SIDE))
    with reading(classes, UsageError, "Fetch it again."):
        labels = np.fromfile(classes, np.uint8)
    wrong = np.flatnonzero((labels < 1) | (labels > CLASSES))
    if len(wrong):
        raise UsageError(
            f"{classes}: {len(wrong)} labels are outside 1..{CLASSES}; rows {listed(wrong.tolist(), len(wrong))}. Fetch it again."
        )
    # Pixels stand column by column in the file.
    return torch.from_numpy(mapped).transpose(2, 3), torch.from_numpy(labels.astype(np.int64)) - 1
