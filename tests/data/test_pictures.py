import io

import numpy as np
import pytest
from PIL import Image

from assay.core.errors import UsageError
from assay.data.pictures import pixels

COLOURS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_channels_come_first_and_every_pixel_is_kept(tmp_path):
    body = png(Image.fromarray(COLOURS))
    (tmp_path / "x.png").write_bytes(body)
    assert np.array_equal(pixels(body, "x"), COLOURS.transpose(2, 0, 1))
    assert np.array_equal(pixels(tmp_path / "x.png", "x"), COLOURS.transpose(2, 0, 1))


def test_grey_and_colour_are_converted():
    grey = png(Image.fromarray(COLOURS[..., 0]))
    assert np.array_equal(pixels(grey, "x", "grey"), COLOURS[None, ..., 0])
    assert np.array_equal(pixels(grey, "x", "rgb"), np.stack([COLOURS[..., 0]] * 3))
    assert pixels(png(Image.fromarray(COLOURS)), "x", "grey").shape == (1, 2, 3)


def test_transparency_is_left_out():
    alpha = np.concatenate([COLOURS, np.full((2, 3, 1), 9, np.uint8)], 2)
    assert np.array_equal(pixels(png(Image.fromarray(alpha)), "x"), COLOURS.transpose(2, 0, 1))


def test_size_averages_when_shrinking():
    chess = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    small = pixels(png(Image.fromarray(chess)), "x", "grey", size=2)
    assert small.shape == (1, 2, 2) and abs(small.astype(int) - 127).max() <= 40


def test_what_cannot_be_read_is_named():
    body = png(Image.fromarray(COLOURS))
    for wrong in (b"", b"no image", body[:-30], body[:30]):
        with pytest.raises(UsageError, match=r"cat/7\.png cannot be read as an image"):
            pixels(wrong, "cat/7.png")


def test_more_than_eight_bits_are_refused():
    deep = Image.fromarray(np.full((2, 2), 60000, np.uint16))
    with pytest.raises(UsageError, match="more than 8 bits"):
        pixels(png(deep), "x")
