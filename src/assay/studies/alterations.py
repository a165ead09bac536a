"""Images made worse on purpose: blur, noise, rotation and contrast, each drawn by the example's id alone."""

import io
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..core.errors import UsageError
from ..data.examples import Examples
from ..maths import draws
from ..runs.disk import replace

KERNEL, SIGMA = 5, 5.0
"""Size and deviation, in pixels, of the blur of the released code of LiveVal."""
NOISE, BENT, TURNED = 0.1, 15.0, 20.0
"""At intensity 1: deviation of the noise as a part of the largest value, and largest angles in degrees of its two rotations."""


def blurred(images: Float[Tensor, "images channels height width"], kernel: int = KERNEL, sigma: float = SIGMA) -> Tensor:
    """Gaussian blur, with borders mirrored, as torchvision's GaussianBlur does it."""
    places = torch.arange(kernel, dtype=torch.float64) - (kernel - 1) / 2
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    weights = (weights / weights.sum()).to(images.dtype)
    channels, half = images.shape[1], kernel // 2
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    rows = F.conv2d(padded, weights.view(1, 1, -1, 1).expand(channels, 1, kernel, 1), groups=channels)
    return F.conv2d(rows, weights.view(1, 1, 1, -1).expand(channels, 1, 1, kernel), groups=channels)


def rotated(images: Float[Tensor, "images channels height width"], degrees: Float[Tensor, " images"]) -> Tensor:
    """Each image turned about its middle, by bilinear interpolation; what comes in from outside is 0."""
    angles = degrees.to(images.dtype) * (math.pi / 180)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # The grid is in units of half an image, so that pixels of images that are not square are scaled back.
    ratio = images.shape[2] / images.shape[3]
    turns = torch.stack([torch.stack([cos, -sin * ratio, zero], 1), torch.stack([sin / ratio, cos, zero], 1)], 1)
    grid = F.affine_grid(turns, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def transformed(images: Tensor, keys: np.ndarray, intensity: float, seed: int) -> Tensor:
    """Each image under one of four transforms, drawn evenly: noise, a small rotation, a larger rotation, contrast (the boundary set of LiveVal's code).

    Args:
        images: uint8 images.
        keys: One 64-bit word per image (`Ids.keys`), by which everything is drawn.
        intensity: How far: factor of the noise's deviation, of the angles and of the change of contrast.
        seed: Random seed.

    Returns:
        New uint8 images.
    """
    kinds = draws.integers(keys, 4, seed, "transform").numpy()
    spread = 2 * draws.uniform(keys, seed, "transform strength") - 1
    pixels = images.to(torch.float64)
    out = pixels.clone()
    for kind in range(4):
        mine = torch.from_numpy(kinds == kind)
        if not bool(mine.any()):
            continue
        part, strength = pixels[mine], torch.as_tensor(spread)[mine].to(torch.float64)
        if kind == 0:
            seeds = (draws.words(keys[mine.numpy()], seed, "transform noise") >> np.uint64(1)).tolist()
            shape = part.shape[1:]
            noise = torch.stack(
                [torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(one)) for one in seeds]
            )
            out[mine] = part + 255 * NOISE * intensity * noise
        elif kind in (1, 2):
            out[mine] = rotated(part, (BENT if kind == 1 else TURNED) * intensity * strength)
        else:
            # As torchvision's adjust_contrast: away from the image's mean grey.
            mean = part.mean((1, 2, 3), keepdim=True)
            out[mine] = mean + (1 + intensity * strength).clamp(min=0)[:, None, None, None] * (part - mean)
    return out.round().clamp(0, 255).to(torch.uint8)


def check_in_memory(train: Examples, source: str) -> None:
    """Refuse data that are read from disk batch by batch: altered data are written as one file of arrays.

    Raises:
        UsageError: They are no tensor.
    """
    if not isinstance(train.inputs, Tensor):
        raise UsageError(
            f"{source} is read from disk batch by batch, and only data in memory are altered; choose others, or leave what alters them out."
        )


def saved_arrays(path: Path, train: Examples, inputs: Tensor, labels: Tensor, test: Examples) -> Path:
    """Write altered training data beside a test part, as the reader of arrays takes them.

    Args:
        path: Where.
        train: The training examples as they were.
        inputs: Their inputs now: images in bytes, or numbers as `Examples.prepared` gives them.
        labels: Their labels now.
        test: The examples to test on.

    Raises:
        UsageError: The path has a comma, which separates options in a plan.
        NotWritten: The disk refuses.
    """
    if "," in str(path):
        raise UsageError(f"{path} has a comma, and a plan names altered data by their path; name a folder without one.")
    body = io.BytesIO()
    tested = test.inputs if inputs.dtype == torch.uint8 else test.prepared(test.inputs)
    np.savez_compressed(
        body,
        inputs=inputs.numpy(),
        labels=labels.numpy(),
        ids=train.ids.values,
        class_names=np.array(train.class_names),
        test_inputs=tested.numpy(),
        test_labels=test.labels.numpy(),
        test_ids=test.ids.values,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, body.getvalue())
    return path
