"""One file per dataset. `catalogue()` finds them and those of other packages; nothing is registered."""

import pathlib
import re
from collections.abc import Mapping

from ..core import options
from ..core.catalogue import Catalogue
from ..core.errors import UsageError
from .dataset import AbstractDataset

DATASETS: Catalogue[AbstractDataset] = Catalogue(
    "dataset",
    AbstractDataset,  # type: ignore[type-abstract]
    __name__,
    asked="`assay record --data NAME`",
    group="assay.datasets",
)
catalogue, find = DATASETS.classes, DATASETS.find


LISTS = re.compile(r"(?<=[:,])(drop|show|categorical|dates|text|missing)=[^,=]*(,[^,=]+)+(?=,[^,=]+=|$)")
"""Options that list several names, which may be separated by commas too: `drop=note,signup` is `drop=note+signup`."""


def parse(spec: str | AbstractDataset, given: Mapping[str, object] | None = None) -> AbstractDataset:
    """The dataset that `"name"` or `"name:option=value,..."` asks for, not yet read; a dataset object is returned as it is.

    In place of a name a path may stand: of a folder of images, of arrays in an .npz file, of a table in a CSV or Parquet file.

    Raises:
        UnknownName: No such dataset or option.
        UsageError: A value that the option does not take, a path that is absent, or options together with a dataset object.
    """
    if isinstance(spec, str):
        spec = LISTS.sub(lambda found: found[0].replace(",", "+"), spec)
        name, texts = options.split(spec)
        if not DATASETS.knows(name):
            if reader := _reader(pathlib.Path(name)):
                return DATASETS.parse(reader, {"path": name, **texts, **(given or {})})
            if "/" in name or pathlib.Path(name).suffix.lower() in _READERS:
                raise UsageError(
                    f"{name} is neither a folder nor a file of arrays or a table that is there; give another path, or a dataset's name."
                )
    return DATASETS.parse(spec, given)


_READERS = {".npz": "arrays", ".csv": "table", ".parquet": "table", ".pq": "table"}


def _reader(path: pathlib.Path) -> str:
    """Name of the dataset that reads what stands at a path; empty if none does."""
    if path.is_dir():
        return "folder"
    return _READERS.get(path.suffix.lower(), "") if path.is_file() else ""
