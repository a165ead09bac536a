"""Logistic regression: one linear layer, a softmax over it."""

import dataclasses
from typing import ClassVar

from torch import nn

from .net import AbstractNet, size


@dataclasses.dataclass(frozen=True)
class Logistic(AbstractNet):
    """Softmax regression on the flattened input."""

    name: ClassVar[str] = "logistic"
    summary: ClassVar[str] = "softmax (logistic) regression on rows or flattened images"

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(size(shape), classes))
