"""What the residual nets share: their blocks, how blocks become a net, and its options."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..core.errors import UsageError
from .net import WIDEST, AbstractNet, GlobalMean

Stem = Literal["cifar", "imagenet"]
"""What comes before the blocks: a 3x3 convolution that keeps the size, or a 7x7 one of stride 2 and max-pooling, which leave a quarter of it."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    expansion = 1

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.shortcut = _shortcut(before, after, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.relu(self.norm1(self.conv1(inputs)))
        return self.relu(self.norm2(self.conv2(inner)) + self.shortcut(inputs))


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 (with the stride) and 1x1, which ends four times as wide, beside a shortcut."""

    expansion = 4

    def __init__(self, before: int, middle: int, stride: int):
        super().__init__()
        after = middle * self.expansion
        self.conv1 = nn.Conv2d(before, middle, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, after, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.shortcut = _shortcut(before, after, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.relu(self.norm1(self.conv1(inputs)))
        inner = self.relu(self.norm2(self.conv2(inner)))
        return self.relu(self.norm3(self.conv3(inner)) + self.shortcut(inputs))


def _shortcut(before: int, after: int, stride: int) -> nn.Module:
    if stride == 1 and before == after:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))


def residual(
    channels: int, classes: int, block: type[BasicBlock] | type[Bottleneck], counts: Sequence[int], width: int, stem: Stem
) -> nn.Module:
    """He et al. 2016: a stem, stages of blocks of which each but the first halves the size and doubles the width, the mean, a linear layer.

    Args:
        channels: Of the input.
        classes: How many logits.
        block: Kind of block.
        counts: Blocks by stage.
        width: Channels of the stem and inside the first stage.
        stem: See `Stem`.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False)
        if stem == "cifar"
        else nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *([nn.MaxPool2d(3, stride=2, padding=1)] if stem == "imagenet" else []),
    ]
    before = width
    for stage, count in enumerate(counts):
        for place in range(count):
            layers.append(block(before, width * 2**stage, 2 if stage and not place else 1))
            before = width * 2**stage * block.expansion
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(before, classes))


@dataclasses.dataclass(frozen=True)
class AbstractResidualNet(AbstractNet):
    """A net of He et al. 2016: its block, and how many blocks each stage has, tell one from another."""

    block: ClassVar[type[BasicBlock] | type[Bottleneck]] = BasicBlock
    smallest: ClassVar[int] = 8

    width: int = 64
    stem: Stem = "cifar"

    def __post_init__(self):
        if not 1 <= self.width <= WIDEST:
            raise UsageError(
                f"net {self.name!r}, option 'width': {self.width} is outside 1..{WIDEST:,}; it is the channels of the first stage."
            )
        if self.stem not in ("cifar", "imagenet"):
            raise UsageError(f"net {self.name!r}, option 'stem': {self.stem!r} is neither 'cifar' nor 'imagenet'.")

    @property
    @abc.abstractmethod
    def counts(self) -> tuple[int, ...]:
        """Blocks of each stage."""

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return residual(shape[0], classes, self.block, self.counts, self.width, self.stem)
