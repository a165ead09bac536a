"""LeNet-5 with ReLU and max-pooling."""

import dataclasses
from typing import ClassVar

from torch import nn

from .net import AbstractNet


@dataclasses.dataclass(frozen=True)
class LeNet(AbstractNet):
    """Two 5x5 convolutions (the first padded by 2) with pooling, then 120 and 84 units; 61,706 parameters on 1x28x28.

    Source: LeCun et al. 1998, with ReLU for the squashing units and max-pooling for the trained averages.
    """

    name: ClassVar[str] = "lenet"
    summary: ClassVar[str] = "LeNet-5 with ReLU and max-pooling, images from 12x12"
    smallest: ClassVar[int] = 12

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        channels, height, width = shape
        after = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        return nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(after, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )
