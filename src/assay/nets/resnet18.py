"""ResNet-18 with the CIFAR stem."""

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from .net import AbstractNet, GlobalMean


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.relu(self.norm1(self.conv1(inputs)))
        return self.relu(self.norm2(self.conv2(inner)) + self.shortcut(inputs))


@dataclasses.dataclass(frozen=True)
class ResNet18(AbstractNet):
    """He et al. 2016 with a 3x3 stem of stride 1 and no max-pooling, so that 32x32 images keep their detail.

    11,173,962 trainable parameters on 3x32x32, 10 classes. torch's default initialisation.
    """

    name: ClassVar[str] = "resnet18"
    summary: ClassVar[str] = "ResNet-18 with the CIFAR stem (3x3, no max-pool), images from 8x8"
    smallest: ClassVar[int] = 8

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        stem = [nn.Conv2d(shape[0], 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        blocks = [
            BasicBlock(before if first else after, after, stride if first else 1)
            for before, after, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
            for first in (True, False)
        ]
        return nn.Sequential(*stem, *blocks, GlobalMean(), nn.Linear(512, classes))
