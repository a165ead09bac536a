"""Tiny ImageNet: 200 classes in 64 x 64 pixels, as it is unpacked; the files stay on disk and are decoded by several threads, batch by batch."""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np

from ..core.errors import UsageError, listed, reading
from ..maths.normalisation import statistics
from .dataset import AbstractDataset
from .disk_images import ImageFiles
from .examples import Split
from .files import folder_at, had_at
from .imagenet import classes_of, folders_in, in_class_folders, split_of
from .pictures import pixels

FOLDER = "tiny-imagenet-200"
SITE = "Tiny ImageNet is at http://cs231n.stanford.edu/tiny-imagenet-200.zip (MD5 90528d7ca1a48142e341f4ef8d21d0de)."
SIDE = 64
MOST = 2**26
"""Bytes of the longest list of annotations that is read; the archive's has half a million."""


@dataclasses.dataclass(frozen=True)
class TinyImageNet(AbstractDataset):
    """Ids are the paths below the folder, with `/`. Classes are the folders of the training part (WordNet ids), sorted. The validation part is the test part.

    Attributes:
        path: The unpacked folder tiny-imagenet-200, or the folder that holds it. Validation images stand as they come, or in class folders.
    """

    path: str
    name: ClassVar[str] = "tiny_imagenet"
    summary: ClassVar[str] = "Tiny ImageNet: 100,000 training images of 200 classes, 64 x 64 pixels, decoded batch by batch"

    def load(self) -> Split:
        """List the files, and decode each once for mean and standard deviation, which are those of the training part."""
        root = folder_at(self.path, SITE)
        if not (root / "train").is_dir() and (root / FOLDER).is_dir():
            root = root / FOLDER
        for part in ("train", "val"):
            if not (root / part).is_dir():
                raise UsageError(f"{root} holds no folder {part}. Give the folder {FOLDER} as it is unpacked. {SITE}")
        with had_at(SITE):
            return self._listed(root)

    def _listed(self, root: pathlib.Path) -> Split:
        classes = classes_of(root / "train")
        train = list(in_class_folders(root / "train", classes, below="images"))
        names = folders_in(root / "val")
        if unknown := [name for name in names if name not in classes]:
            raise UsageError(f"{root / 'val'} has the classes {listed(unknown, len(unknown))}, which {root / 'train'} lacks.")
        numbers = {name: number for number, name in enumerate(classes)}
        test = list(in_class_folders(root / "val", names, numbers, "images")) if names else _annotated(root / "val", numbers)
        files = ImageFiles([str(path) for path, _ in (*train, *test)], _picture, (3, SIDE, SIDE), whole_files=True)
        split = split_of(root, files, train, test, classes)
        mean, std = statistics(split.train.inputs)
        train_part, test_part = (dataclasses.replace(part, mean=mean, std=std) for part in (split.train, split.test))
        return Split(train_part, test_part)


def _picture(path: str) -> np.ndarray:
    return pixels(pathlib.Path(path), path)


def _annotated(folder: pathlib.Path, numbers: dict[str, int]) -> list[tuple[pathlib.Path, int]]:
    """The validation images as they come, with the classes that val_annotations.txt says."""
    path, found = folder / "val_annotations.txt", []
    if not path.is_file():
        raise UsageError(f"{path} is absent, and {folder} holds no class folders. Unpack it again. {SITE}")
    with reading(path, UsageError, "Unpack it again."):
        lines = path.read_bytes()[:MOST].decode("ascii", "replace").splitlines()
    for place, line in enumerate(lines, 1):
        file, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in numbers or not file or "/" in file or "\\" in file:
            raise UsageError(
                f"{path}, line {place}, names no file and class of the training part ({line[:80]!r}). Unpack it again."
            )
        found.append((folder / "images" / file, numbers[wnid]))
    if not found:
        raise UsageError(f"{path} is empty. Unpack it again.")
    return sorted(found)
