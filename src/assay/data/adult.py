"""The UCI Adult census table: does a person earn more than 50,000 dollars a year?"""

import dataclasses
import pathlib
from typing import ClassVar

from ..core.errors import UsageError
from . import table
from .dataset import AbstractDataset
from .examples import Split
from .files import folder_at

COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
)
"""The 14 inputs in the order of the file, and the label."""

SITE = (
    "UCI Adult is at https://archive.ics.uci.edu/ml/machine-learning-databases/adult/: adult.data (SHA-256 "
    "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d), adult.test (SHA-256 a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05)."
)
_PAIRS = (("adult.data", "adult.test"), ("adult-training.csv", "adult-test.csv"))


@dataclasses.dataclass(frozen=True)
class Adult(AbstractDataset):
    """Ids are rows of the training file; the numbers of the test rows continue from there. Columns are encoded as in `table`.

    Attributes:
        path: Folder of `adult.data` and `adult.test`, or of the same files named `adult-training.csv` and `adult-test.csv`.
    """

    path: str
    name: ClassVar[str] = "adult"
    summary: ClassVar[str] = "UCI Adult: 14 columns about a person, income above 50,000 dollars or not"

    def load(self) -> Split:
        """Read both files; the comment at the top of the test file and the full stop after each of its labels are skipped."""
        train, test = (cells_of(file) for file in files_in(self.path))
        rows = [(*row[:-1], row[-1].removesuffix(".") if row[-1] is not None else None) for row in test.rows]
        return table.split(train, dataclasses.replace(test, rows=rows), table.Columns("income"))


def files_in(path: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The training and the test file in a folder.

    Raises:
        UsageError: The folder is absent or holds no such pair.
    """
    folder = folder_at(path, SITE)
    pair = next((pair for pair in _PAIRS if all((folder / name).is_file() for name in pair)), None)
    if pair is None:
        wanted = " nor ".join(" with ".join(pair) for pair in _PAIRS)
        raise UsageError(f"{folder} holds neither {wanted}. Give the folder of one pair. {SITE}")
    return folder / pair[0], folder / pair[1]


def cells_of(file: pathlib.Path) -> table.Cells:
    """The cells of one of the files, without the comment at the top of the test file.

    Raises:
        UsageError: It is damaged.
    """
    return table.read_csv(file, header=COLUMNS, comment="|", cure=f"Fetch it again. {SITE}")
