"""ResNet-50 with the CIFAR stem, or with that of ImageNet."""

import dataclasses
from typing import ClassVar

from .residual import AbstractResidualNet, Bottleneck


@dataclasses.dataclass(frozen=True)
class ResNet50(AbstractResidualNet):
    """He et al. 2016 with a 3x3 stem of stride 1 and no max-pooling, so that 32x32 images keep their detail; `stem=imagenet` is the paper's.

    23,520,842 trainable parameters on 3x32x32, 10 classes; 25,557,032 with the other stem and 1,000 classes. torch's default
    initialisation. `width` is that of the first stage.
    """

    name: ClassVar[str] = "resnet50"
    summary: ClassVar[str] = "ResNet-50 with the CIFAR stem (3x3, no max-pool) or stem=imagenet, images from 8x8; width=64"
    block: ClassVar[type[Bottleneck]] = Bottleneck
    counts: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)  # type: ignore[assignment]
