"""The one interface of a net: options in, module out."""

import abc
import math
from typing import ClassVar

from torch import Tensor, nn

from ..core.errors import UsageError


class AbstractNet(abc.ABC):
    """Builds a classifier for any input shape. Subclasses are final frozen dataclasses whose fields are the options."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for the table of nets."""
    smallest: ClassVar[int] = 0
    """Fewest pixels in height and in width; 0 if the net takes any shape, rows of numbers included."""

    @abc.abstractmethod
    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The freshly initialised module, for inputs of a shape that was already checked."""

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The module, which maps (batch, *shape) to logits (batch, classes). Its initial weights come from torch's generator as it stands.

        Args:
            shape: Shape of one input: (channels, height, width), or (dims,) where the net takes rows.
            classes: How many logits, at least 2.

        Raises:
            UsageError: The shape does not fit this net, or there are fewer than 2 classes.
        """
        if classes < 2:
            raise UsageError(f"Net {self.name!r} needs at least 2 classes to tell apart, not {classes}.")
        if len(shape) not in (1, 3) or min(shape) < 1:
            raise UsageError(f"Net {self.name!r} takes inputs (channels, height, width) or (dims,), not {tuple(shape)}.")
        if self.smallest and len(shape) != 3:
            raise UsageError(
                f"Net {self.name!r} takes images (channels, height, width), not {tuple(shape)}; use 'mlp' or 'logistic' for rows."
            )
        if self.smallest and min(shape[1:]) < self.smallest:
            raise UsageError(
                f"Net {self.name!r} takes images of at least {self.smallest} x {self.smallest} pixels, "
                f"not {shape[1]} x {shape[2]}; use 'mlp' or 'logistic' for smaller ones."
            )
        return self.layers(shape, classes)


class GlobalMean(nn.Module):
    """Mean over height and width. Unlike torch's adaptive pooling it is repeatable on a GPU, backward too."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean((2, 3))


def size(shape: tuple[int, ...]) -> int:
    """How many numbers one input holds."""
    return math.prod(shape)


WIDEST = 2**20
"""Most units or channels of a layer: a layer from so many to as many would take 4 TB."""


def widths(text: str, net: str, count: int | None = None) -> tuple[int, ...]:
    """Parse a text such as `"64-128"` into (64, 128).

    Raises:
        UsageError: A part is not a whole number of at least 1, or there are not `count` of them.
    """
    parts = text.split("-")
    if not all(part.isascii() and part.isdigit() and int(part[:20]) > 0 for part in parts) or count not in (None, len(parts)):
        many = "whole numbers" if count is None else f"{count} whole numbers"
        raise UsageError(f"net {net!r}, option 'widths': {text!r} is not {many} of at least 1 joined by '-', such as 64-128.")
    if any(int(part[:20]) > WIDEST for part in parts):
        raise UsageError(f"net {net!r}, option 'widths': {text!r} has a layer of more than {WIDEST:,}; give smaller ones.")
    return tuple(int(part) for part in parts)
