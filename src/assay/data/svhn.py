"""SVHN's cropped digits (format 2), from the official MATLAB files."""

import dataclasses
import math
import pathlib
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.errors import MOST_WORDS, UsageError, listed, reading
from ..core.ids import Ids
from ..core.npy import SMALL, TIMES
from ..maths.normalisation import statistics
from .dataset import AbstractDataset
from .examples import Examples, Split
from .files import first_rows, folder_at, had_at

PLACE = "http://ufldl.stanford.edu/housenumbers"
MD5 = {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373", "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}
SITE = f"The files are at {PLACE}: {', '.join(f'{name} (MD5 {md5})' for name, md5 in MD5.items())}."
CLASSES = tuple("0123456789")


@dataclasses.dataclass(frozen=True)
class SVHN(AbstractDataset):
    """Ids are rows of the training file; the numbers of the test rows continue from there. The digit 0, which the files number 10, is class 0.

    Attributes:
        path: Folder of train_32x32.mat and test_32x32.mat.
        limit: Number of training rows to use, from the first one on.
    """

    path: str
    limit: int | None = None
    name: ClassVar[str] = "svhn"
    summary: ClassVar[str] = (
        "SVHN: 73,257 training and 26,032 test colour images of digits, 32 x 32 pixels; the official .mat files"
    )

    def load(self) -> Split:
        """Read both files; mean and std are those of the training rows taken."""
        folder = folder_at(self.path, SITE)
        with had_at(SITE):
            images, labels = _part(folder / "train_32x32.mat")
            test_images, test_labels = _part(folder / "test_32x32.mat")
        keep = first_rows(self.limit, len(images), str(folder))
        mean, std = statistics(images[:keep])
        train = Examples(Ids(range(keep)), images[:keep], labels[:keep], CLASSES, mean, std)
        ids = Ids(range(len(images), len(images) + len(test_images)))
        return Split(train, Examples(ids, test_images, test_labels, CLASSES, mean, std))


def _part(path: pathlib.Path) -> tuple[Tensor, Tensor]:
    """Images (rows, 3, 32, 32) and digits of one file.

    Raises:
        UsageError: The file is absent or damaged, or holds something else.
    """
    # It imports much that nothing else needs.
    from scipy import io

    if not path.is_file():
        raise UsageError(f"{path} is absent. {PLACE}/{path.name} is to be fetched (MD5 {MD5[path.name]}).")
    with reading(path, UsageError, "Fetch it again."):
        try:
            shapes = {name: shape for name, shape, _ in io.whosmat(path)}
            if sum(math.prod(shapes.get(name, ())) for name in ("X", "y")) > max(SMALL, TIMES * path.stat().st_size):
                raise ValueError(f"it claims arrays of {shapes}")
            content = io.loadmat(path, variable_names=("X", "y"))
        except Exception as error:  # a damaged file may raise almost anything
            words = " ".join(str(error).split())[:MOST_WORDS]
            raise UsageError(f"{path} cannot be read as a MATLAB file ({words}). Fetch it again.") from error
    images, labels = content.get("X"), content.get("y")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise UsageError(f"{path}: X is no array of 32 x 32 x 3 x rows bytes. Fetch it again.")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.size != images.shape[3]:
        raise UsageError(f"{path}: y is no whole number for each of {images.shape[3]:,} images. Fetch it again.")
    labels = labels.reshape(-1).astype(np.int64)
    wrong = np.flatnonzero((labels < 1) | (labels > 10))
    if len(wrong):
        raise UsageError(
            f"{path}: {len(wrong)} labels are outside 1..10; rows {listed(wrong.tolist(), len(wrong))}. Fetch it again."
        )
    return torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))), torch.from_numpy(labels % 10)
