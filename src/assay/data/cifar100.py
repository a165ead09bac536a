"""CIFAR-100 from the official Python archive or from Parquet, with any label column of the latter (CIFAR-100N)."""

import dataclasses
from typing import ClassVar, Literal

from ..core.errors import UsageError
from .cifar import Format, load
from .dataset import AbstractDataset
from .examples import Split

FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee
clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower
sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
COARSE = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture insects large_carnivores
large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles
small_mammals trees vehicles_1 vehicles_2
"""


def _format(kind: str, classes: str) -> Format:
    return Format(
        title="CIFAR-100",
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        train=("train",),
        test="test",
        meta="meta",
        names=f"{kind}_label_names",
        key=f"{kind}_labels",
        column=f"{kind}_label",
        classes=tuple(classes.split()),
        # The archive's has 155 million.
        most_bytes=256 * 2**20,
    )


FORMATS = {"fine": _format("fine", FINE), "coarse": _format("coarse", COARSE)}


@dataclasses.dataclass(frozen=True)
class CIFAR100(AbstractDataset):
    """Ids are rows of the training set; the numbers of the test rows continue from there.

    Attributes:
        path: The archive, its unpacked folder, a folder of `train.parquet` and `test.parquet` (or of Hugging Face's shards
            `train-00000-of-00001.parquet`, also one folder further down), or a folder that holds one of these.
        classes: `fine` for the 100 classes, `coarse` for the 20 groups of them.
        labels: Column of the given training labels in Parquet; the true ones are then `fine_label` or `coarse_label`. None for the true ones.
        limit: Number of training rows to use, from the first one on.
    """

    path: str
    classes: Literal["fine", "coarse"] = "fine"
    labels: str | None = None
    limit: int | None = None
    name: ClassVar[str] = "cifar100"
    summary: ClassVar[str] = "CIFAR-100 from the Python archive or Parquet; classes=coarse for its 20 groups"

    def __post_init__(self):
        if self.classes not in FORMATS:
            raise UsageError(f"classes={self.classes!r} is neither 'fine' nor 'coarse'.")

    def load(self) -> Split:
        """Read both parts; mean and std are those of the training rows taken."""
        return load(FORMATS[self.classes], self.path, self.labels, self.limit)
