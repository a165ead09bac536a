"""The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships with."""

import dataclasses
import random
from typing import ClassVar

import numpy as np
import torch

from ..core.errors import UsageError
from ..core.ids import Ids
from ..maths.normalisation import statistics
from .dataset import AbstractDataset
from .examples import Examples, Split


@dataclasses.dataclass(frozen=True)
class Digits(AbstractDataset):
    """Ids are indices in scikit-learn's full set; both parts stand in the order of scikit-learn's `train_test_split`.

    Attributes:
        test: How many examples are set aside, the same share of every class.
        seed: `random_state` of the split.
    """

    test: int = 360
    seed: int = 0
    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, 10 classes; needs no file"

    def load(self) -> Split:
        """Read the embedded set; pixel values 0..16 become round(v * 255 / 16), so that all 17 levels stay distinct."""
        # Importing scikit-learn draws from Python's own generator, which is the user's.
        before = random.getstate()
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        random.setstate(before)
        bunch = load_digits()
        labels = torch.from_numpy(bunch.target.astype(np.int64))
        images = torch.from_numpy(np.rint(bunch.images * 255 / 16).astype(np.uint8))[:, None]
        ids = Ids(range(len(labels)))
        try:
            # scikit-learn's own draw, so that the split is the one that other tools are compared on.
            parts = train_test_split(np.arange(len(labels)), test_size=self.test, random_state=self.seed, stratify=bunch.target)
        except ValueError as error:
            raise UsageError(f"digits cannot set aside test={self.test} with seed={self.seed} ({error}).") from error
        train, test = (torch.from_numpy(part) for part in parts)
        mean, std = statistics(images[train])
        full = Examples(ids, images, labels, tuple("0123456789"), mean, std)
        return Split(full.take(train), full.take(test))
