"""Planted damage to images: some are blurred, made noisy, turned or changed in contrast on purpose, under their right labels. Which, only the truth says.

A damaged image depends on (seed, id, image) only, so that it comes out the same whatever other images are there.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.errors import UsageError
from ..maths import draws
from .disk_images import DiskImages
from .examples import Examples

Damage = Literal["blur", "noise", "rotation", "contrast", "mixed"]
STRENGTHS: dict[str, float] = {"blur": 5.0, "noise": 0.1, "rotation": 15.0, "contrast": 0.5, "mixed": 1.0}
"""Strength of each kind where none is given."""
KERNEL = 5
"""Width of the blur in pixels where none is given."""
BENT, TURNED = 15.0, 20.0
"""Of `mixed` at strength 1: largest angles in degrees of its two rotations."""
GREY = (0.2989, 0.587, 0.114)
"""Parts of red, green and blue in what an image is as grey."""
PART = 2**22
"""Numbers of the images that are held as floats at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Corrupted:
    """Examples of which some images are damaged.

    Attributes:
        examples: All examples. Only these may be trained on.
        mask: Which images are damaged.
    """

    examples: Examples
    mask: Bool[Tensor, " examples"]

    @property
    def count(self) -> int:
        """How many images are damaged."""
        return int(self.mask.sum())


def corrupt(
    examples: Examples, kind: Damage, rate: float | None, strength: float | None = None, kernel: int | None = None, seed: int = 0
) -> Corrupted:
    """Damage exactly round(rate * examples) of the images. Labels, mean and standard deviation stay as they are.

    `blur`: with a Gaussian kernel; `strength` is its standard deviation in pixels, borders are mirrored.
    `noise`: plus Gaussian noise; `strength` is its standard deviation, for images from 0 to 1.
    `rotation`: turned about the middle by an angle from -`strength` to `strength` degrees, uniform (bilinear; black comes in at the corners).
    `contrast`: distances to the image's mean grey times a factor from 1 - `strength` to 1 + `strength`, uniform.
    `mixed`: one of four for each image, drawn evenly: noise of 0.1, a rotation of up to 15 degrees, one of up to 20, or a contrast of 1 plus or minus up to 1 (at least 0), each range times `strength` (the boundary set of
    LiveVal's code).
    Results are cut to 0..1, and of bytes rounded to bytes.

    Args:
        examples: Images, as bytes or from 0 to 1.
        kind: See above.
        rate: Fraction damaged, in 0..1.
        strength: See above; None for 5 pixels, 0.1, 15 degrees, 0.5 or 1.
        kernel: For `blur`: width of the kernel in pixels, odd; None for 5.
        seed: Random seed; under one seed, a smaller rate damages a subset of what a larger rate damages.

    Raises:
        UsageError: The examples are no images from 0 to 1, or a number is out of its range or given to a kind that does not take it.
    """
    change = _change(kind, strength, kernel, seed, examples)
    if rate is None:
        raise UsageError(f"Damage of kind {kind!r} takes a rate; it is the fraction of images to damage.")
    if not 0 <= rate <= 1:
        raise UsageError(f"rate={rate} is outside 0..1; it is the fraction of images to damage.")
    keys = examples.ids.keys
    chosen = draws.permutation(keys, seed, "which images are damaged")[: round(rate * len(examples))]
    mask = torch.zeros(len(examples), dtype=torch.bool)
    mask[chosen] = True
    if isinstance(examples.inputs, DiskImages):
        places = examples.inputs.places
        of_file = dict(zip(places[mask.numpy()].tolist(), keys[mask.numpy()].tolist(), strict=True))
        later = functools.partial(_damaged_files, of_file=of_file, change=change)
        return Corrupted(dataclasses.replace(examples, inputs=examples.inputs.changed(later)), mask)
    inputs = examples.inputs.clone(memory_format=torch.contiguous_format)
    for part in mask.nonzero().flatten().split(max(1, PART // max(1, math.prod(examples.shape)))):
        inputs[part] = damaged(examples.inputs[part], keys[part.numpy()], change)
    return Corrupted(dataclasses.replace(examples, inputs=inputs), mask)


def _damaged_files(
    images: Tensor, places: np.ndarray, of_file: Mapping[int, int], change: Callable[[Tensor, np.ndarray], Tensor]
) -> Tensor:
    """Decoded images, with those damaged that are of files to damage."""
    hit = [position for position, place in enumerate(places.tolist()) if place in of_file]
    if hit:
        keys = np.array([of_file[int(places[position])] for position in hit], np.uint64)
        images[hit] = damaged(images[hit], keys, change)
    return images


def damaged(images: Tensor, keys: np.ndarray, change: Callable[[Tensor, np.ndarray], Tensor]) -> Tensor:
    """Images after a change of images from 0 to 1, of their own type again.

    Raises:
        UsageError: A number lies outside 0..1.
    """
    if images.dtype == torch.uint8:
        return (change(images.to(torch.float64) / 255, keys).clamp(0, 1) * 255).round().to(torch.uint8)
    if images.numel() and not 0 <= float(images.min()) <= float(images.max()) <= 1:
        raise UsageError(
            f"Images of {float(images.min()):g} to {float(images.max()):g} cannot be damaged as pictures are; give bytes, or numbers from 0 to 1."
        )
    return change(images.to(torch.float64), keys).clamp(0, 1).to(images.dtype)


def _change(
    kind: str, strength: float | None, kernel: int | None, seed: int, examples: Examples
) -> Callable[[Tensor, np.ndarray], Tensor]:
    if kind not in STRENGTHS:
        raise UsageError(f"No kind of damage is named {kind!r}. Known: {', '.join(STRENGTHS)}.")
    if not examples.pictures:
        raise UsageError(f"Damage of kind {kind!r} needs images; an input is of shape {examples.shape}.")
    strength = STRENGTHS[kind] if strength is None else strength
    most = {"rotation": 180.0, "contrast": 1.0}.get(kind, math.inf)
    if not 0 < strength <= most or math.isinf(strength):
        words = f"outside 0..{most:g}, 0 excluded" if most < math.inf else "no number above 0"
        raise UsageError(f"strength={strength} of kind {kind!r} is {words}.")
    if kind == "blur":
        kernel, least = KERNEL if kernel is None else kernel, min(examples.shape[1:])
        if kernel < 3 or not kernel % 2 or kernel // 2 >= least:
            raise UsageError(
                f"kernel={kernel} is no odd number from 3 to {2 * least - 1}, the widths of a blur of images of {examples.shape[1]} x {examples.shape[2]}."
            )
        return functools.partial(_blur, deviation=strength, kernel=kernel)
    if kernel is not None:
        raise UsageError(f"kernel={kernel} is the width of a blur; damage of kind {kind!r} takes none.")
    return functools.partial(
        {"noise": _noise, "rotation": _rotation, "contrast": _contrast, "mixed": mixed}[kind], strength=strength, seed=seed
    )


def mixed(images: Tensor, keys: np.ndarray, strength: float, seed: int) -> Tensor:
    """Each image from 0 to 1 under one of four transforms, drawn evenly by its key: see `corrupt`."""
    kinds = draws.integers(keys, 4, seed, "transform")
    spread = (2 * draws.uniform(keys, seed, "transform strength") - 1).to(images.dtype)
    out = images.clone()
    for kind in range(4):
        mine = (kinds == kind).nonzero().flatten()
        if not len(mine):
            continue
        part, each = images[mine], strength * spread[mine]
        if kind == 0:
            out[mine] = noisy(part, keys[mine.numpy()], STRENGTHS["noise"] * strength, seed)
        elif kind in (1, 2):
            out[mine] = turned(part, (BENT if kind == 1 else TURNED) * each)
        else:
            out[mine] = contrasted(part, (1 + each).clamp(min=0))
    return out


def blurred(
    images: Float[Tensor, "images channels height width"], deviation: float = STRENGTHS["blur"], kernel: int = KERNEL
) -> Float[Tensor, "images channels height width"]:
    """Gaussian blur, with borders mirrored.

    Args:
        images: Of any range.
        deviation: In pixels.
        kernel: Width of the kernel in pixels, odd.
    """
    places = torch.arange(kernel, dtype=images.dtype) - kernel // 2
    weights = torch.exp(-0.5 * (places / deviation) ** 2)
    weights /= weights.sum()
    n, channels, height, width = images.shape
    padded = F.pad(images.reshape(n * channels, 1, height, width), (kernel // 2,) * 4, mode="reflect")
    rows = F.conv2d(padded, weights.view(1, 1, 1, kernel))
    return F.conv2d(rows, weights.view(1, 1, kernel, 1)).view(images.shape)


def noisy(
    images: Float[Tensor, "images channels height width"], keys: np.ndarray, deviation: float, seed: int
) -> Float[Tensor, "images channels height width"]:
    """Each image plus Gaussian noise of this deviation, drawn by its key."""
    of_image = draws.words(keys, seed, "noise of an image")
    places = np.arange(math.prod(images.shape[1:]), dtype=np.uint64)
    drawn = draws.uniform((of_image[:, None] + places).ravel(), seed, "noise of a point")
    return images + deviation * torch.special.ndtri(drawn).view(images.shape)


def turned(
    images: Float[Tensor, "images channels height width"], degrees: Float[Tensor, " images"]
) -> Float[Tensor, "images channels height width"]:
    """Each image turned about its middle by an angle, by bilinear interpolation; what comes in from outside is 0."""
    angles = torch.deg2rad(degrees.to(images.dtype))
    _, _, height, width = images.shape
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # The grid runs from -1 to 1 along both axes, so that of images that are not square one axis is stretched.
    rows = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def contrasted(
    images: Float[Tensor, "images channels height width"], factors: Float[Tensor, " images"]
) -> Float[Tensor, "images channels height width"]:
    """Each image's distances to its mean grey, times a factor."""
    parts = (
        torch.tensor(GREY, dtype=images.dtype)
        if images.shape[1] == 3
        else torch.full((images.shape[1],), 1 / images.shape[1], dtype=images.dtype)
    )
    mean = (images * (parts / parts.sum()).view(1, -1, 1, 1)).sum(1).mean((1, 2)).view(-1, 1, 1, 1)
    return mean + factors.view(-1, 1, 1, 1) * (images - mean)


def _blur(images: Tensor, keys: np.ndarray, deviation: float, kernel: int) -> Tensor:
    return blurred(images, deviation, kernel)


def _noise(images: Tensor, keys: np.ndarray, strength: float, seed: int) -> Tensor:
    return noisy(images, keys, strength, seed)


def _rotation(images: Tensor, keys: np.ndarray, strength: float, seed: int) -> Tensor:
    return turned(images, (2 * draws.uniform(keys, seed, "angle") - 1) * strength)


def _contrast(images: Tensor, keys: np.ndarray, strength: float, seed: int) -> Tensor:
    return contrasted(images, 1 + (2 * draws.uniform(keys, seed, "contrast") - 1) * strength)
