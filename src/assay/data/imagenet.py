"""ImageNet (ILSVRC 2012) as folders of JPEG files, which stay on disk and are decoded by several threads, batch by batch."""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch

from ..core.errors import MOST_WORDS, UsageError, listed, reading
from ..core.ids import Ids
from .dataset import AbstractDataset
from .disk_images import DiskImages, ImageFiles
from .examples import Examples, Split
from .files import folder_at, had_at
from .pictures import pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the training images, as they are used everywhere."""
SITE = (
    "ImageNet is at https://image-net.org, behind an account: ILSVRC2012_img_train.tar (MD5 1d675b47d978889d74fa0da5fadfb00e), ILSVRC2012_img_val.tar "
    "(MD5 29b22e2961454d5413ddabcf34fc5622) and ILSVRC2012_devkit_t12.tar.gz (MD5 fa75699e90414af021442c21a62c3abf)."
)
DEVKIT = "ILSVRC2012_devkit_t12"
MOST = 2**26
"""Bytes of the largest file of the development kit that is read."""


@dataclasses.dataclass(frozen=True)
class ImageNet(AbstractDataset):
    """Ids are the paths below `path`, with `/`. Classes are the folders of the training part (WordNet ids such as n01440764), sorted; it may hold some of the
    1,000 only.

    A file is decoded when it is used, and named then if it cannot be. Images are scaled so that their shorter side is 8/7 of `size`, and the middle is
    taken (256 and 224 pixels by default). Mean and standard deviation are the usual constants.

    Attributes:
        path: Holds `train/<class>/*.JPEG` and `val/<class>/*.JPEG`; or `val/*.JPEG` as it comes, beside the unpacked development kit ILSVRC2012_devkit_t12.
        size: Height and width of an image, in pixels.
    """

    path: str
    size: int = 224
    name: ClassVar[str] = "imagenet"
    summary: ClassVar[str] = "ImageNet (ILSVRC 2012): folders train and val, decoded batch by batch and never all in memory"

    def __post_init__(self):
        if self.size < 1:
            raise UsageError(f"size={self.size} is below 1; it is the height and width in pixels.")

    def load(self) -> Split:
        """List the files; none is decoded yet."""
        root = folder_at(self.path, SITE)
        for part in ("train", "val"):
            if not (root / part).is_dir():
                raise UsageError(f"{root} holds no folder {part}. Give the folder of train and val. {SITE}")
        with had_at(SITE):
            return self._listed(root)

    def _listed(self, root: pathlib.Path) -> Split:
        classes = classes_of(root / "train")
        train = list(in_class_folders(root / "train", classes))
        names = folders_in(root / "val")
        if names:
            if unknown := [name for name in names if name not in classes]:
                raise UsageError(f"{root / 'val'} has the classes {listed(unknown, len(unknown))}, which {root / 'train'} lacks.")
            test = list(in_class_folders(root / "val", names, {name: number for number, name in enumerate(classes)}))
        else:
            test = _official(root, classes)
        read = functools.partial(_picture, size=self.size)
        files = ImageFiles([str(path) for path, _ in (*train, *test)], read, (3, self.size, self.size), whole_files=True)
        return split_of(root, files, train, test, classes)


def split_of(
    root: pathlib.Path,
    files: ImageFiles,
    train: Sequence[tuple[pathlib.Path, int]],
    test: Sequence[tuple[pathlib.Path, int]],
    classes: Sequence[str],
) -> Split:
    """Both parts of images on disk, the training part before the other in `files`, normalised by ImageNet's constants."""
    parts, done = [], 0
    for part in (train, test):
        ids = Ids([path.relative_to(root).as_posix() for path, _ in part])
        images = DiskImages(files, np.arange(done, done + len(part)))
        parts.append(Examples(ids, images, torch.tensor([number for _, number in part]), tuple(classes), MEAN, STD))
        done += len(part)
    return Split(parts[0], parts[1])


def classes_of(folder: pathlib.Path) -> list[str]:
    """The class folders of a training part, sorted.

    Raises:
        UsageError: There are fewer than two.
    """
    names = folders_in(folder)
    if len(names) < 2:
        raise UsageError(f"{folder} holds {len(names)} class folders. Give at least two, each with the images of one class.")
    return names


def folders_in(folder: pathlib.Path) -> list[str]:
    """Names of the folders that are classes, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if re.fullmatch(r"n\d{8}", entry.name) and entry.is_dir())


def in_class_folders(
    folder: pathlib.Path, names: Sequence[str], numbers: dict[str, int] | None = None, below: str = ""
) -> Iterator[tuple[pathlib.Path, int]]:
    """The JPEG files of the class folders with their classes, sorted within each.

    Args:
        folder: Holds the class folders.
        names: The class folders.
        numbers: Class of each; None for their places in `names`.
        below: Folder within each that holds the files.

    Raises:
        UsageError: A class folder holds none.
    """
    for place, name in enumerate(names):
        held = folder / name / below if below and (folder / name / below).is_dir() else folder / name
        # Of a million files a look at each takes minutes.
        files = sorted(entry for entry in os.listdir(held) if entry.lower().endswith((".jpeg", ".jpg")))
        if not files:
            raise UsageError(f"{held} holds no JPEG file. Unpack it again.")
        yield from ((held / file, place if numbers is None else numbers[name]) for file in files)


def _picture(path: str, size: int) -> np.ndarray:
    return pixels(pathlib.Path(path), path, size=size, cut=True)


def _official(root: pathlib.Path, classes: Sequence[str]) -> list[tuple[pathlib.Path, int]]:
    """The validation images as they come, with the classes that the development kit says; those of classes that are not trained on are left out."""
    kit = next(
        (place / "data" for place in (root / DEVKIT, root, root.parent / DEVKIT) if (place / "data" / "meta.mat").is_file()), None
    )
    if kit is None:
        raise UsageError(
            f"{root / 'val'} holds no class folders, and no development kit says which class each file has. Unpack {DEVKIT}.tar.gz beside it, or sort the files "
            f"into class folders. {SITE}"
        )
    wnid_of, truth = _synsets(kit / "meta.mat"), kit / "ILSVRC2012_validation_ground_truth.txt"
    with reading(truth, UsageError, "Unpack the development kit again."):
        lines = truth.read_bytes()[:MOST].split()
    if not all(line.isdigit() and int(line[:9]) in wnid_of for line in lines):
        raise UsageError(f"{truth} is no list of class numbers. Unpack the development kit again.")
    number = {name: place for place, name in enumerate(classes)}
    found = []
    for file in sorted(os.listdir(root / "val")):
        if not (at := re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", file)):
            continue
        if not 1 <= int(at[1]) <= len(lines):
            raise UsageError(f"{root / 'val' / file} is beyond the {len(lines):,} classes of {truth}. Unpack both again.")
        wnid = wnid_of[int(lines[int(at[1]) - 1])]
        if wnid in number:
            found.append((root / "val" / file, number[wnid]))
    if not found:
        raise UsageError(
            f"{root / 'val'} holds no file such as ILSVRC2012_val_00000001.JPEG of a class that is trained on. Unpack it again. {SITE}"
        )
    return found


def _synsets(path: pathlib.Path) -> dict[int, str]:
    """WordNet id of each class number of the development kit."""
    from scipy import io

    with reading(path, UsageError, "Unpack the development kit again."):
        if path.stat().st_size > MOST:
            raise UsageError(
                f"{path} has {path.stat().st_size:,} bytes, which that file has not. Unpack the development kit again."
            )
        try:
            synsets = io.loadmat(path, variable_names=("synsets",), squeeze_me=True)["synsets"]
            return {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets.ravel()}
        except Exception as error:  # a damaged file may raise almost anything
            words = " ".join(str(error).split())[:MOST_WORDS]
            raise UsageError(f"{path} names no classes ({words}). Unpack the development kit again.") from error
