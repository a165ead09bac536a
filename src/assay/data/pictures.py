"""Image files and image bytes as pixels."""

import contextlib
import io
import pathlib
import threading
import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..core.errors import MOST_WORDS, UsageError

Colours = Literal["rgb", "grey"]
FORMATS = tuple(
    [
        "PNG",
        "JPEG",
        "MPO",
        "GIF",
        "BMP",
        "DIB",
        "WEBP",
        "TIFF",
        "PPM",
        "TGA",
        "JPEG2000",
        "AVIF",
        "ICO",
        "ICNS",
        "PCX",
        "SGI",
        "QOI",
        "DDS",
        "PSD",
        "SUN",
        "XBM",
        "XPM",
        "MSP",
        "CUR",
        "DCX",
        "IM",
    ]
)
"""What Pillow reads by itself. The others start programs, such as Ghostscript for EPS whatever the file is called."""


def pixels(
    body: bytes | pathlib.Path, name: str, colours: Colours = "rgb", size: int | None = None, cut: bool = False
) -> np.ndarray:
    """One image as uint8 (channels, height, width).

    Palettes are resolved, transparency is left out (the colour below it stays), grey and colour are converted into each
    other as asked.

    Args:
        body: The encoded image, or its file.
        name: What messages call it.
        colours: `rgb` for three channels, `grey` for one.
        size: Height and width to scale to, whatever the proportions (bilinear, averaging when shrinking); None leaves it.
        cut: Keep the proportions instead: the shorter side is scaled to 8/7 of `size`, and the middle taken.

    Raises:
        UsageError: Not an image that Pillow reads, or one of more than 8 bits per channel.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings() if threading.current_thread() is threading.main_thread() else contextlib.nullcontext():
            if threading.current_thread() is threading.main_thread():
                # Python's filters are those of all threads, so that one that is not alone leaves them; the size is looked at below, too.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Pillow knows the rarer ones only when asked to, and not every build has all.
            Image.init()
            formats = [kind for kind in FORMATS if kind in Image.OPEN]
            opened = Image.open(io.BytesIO(body) if isinstance(body, bytes) else body, formats=formats)
        with opened as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            if image.mode.startswith(("I", "F")):
                raise UsageError(f"{name} has {image.mode!r} pixels of more than 8 bits. Convert it to 8 bits per channel.")
            converted = image.convert("RGB" if colours == "rgb" else "L")
    except UsageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"{name} is larger than {Image.MAX_IMAGE_PIXELS:,} pixels. Make it smaller or take it out.") from error
    except Exception as error:  # a damaged picture may raise almost anything
        words = " ".join(str(error).split())[:MOST_WORDS]
        raise UsageError(f"{name} cannot be read as an image ({words}). Replace it or take it out.") from error
    if size is not None and cut:
        shorter = round(size * 8 / 7)
        width, height = (max(shorter, shorter * side // min(converted.size)) for side in converted.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        converted = converted.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    elif size is not None:
        converted = converted.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(converted)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]


ROUNDING = 1e-4
"""How far a number may lie outside 0..1 and still be one that was within, computed in single precision."""


def for_people(inputs: Tensor) -> tuple[Tensor | None, str]:
    """Images that a page can show, uint8 of one or three channels; and a sentence on how they were converted or why they cannot be shown.

    Bytes stay as they are, fractions of 0..1 become bytes. Of four channels the last, transparency, is left out. Where any number lies
    outside 0..1, each image is rescaled separately, from its smallest value to its largest.

    Args:
        inputs: (examples, channels, height, width).

    Returns:
        The pictures, or None; and a sentence, empty where there is nothing to say.
    """
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3, 4) or not inputs.numel():
        shape = "x".join(map(str, inputs.shape[1:]))
        return (
            None,
            f"No pictures are shown: an input has shape {shape}, and pictures have 1, 3 or 4 channels before height and width.",
        )
    note = ""
    if inputs.shape[1] == 4:
        inputs, note = inputs[:, :3], "Pictures are shown without their fourth channel, transparency."
    if inputs.dtype == torch.uint8:
        return inputs, note
    fractions = inputs.to(torch.float64)
    if float(fractions.min()) < -ROUNDING or float(fractions.max()) > 1 + ROUNDING:
        flat = fractions.flatten(1)
        low, high = (end.view(-1, 1, 1, 1) for end in (flat.min(1).values, flat.max(1).values))
        fractions = (fractions - low) / torch.where(high > low, high - low, 1.0)
        note = (
            f"{note} Pictures are stretched one by one from their least number to their largest, because their numbers are not within 0 to 1; "
            "examples_from_dataset(..., mean=, std=) undoes a normalisation."
        ).strip()
    return (fractions * 255).round().clamp(0, 255).to(torch.uint8), note
