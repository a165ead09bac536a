"""A small CNN that learns fast: BatchNorm after every convolution."""

import dataclasses
import itertools
from typing import ClassVar

from torch import nn

from .net import AbstractNet, GlobalMean, widths


def _block(before: int, after: int) -> list[nn.Module]:
    # No bias: BatchNorm subtracts it again.
    return [
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.GELU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.GELU(),
        nn.MaxPool2d(2),
    ]


@dataclasses.dataclass(frozen=True)
class BlockConv(AbstractNet):
    """Three blocks of (Conv, BatchNorm, GELU) twice and MaxPool, global average pooling, then one linear layer.

    `widths` are the channels by block. Meant for CIFAR-10 in about ten epochs.
    """

    name: ClassVar[str] = "block_conv"
    summary: ClassVar[str] = "three blocks of two convolutions, BatchNorm and GELU after each, images from 8x8; widths=32-64-128"
    smallest: ClassVar[int] = 8

    widths: str = "32-64-128"

    def __post_init__(self):
        widths(self.widths, self.name, 3)

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        sizes = (shape[0], *widths(self.widths, self.name, 3))
        blocks = [layer for before, after in itertools.pairwise(sizes) for layer in _block(before, after)]
        return nn.Sequential(*blocks, GlobalMean(), nn.Linear(sizes[-1], classes))
