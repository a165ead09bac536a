"""Augmentation of image batches that can be replayed, for a whole batch or for a part of it."""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UsageError
from ..maths import draws

Padding = Literal["zeros", "reflect"]
TRIES = 10
"""How often a window is drawn before the largest one of a fitting shape is taken."""
ASPECT = (3 / 4, 4 / 3)
"""Width by height of a window, at least and at most."""


def augment(
    inputs: Tensor,
    keys: np.ndarray,
    *,
    seed: int,
    epoch: int,
    step: int,
    crop: int | float = 4,
    flip: bool = True,
    padding: Padding = "zeros",
) -> Tensor:
    """Each image shifted by up to `crop` pixels along each axis, or a window of it resized, and mirrored left to right half of the time.

    Image i is padded by `crop` on all sides and a window of the old size is cut out at (top_i, left_i), each uniform in
    0..2 crop; then it is mirrored if a third draw is below 1/2. With a fraction for `crop`, the window is any whose area is uniform in crop..1 of the image's,
    whose width by height is uniform in its logarithm in 3/4..4/3 and whose place is uniform; it is drawn at most ten times until it
    fits into the image (else the largest window of a fitting shape, in the middle), and resized to the whole image (bilinear, antialiased; bytes
    are rounded). The draws depend on (seed, epoch, step, keys[i]) only, so an
    image comes out the same whatever other images are in the batch.

    Args:
        inputs: (examples, channels, height, width), any type and device; it is left as it is.
        keys: One 64-bit word per image (`Ids.keys`).
        seed: The run's seed.
        epoch: Counted from 0.
        step: Counted from 0.
        crop: Largest shift in pixels, a whole number, 0 for none; or a number with a point above 0 and at most 1: the smallest part of an image's area
            that a resized window has.
        flip: Whether to mirror.
        padding: What fills the padded border: `zeros` in the units of `inputs`, or the image mirrored at its border pixels.

    Returns:
        New images of the type, device and shape of `inputs` (`inputs` itself if there is nothing to do).

    Raises:
        UsageError: `inputs` are no images, `keys` do not fit them, or `crop` does not fit their size.
    """
    if inputs.ndim != 4:
        raise UsageError(
            f"Augmentation takes images (examples, channels, height, width), not inputs of shape {tuple(inputs.shape)}."
        )
    n, _, height, width = inputs.shape
    if len(keys) != n:
        raise UsageError(f"{len(keys)} keys for {n} images; give one key for each.")
    if padding not in ("zeros", "reflect"):
        raise UsageError(f"padding={padding!r} is neither 'zeros' nor 'reflect'.")
    area = crop if isinstance(crop, float) else None
    most = min(height, width) - (padding == "reflect")
    if area is not None and not 0 < area <= 1:
        raise UsageError(
            f"crop={crop} is outside 0..1, 0 excluded, the part of an image's area; a shift in pixels is a whole number."
        )
    if area is None and not 0 <= crop <= most:
        raise UsageError(f"crop={crop} is outside 0..{most} for images of {height} x {width} padded with {padding}.")
    if n == 0:
        return inputs
    images = inputs
    if area is not None:
        images = _resized(images, crop_windows(keys, height, width, area, seed, epoch, step))
    elif crop:
        top, left = (draws.integers(keys, 2 * int(crop) + 1, seed, f"crop {side}", epoch, step) for side in ("top", "left"))
        windows = _padded(images, int(crop), padding).unfold(2, height, 1).unfold(3, width, 1)
        # windows[i, :, y, x] is the image cut at (y, x): a view, so only the chosen window of each image is copied.
        index = torch.arange(n, device=inputs.device)
        images = windows[index, :, top.to(inputs.device), left.to(inputs.device)]
    if flip:
        mirrored = (draws.uniform(keys, seed, "flip", epoch, step) < 0.5).to(inputs.device)
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    return images


def crop_windows(keys: np.ndarray, height: int, width: int, area: float, seed: int, epoch: int, step: int) -> Tensor:
    """Top, left, height and width of the window of each image, (examples, 4)."""
    low, high = map(math.log, ASPECT)
    # Where nothing fits: as wide or as high as the image, as nearly of its shape as may be.
    whole_width, whole_height = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    middle = [(height - whole_height) // 2, (width - whole_width) // 2, whole_height, whole_width]
    found = torch.tensor(middle).repeat(len(keys), 1)
    open_ = torch.ones(len(keys), dtype=torch.bool)
    for attempt in range(TRIES):
        parts, shapes, down, across = (
            draws.uniform(keys, seed, f"window {what}", epoch, step, attempt) for what in ("area", "shape", "top", "left")
        )
        pixels = height * width * (area + (1 - area) * parts)
        aspect = (low + (high - low) * shapes).exp()
        wide, tall = (pixels * aspect).sqrt().round().long(), (pixels / aspect).sqrt().round().long()
        fits = open_ & (wide >= 1) & (tall >= 1) & (wide <= width) & (tall <= height)
        top, left = (down * (height - tall + 1)).long(), (across * (width - wide + 1)).long()
        found[fits] = torch.stack([top, left, tall, wide], 1)[fits]
        open_ &= ~fits
    return found


def _resized(images: Tensor, windows: Tensor) -> Tensor:
    """Each image's window, resized to the whole image."""
    size = images.shape[2:]
    found = torch.empty_like(images)
    # One by one, so that an image comes out the same whatever is beside it.
    for place, (top, left, tall, wide) in enumerate(windows.tolist()):
        part = images[place : place + 1, :, top : top + tall, left : left + wide]
        real = part if part.is_floating_point() else part.to(torch.float32)
        whole = F.interpolate(real, size, mode="bilinear", align_corners=False, antialias=True)
        found[place] = whole[0] if part.is_floating_point() else whole[0].round().clamp(0, 255).to(images.dtype)
    return found


def _padded(images: Tensor, crop: int, padding: Padding) -> Tensor:
    n, channels, height, width = images.shape
    if padding == "zeros":
        padded = images.new_zeros((n, channels, height + 2 * crop, width + 2 * crop))
        padded[:, :, crop : crop + height, crop : crop + width] = images
        return padded
    # torch's own reflection padding has no uint8 kernel.
    rows, columns = (
        (size - 1 - (size - 1 - torch.arange(-crop, size + crop, device=images.device).abs()).abs()) for size in (height, width)
    )
    return images[:, :, rows][:, :, :, columns]
