"""VGG-16 with BatchNorm."""

import dataclasses
from typing import ClassVar, Literal

from torch import nn

from ..core.errors import UsageError
from .net import WIDEST, AbstractNet, GlobalMean

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Width of each stage in that of the first, and its convolutions; a pooling ends each."""


@dataclasses.dataclass(frozen=True)
class VGG16(AbstractNet):
    """Simonyan and Zisserman 2015, configuration D, BatchNorm after every convolution.

    `head=linear`, as it is used on CIFAR: the mean over height and width and one linear layer; 14,728,266 trainable parameters on 3x32x32, 10 classes.
    `head=dense`, the paper's: two layers of 64 `width` units with dropout before the last; 138,365,992 on 3x224x224, 1,000 classes. torch's
    default initialisation. `width` is that of the first stage.
    """

    name: ClassVar[str] = "vgg16"
    summary: ClassVar[str] = (
        "VGG-16 with BatchNorm and one linear layer, or the paper's three by head=dense, images from 32x32; width=64"
    )
    smallest: ClassVar[int] = 32

    width: int = 64
    head: Literal["linear", "dense"] = "linear"

    def __post_init__(self):
        if not 1 <= self.width <= WIDEST:
            raise UsageError(
                f"net {self.name!r}, option 'width': {self.width} is outside 1..{WIDEST:,}; it is the channels of the first stage."
            )
        if self.head not in ("linear", "dense"):
            raise UsageError(f"net {self.name!r}, option 'head': {self.head!r} is neither 'linear' nor 'dense'.")

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        before, layers = shape[0], list[nn.Module]()
        for times, convolutions in STAGES:
            for _ in range(convolutions):
                after = self.width * times
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        if self.head == "linear":
            return nn.Sequential(*layers, GlobalMean(), nn.Linear(before, classes))
        left, units = before * (shape[1] // 32) * (shape[2] // 32), 64 * self.width
        dense = [nn.Linear(left, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU(), nn.Dropout()]
        return nn.Sequential(*layers, nn.Flatten(), *dense, nn.Linear(units, classes))
