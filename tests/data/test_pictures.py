import io

import numpy as np
import pytest
import torch
from PIL import Image

from assay.core.errors import UsageError
from assay.data.pictures import for_people, pixels

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


def test_what_a_page_can_show():
    bytes_ = torch.randint(256, (4, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for inputs in (bytes_, bytes_.float() / 255, bytes_.double() / 255):
        for channels in (1, 3):
            shown, note = for_people(inputs[:, :channels])
            assert torch.equal(shown, bytes_[:, :channels]) and note == ""
    shown, note = for_people(torch.cat([bytes_, bytes_[:, :1]], 1))
    assert torch.equal(shown, bytes_) and "without their fourth channel" in note


def test_numbers_outside_0_to_1_are_stretched_image_by_image_and_it_is_said():
    images = torch.stack([torch.linspace(-2, 3, 12).view(1, 3, 4), torch.full((1, 3, 4), -7.0)])
    shown, note = for_people(images)
    assert shown[0].flatten().tolist() == [round(255 * step / 11) for step in range(12)] and shown[1].unique().tolist() == [0]
    assert "stretched one by one" in note and "examples_from_dataset(..., mean=, std=)" in note


@pytest.mark.parametrize("shape", [(2, 2, 5, 5), (2, 7, 5, 5), (2, 5), (0, 3, 4, 4)])
def test_what_is_no_picture_is_said_to_be_none(shape):
    shown, note = for_people(torch.zeros(shape))
    assert shown is None and note.startswith("No pictures are shown: an input has shape ")
