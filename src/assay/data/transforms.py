"""Augmentation of image batches that can be replayed, for a whole batch or for a part of it."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError
from ..maths import draws

Padding = Literal["zeros", "reflect"]


def augment(
    inputs: Tensor,
    keys: np.ndarray,
    *,
    seed: int,
    epoch: int,
    step: int,
    crop: int = 4,
    flip: bool = True,
    padding: Padding = "zeros",
) -> Tensor:
    """Each image shifted by up to `crop` pixels along each axis and mirrored left to right half of the time.

    Image i is padded by `crop` on all sides and a window of the old size is cut out at (top_i, left_i), each uniform in
    0..2 crop; then it is mirrored if a third draw is below 1/2. The draws depend on (seed, epoch, step, keys[i]) only, so an
    image comes out the same whatever other images are in the batch.

    Args:
        inputs: (examples, channels, height, width), any type and device; it is left as it is.
        keys: One 64-bit word per image (`Ids.keys`).
        seed: The run's seed.
        epoch: Counted from 0.
        step: Counted from 0.
        crop: Largest shift in pixels; 0 for none.
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
    most = min(height, width) - (padding == "reflect")
    if not 0 <= crop <= most:
        raise UsageError(f"crop={crop} is outside 0..{most} for images of {height} x {width} padded with {padding}.")
    if n == 0:
        return inputs
    images = inputs
    if crop:
        top, left = (draws.integers(keys, 2 * crop + 1, seed, f"crop {side}", epoch, step) for side in ("top", "left"))
        windows = _padded(images, crop, padding).unfold(2, height, 1).unfold(3, width, 1)
        # windows[i, :, y, x] is the image cut at (y, x): a view, so only the chosen window of each image is copied.
        index = torch.arange(n, device=inputs.device)
        images = windows[index, :, top.to(inputs.device), left.to(inputs.device)]
    if flip:
        mirrored = (draws.uniform(keys, seed, "flip", epoch, step) < 0.5).to(inputs.device)
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    return images


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
