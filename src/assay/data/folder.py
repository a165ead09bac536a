"""A folder of images, one subfolder per class."""

import dataclasses
import functools
import pathlib
import warnings
from typing import ClassVar, Literal

import numpy as np
import torch

from ..core.errors import UsageError, listed
from ..core.ids import Ids
from ..core.npy import SMALL, TIMES
from ..maths.normalisation import statistics
from .dataset import AbstractDataset
from .disk_images import DiskImages, ImageFiles, blocks, decoded_each
from .examples import Examples, Split
from .files import folder_at
from .pictures import Colours, pixels
from .splitting import held_out


@dataclasses.dataclass(frozen=True)
class Folder(AbstractDataset):
    """Ids are the paths below `path`, with `/`. Classes are the subfolders of the training part, sorted.

    Every file at any depth below a class folder must be an image; names that begin with a dot are skipped.

    Attributes:
        path: Holds `train/<class>/...` and `test/<class>/...`; or `<class>/...` if `test` is given.
        test: Fraction of every class that is set aside, drawn by id.
        seed: Random seed of that draw.
        size: Height and width that all images are scaled to, whatever their proportions; without it all must be of one size.
        colours: `rgb` for three channels, `grey` for one; images are converted.
        memory: GB of decoded images that are held in memory by part; the images of a larger part stay on disk and are decoded by several threads, batch by
            batch, to the same results.
        on_error: `refuse` files that are no image that can be read, and files beside the class folders; or `skip` them, and say how many and which.
    """

    path: str
    test: float | None = None
    seed: int = 0
    size: int | None = None
    colours: Colours = "rgb"
    on_error: Literal["refuse", "skip"] = "refuse"
    memory: float = 0.5
    name: ClassVar[str] = "folder"
    summary: ClassVar[str] = "images in one subfolder per class: train/ and test/, or one set with test=FRACTION"

    def __post_init__(self):
        if self.size is not None and self.size < 1:
            raise UsageError(f"size={self.size} is below 1; it is the height and width in pixels.")
        if not self.memory >= 0:
            raise UsageError(f"memory={self.memory} is below 0; it is GB of decoded images.")
        if self.on_error not in ("refuse", "skip"):
            raise UsageError(f"on_error={self.on_error!r} is neither 'refuse' nor 'skip'.")

    def load(self) -> Split:
        """Read every image; mean and std are those of the training part."""
        root, skipped = folder_at(self.path), dict[str, str]()
        stray = skipped if self.on_error == "skip" else None
        parted = (root / "train").is_dir() and (root / "test").is_dir()
        if self.test is None:
            if not parted:
                raise UsageError(f"{root} has no folders train and test. Add them, or give a fraction such as test=0.2.")
            classes = _classes(root / "train", stray)
            unknown = [name for name in _classes(root / "test", stray) if name not in classes]
            if unknown:
                raise UsageError(
                    f"{root / 'test'} has the classes {listed(unknown, len(unknown))}, which {root / 'train'} lacks."
                )
            train, test = (self._read(root, root / part, classes, skipped) for part in ("train", "test"))
        else:
            if parted:
                raise UsageError(f"{root} is split into train and test already; leave out test={self.test}.")
            full = self._read(root, root, _classes(root, stray), skipped)
            aside = held_out(full.ids, full.labels, self.test, self.seed)
            train, test = full.take(~aside), full.take(aside)
        mean, std = statistics(train.inputs)
        if isinstance(test.inputs, DiskImages):
            # A file that cannot be read is known now, and not after the training.
            for _ in blocks(test.inputs):
                pass
        train, test = (dataclasses.replace(part, mean=mean, std=std) for part in (train, test))
        notes: tuple[str, ...] = ()
        if skipped:
            found = listed((f"{name} ({why})" for name, why in skipped.items()), len(skipped))
            notes = (f"{root}: {len(skipped):,} files were skipped, {len(train) + len(test):,} were read: {found}.",)
            warnings.warn(notes[0], stacklevel=2)
        return Split(train, test, notes=notes, drawn=self.test is not None)

    def _read(self, root: pathlib.Path, part: pathlib.Path, classes: list[str], skipped: dict[str, str]) -> Examples:
        for name in classes:
            # A test part may lack a class; a folder without images is a slip in either.
            if (part / name).is_dir() and not _files(part / name):
                raise UsageError(f"{part / name} holds no image. Fill the class folder or remove it.")
        files = [(file, number) for number, name in enumerate(classes) for file in _files(part / name)]
        read = functools.partial(
            _picture,
            colours=self.colours,
            size=self.size,
            cure="" if self.on_error == "skip" else " Or skip what is no image by on_error=skip.",
        )
        kept, first, on_disk = np.empty(0, np.uint8), None, False
        good: list[tuple[pathlib.Path, int]] = []
        for (file, number), image in zip(files, decoded_each(read, [str(file) for file, _ in files]), strict=True):
            if isinstance(image, UsageError):
                if self.on_error == "refuse":
                    raise image
                skipped[file.relative_to(root).as_posix()] = str(image).removeprefix(f"{file} ").partition(". ")[0]
                continue
            if first is None:
                first = image.shape
                _check_memory(part, [file for file, _ in files], image.nbytes)
                on_disk = image.nbytes * len(files) > self.memory * 1e9
                if on_disk and self.on_error == "refuse":
                    # The others are seen when mean and standard deviation are counted.
                    good = files
                    break
                if not on_disk:
                    kept = np.empty((len(files), *first), np.uint8)
            if image.shape != first:
                one, other = (" x ".join(map(str, shape[1:])) for shape in (first, image.shape))
                raise UsageError(f"{good[0][0]} is {one} pixels, {file} is {other}. Give size= to scale all images to one size.")
            if not on_disk:
                kept[len(good)] = image
            good.append((file, number))
        empty = [
            name
            for place, name in enumerate(classes)
            if (part / name).is_dir() and not any(number == place for _, number in good)
        ]
        if empty:
            raise UsageError(f"{part / empty[0]} holds no image that can be read. Fill the class folder or remove it.")
        ids = Ids([file.relative_to(root).as_posix() for file, _ in good])
        labels = torch.tensor([number for _, number in good])
        if on_disk and first is not None:
            inputs: torch.Tensor = DiskImages(ImageFiles([str(file) for file, _ in good], read, first))
        else:
            inputs = torch.from_numpy(kept[: len(good)])
        return Examples(ids, inputs, labels, tuple(classes))


def _picture(path: str, colours: Colours, size: int | None, cure: str) -> np.ndarray:
    """One file, whose error says what else may be done."""
    try:
        return pixels(pathlib.Path(path), path, colours, size)
    except UsageError as error:
        raise UsageError(f"{error}{cure}") from error


def _check_memory(part: pathlib.Path, files: list[pathlib.Path], each: int) -> None:
    """Refuse pictures that take far more memory than their files can mean, before they are all read."""
    sizes = sum(file.stat().st_size for file in files)
    if each * len(files) > max(4 * SMALL, TIMES * sizes):
        raise UsageError(
            f"{part}: {len(files):,} pictures of the first one's size take {each * len(files) / 1e9:.1f} GB in memory, their files "
            f"{sizes / 1e6:.1f} MB on disk. Give size= to scale them while they are read."
        )


def _classes(part: pathlib.Path, skipped: dict[str, str] | None = None) -> list[str]:
    """Names of the class folders; files beside them are refused, or noted in `skipped` and passed over."""
    shown = sorted(entry for entry in part.iterdir() if not entry.name.startswith("."))
    stray = [entry.name for entry in shown if not entry.is_dir()]
    if stray and skipped is None:
        raise UsageError(
            f"{part} holds {listed(stray, len(stray))} beside the class folders. Move files into the folder of their class, or skip them by on_error=skip."
        )
    if skipped is not None:
        skipped |= dict.fromkeys(stray, "beside the class folders")
        shown = [entry for entry in shown if entry.is_dir()]
    if len(shown) < 2:
        raise UsageError(f"{part} holds {len(shown)} class folders. Give at least two, each with the images of one class.")
    return [entry.name for entry in shown]


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below, sorted by path; none for a class that this part does not have."""
    if not folder.is_dir():
        return []
    below = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts))
