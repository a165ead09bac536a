"""One file per dataset. `catalogue()` finds them; nothing is registered."""

import functools
import importlib
import inspect
import pathlib
import pkgutil
from collections.abc import Mapping

from ..core import options
from ..core.errors import UnknownName, UsageError
from .dataset import AbstractDataset


@functools.cache
def catalogue() -> dict[str, type[AbstractDataset]]:
    """Every dataset in this package, by name."""
    found: dict[str, type[AbstractDataset]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for cls in vars(module).values():
            if not inspect.isclass(cls) or cls.__module__ != module.__name__ or not issubclass(cls, AbstractDataset):
                continue
            if inspect.isabstract(cls):
                continue
            if cls.name in found:
                raise RuntimeError(f"two datasets are named {cls.name!r}: {found[cls.name]} and {cls}")
            found[cls.name] = cls
    return dict(sorted(found.items()))


def find(name: str) -> type[AbstractDataset]:
    """The dataset of that name.

    Raises:
        UnknownName: With the nearest names.
    """
    if name not in catalogue():
        raise UnknownName("dataset", name, catalogue())
    return catalogue()[name]


def parse(spec: str | AbstractDataset, given: Mapping[str, object] | None = None) -> AbstractDataset:
    """The dataset that `"name"` or `"name:option=value,..."` asks for, not yet read; a dataset is passed through.

    In place of a name a path may stand: of a folder of images, of arrays in an .npz file, of a table in a CSV or Parquet file.

    Raises:
        UnknownName: No such dataset or option.
        UsageError: A value that the option does not take, or a path that is absent.
    """
    if isinstance(spec, AbstractDataset):
        return spec
    name, texts = options.split(spec)
    if name not in catalogue():
        if reader := _reader(pathlib.Path(name)):
            name, texts = reader, {"path": name, **texts}
        elif "/" in name or pathlib.Path(name).suffix.lower() in _READERS:
            raise UsageError(
                f"{name} is neither a folder nor a file of arrays or a table that is there; give another path, or a dataset's name."
            )
    return options.build(find(name), "dataset", {**texts, **(given or {})})


_READERS = {".npz": "arrays", ".csv": "table", ".parquet": "table", ".pq": "table"}


def _reader(path: pathlib.Path) -> str:
    """Name of the dataset that reads what stands at a path; empty if none does."""
    if path.is_dir():
        return "folder"
    return _READERS.get(path.suffix.lower(), "") if path.is_file() else ""
