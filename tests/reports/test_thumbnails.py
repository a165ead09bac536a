import io

import pytest
import torch
from PIL import Image

from assay.core.errors import UsageError
from assay.reports import thumbnail


def opened(data: bytes) -> torch.Tensor:
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "WEBP"
    return torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8).reshape(
        picture.height, picture.width, 3
    )


@pytest.mark.parametrize(
    "shape, size", [((3, 64, 32), (32, 16)), ((3, 32, 32), (32, 32)), ((1, 8, 8), (8, 8)), ((3, 1, 500), (1, 32))]
)
def test_no_side_is_longer_than_asked_and_nothing_is_enlarged(shape, size):
    assert opened(thumbnail(torch.full(shape, 99, dtype=torch.uint8))).shape[:2] == size


def test_small_drawings_are_kept_pixel_by_pixel():
    image = torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(opened(thumbnail(image)), image.permute(1, 2, 0))
    grey = image[:1]
    assert torch.equal(opened(thumbnail(grey)), grey.expand(3, 8, 8).permute(1, 2, 0))


def test_photographs_are_near_and_small():
    ramp = torch.linspace(0, 255, 32)
    noise = 20 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    image = (torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), ramp.flip(0).expand(32, 32)]) + noise).clamp(0, 255)
    data = thumbnail(image.to(torch.uint8))
    assert len(data) < 1200
    assert (opened(data).double() - image.permute(1, 2, 0)).abs().mean() < 15


def test_the_same_picture_gives_the_same_bytes():
    image = torch.arange(3 * 40 * 40).reshape(3, 40, 40).to(torch.uint8)
    assert thumbnail(image) == thumbnail(image.clone())


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(3, 0, 4, dtype=torch.uint8)]
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(UsageError, match="cannot be drawn"):
        thumbnail(image)
