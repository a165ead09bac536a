"""Pictures small enough that thousands of them fit into one page."""

import io

import torch
from jaxtyping import UInt8
from torch import Tensor

from ..core.errors import UsageError

LOSSLESS_BYTES = 500
"""A lossless thumbnail of at most this size is kept: drawings and digits stay sharp and small."""


def thumbnail(image: UInt8[Tensor, "channels height width"], side: int = 32, quality: int = 75) -> bytes:
    """One picture as WEBP data, no side longer than `side` pixels.

    A larger picture is reduced in proportion; a smaller one stays as it is, and the page enlarges it with sharp pixels.

    Args:
        image: One channel (grey) or three (red, green, blue).
        side: Longest side in pixels.
        quality: Of lossy WEBP, 0 to 100; used where lossless would take more than `LOSSLESS_BYTES`.

    Raises:
        UsageError: Not uint8, not one or three channels, or empty.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3) or image.numel() == 0:
        raise UsageError(
            f"A picture of {image.dtype} and shape {tuple(image.shape)} cannot be drawn; "
            "give uint8 (channels, height, width) with 1 or 3 channels."
        )
    from PIL import Image

    pixels = image.detach().cpu().permute(1, 2, 0).squeeze(2) if image.shape[0] == 1 else image.detach().cpu().permute(1, 2, 0)
    picture = Image.fromarray(pixels.contiguous().numpy())
    if max(picture.size) > side:
        scale = side / max(picture.size)
        width, height = (max(1, round(length * scale)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    sharp = _webp(picture, lossless=True, quality=50)
    return sharp if len(sharp) <= LOSSLESS_BYTES else _webp(picture, lossless=False, quality=quality)


def _webp(picture, lossless: bool, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", lossless=lossless, quality=quality, method=0 if lossless else 4)
    return buffer.getvalue()
