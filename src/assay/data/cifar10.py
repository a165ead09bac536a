"""CIFAR-10 from the official Python archive or from Parquet, with any label column of the latter (CIFAR-10N)."""

import dataclasses
from typing import ClassVar

from .cifar import Format, load
from .dataset import AbstractDataset
from .examples import Split

FORMAT = Format(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    names="label_names",
    key="labels",
    column="label",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    # Those of the archive have 31 million.
    most_bytes=128 * 2**20,
)


@dataclasses.dataclass(frozen=True)
class CIFAR10(AbstractDataset):
    """Ids are rows of the training set; the numbers of the test rows continue from there.

    Attributes:
        path: The archive, its unpacked folder, a folder of `train.parquet` and `test.parquet` (or of Hugging Face's shards
            `train-00000-of-00001.parquet`, also one folder further down), or a folder that holds one of these.
        labels: Column of the given training labels. If it is not `label`, the column `label` holds the true labels. Test labels are always `label`.
        limit: Number of training rows to use, from the first one on.
    """

    path: str
    labels: str = FORMAT.column
    limit: int | None = None
    name: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "CIFAR-10 from the Python archive or Parquet; labels=COLUMN for human labels (CIFAR-10N)"

    def load(self) -> Split:
        """Read both parts; mean and std are those of the training rows taken."""
        return load(FORMAT, self.path, self.labels, self.limit)
