"""The CNN of the SGD-influence experiments: six convolutions in three blocks."""

import dataclasses
from typing import ClassVar

from torch import nn

from .net import AbstractNet


def _block(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]


@dataclasses.dataclass(frozen=True)
class SixConv(AbstractNet):
    """Blocks of 32, 64 and 128 channels: Conv, BatchNorm, ReLU, Conv, ReLU, MaxPool; then one linear layer.

    307,946 trainable parameters on 3x32x32 and 307,370 on 1x32x32, 10 classes.

    Source: the CNN with which Hara et al. 2019 and its storage-efficient successor cleanse MNIST and CIFAR-10.
    """

    name: ClassVar[str] = "six_conv"
    summary: ClassVar[str] = "six convolutions of 32, 64, 128 channels, BatchNorm once per block, images from 8x8"
    smallest: ClassVar[int] = 8

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        channels, height, width = shape
        blocks = _block(channels, 32) + _block(32, 64) + _block(64, 128)
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * (height // 8) * (width // 8), classes))
