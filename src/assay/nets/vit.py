"""A small vision transformer."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from .net import WIDEST, AbstractNet


class _Attention(nn.Module):
    """Self-attention of several heads, in plain products, which every derivative of this package goes through."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        batch, tokens, width = inputs.shape
        parts = self.qkv(inputs).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts[0], parts[1], parts[2]
        weights = (queries @ keys.transpose(2, 3) / math.sqrt(width // self.heads)).softmax(3)
        return self.out((weights @ values).transpose(1, 2).reshape(batch, tokens, width))


class _Block(nn.Module):
    """Attention, then two layers four times as wide between them, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + self.attention(self.norm1(inputs))
        return inputs + self.mlp(self.norm2(inputs))


class _Tokens(nn.Module):
    """Patches as tokens behind a class token, each with a learnt place."""

    def __init__(self, channels: int, patches: int, patch: int, width: int):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, patches + 1, width), std=0.02))

    def forward(self, inputs: Tensor) -> Tensor:
        rows = self.patches(inputs).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(rows), -1, -1), rows], 1) + self.places


class _First(nn.Module):
    """The class token."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, 0]


@dataclasses.dataclass(frozen=True)
class ViT(AbstractNet):
    """Dosovitskiy et al. 2021 with pre-normalisation, a class token, learnt places and no dropout.

    By default for 32x32 images: patches of 4x4, 6 blocks of width 192 with 3 heads; 2,693,578 trainable parameters on 3x32x32, 10 classes.
    `patch=16,depth=12` is ViT-Ti/16 (5,717,416 on 3x224x224, 1,000 classes), with `width=384,heads=6` ViT-S/16 (22,050,664).
    """

    name: ClassVar[str] = "vit"
    summary: ClassVar[str] = "small vision transformer; patch=4 divides height and width, width=192, depth=6, heads=3"
    smallest: ClassVar[int] = 4

    patch: int = 4
    width: int = 192
    depth: int = 6
    heads: int = 3

    def __post_init__(self):
        for option, value, most in (("patch", self.patch, 1024), ("width", self.width, WIDEST), ("depth", self.depth, 1000)):
            if not 1 <= value <= most:
                raise UsageError(f"net {self.name!r}, option {option!r}: {value} is outside 1..{most:,}.")
        if self.heads < 1 or self.width % self.heads:
            raise UsageError(
                f"net {self.name!r}, option 'heads': {self.heads} does not divide the width {self.width} into whole heads."
            )

    def layers(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        channels, height, width = shape
        if height % self.patch or width % self.patch:
            raise UsageError(
                f"Net {self.name!r} cuts images into patches of {self.patch} x {self.patch} pixels, which {height} x {width} is no multiple of; "
                "give patch= that divides both."
            )
        patches = (height // self.patch) * (width // self.patch)
        blocks = [_Block(self.width, self.heads) for _ in range(self.depth)]
        return nn.Sequential(
            _Tokens(channels, patches, self.patch, self.width),
            *blocks,
            nn.LayerNorm(self.width),
            _First(),
            nn.Linear(self.width, classes),
        )
