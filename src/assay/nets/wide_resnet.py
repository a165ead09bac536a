"""Wide residual nets, such as WRN-28-10."""

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from ..core.errors import UsageError
from .net import AbstractNet, GlobalMean


class _Block(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, beside a shortcut, which is a 1x1 convolution of the activated input where the shape changes."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False) if stride != 1 or before != after else None

    def forward(self, inputs: Tensor) -> Tensor:
        active = self.relu(self.norm1(inputs))
        inner = self.conv2(self.relu(self.norm2(self.conv1(active))))
        return inner + (inputs if self.shortcut is None else self.shortcut(active))


@dataclasses.dataclass(frozen=True)
class WideResNet(AbstractNet):
    """Zagoruyko and Komodakis 2016, WRN-28-10 by default, without dropout: `depth` layers, `widen` times as wide as ResNet's 16, 32 and 64 channels.

    36,479,194 trainable parameters on 3x32x32, 10 classes, and 36,536,884 with 100. torch's default initialisation.
    """

    name: ClassVar[str] = "wide_resnet"
    summary: ClassVar[str] = "WideResNet-28-10 for images from 8x8; depth=28 and widen=10 set others, such as WRN-16-4"
    smallest: ClassVar[int] = 8

    depth: int = 28
    widen: int = 10

    def __post_init__(self):
        if self.depth < 10 or self.depth > 1000 or self.depth % 6 != 4:
            raise UsageError(
                f"net {self.name!r}, option 'depth': {self.depth} is none of 10, 16, 22, 28, ...: it is 4 and six for each block of a stage."
            )
        if not 1 <= self.widen <= 1000:
            raise UsageError(
                f"net {self.name!r}, option 'widen': {self.widen} is outside 1..1000; it multiplies 16, 32 and 64 channels."
            )

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        before, layers = 16, list[nn.Module]([nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)])
        for stage in range(3):
            after = 16 * 2**stage * self.widen
            for place in range((self.depth - 4) // 6):
                layers.append(_Block(before, after, 2 if stage and not place else 1))
                before = after
        return nn.Sequential(*layers, nn.BatchNorm2d(before), nn.ReLU(), GlobalMean(), nn.Linear(before, classes))
