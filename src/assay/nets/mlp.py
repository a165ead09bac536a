"""Multi-layer perceptron."""

import dataclasses
import itertools
from typing import ClassVar

from torch import nn

from .net import AbstractNet, size, widths


@dataclasses.dataclass(frozen=True)
class MLP(AbstractNet):
    """Linear layers with ReLU between them, on the flattened input. `widths` are those of the hidden layers."""

    name: ClassVar[str] = "mlp"
    summary: ClassVar[str] = "fully connected, ReLU between layers; widths=64-128 sets the hidden layers"

    widths: str = "64-128"

    def __post_init__(self):
        widths(self.widths, self.name)

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        sizes = (size(shape), *widths(self.widths, self.name))
        hidden = [layer for before, after in itertools.pairwise(sizes) for layer in (nn.Linear(before, after), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))
