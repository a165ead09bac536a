"""Fashion-MNIST: grey images of 10 kinds of clothes, in the format of MNIST."""

import dataclasses
from typing import ClassVar

from .dataset import AbstractDataset
from .examples import Split
from .mnist import Source, load


@dataclasses.dataclass(frozen=True)
class FashionMNIST(AbstractDataset):
    """Ids are rows of the training file; the numbers of the test rows continue from there.

    Attributes:
        path: Folder of the four files, each as it is or with `.gz` (the plain one is read if both are there).
        limit: Number of training rows to use, from the first one on.
        permute: Random seed of one order of the pixels, in which those of every image stand; None leaves them.
    """

    path: str
    limit: int | None = None
    permute: int | None = None
    name: ClassVar[str] = "fashion_mnist"
    summary: ClassVar[str] = "Fashion-MNIST: the four idx files in a folder, gzipped or not; its classes by name"
    source: ClassVar[Source] = Source(
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    )

    def load(self) -> Split:
        """Read the four files; mean and std are those of the training rows taken."""
        return load(self.source, self.path, self.limit, self.permute)
