import types

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.studies.alterations import blurred, check_in_memory, rotated, transformed

KEYS = Ids(range(400)).keys


def test_a_blur_is_the_convolution_by_hand():
    images = torch.rand(2, 3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 5.0) ** 2)
    weights /= weights.sum()
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    by_hand = sum(weights[a] * weights[b] * padded[:, :, a : a + 7, b : b + 6] for a in range(5) for b in range(5))
    np.testing.assert_allclose(blurred(images), by_hand, rtol=1e-12)


def test_a_quarter_turn_is_a_quarter_turn():
    images = torch.rand(1, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = rotated(images, torch.tensor([90.0]))
    assert any(torch.allclose(turned, torch.rot90(images, k, (2, 3))) for k in (1, 3))
    # A picture that is wider than high is turned and not sheared: its middle stays a circle of the same weight.
    wide = torch.zeros(1, 1, 9, 21, dtype=torch.float64)
    wide[0, 0, 4, 8:13] = 1
    assert rotated(wide, torch.tensor([90.0]))[0, 0, 2:7, 10] == pytest.approx([1.0] * 5)


def test_transforms_are_drawn_by_id_evenly_and_by_intensity():
    images = torch.randint(60, 190, (400, 1, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = transformed(images, KEYS, 1.0, 7)
    few = transformed(images[100:110], KEYS[100:110], 1.0, 7)
    assert torch.equal(found[100:110], few) and not torch.equal(found, transformed(images, KEYS, 1.0, 8))
    change = (found.double() - images.double()).abs().mean()
    assert change > 3 * (transformed(images, KEYS, 0.1, 7).double() - images.double()).abs().mean() > 0
    assert torch.equal(transformed(images, KEYS, 0.0, 7), images)
    # Contrast keeps each image's mean, and noise has its deviation.
    kinds = np.floor(4 * _uniform(7)).astype(int)
    assert set(np.bincount(kinds) > 70) == {True}
    kept = torch.from_numpy(kinds == 3)
    assert (found[kept].double().mean((1, 2, 3)) - images[kept].double().mean((1, 2, 3))).abs().max() < 0.5
    noise = (found.double() - images.double())[torch.from_numpy(kinds == 0)]
    assert 23 < noise.std() < 27


def _uniform(seed):
    from assay.maths import draws

    return draws.uniform(KEYS, seed, "transform").numpy()


def test_data_that_are_read_from_disk_are_not_altered():
    with pytest.raises(UsageError, match="read from disk batch by batch"):
        check_in_memory(types.SimpleNamespace(inputs=object()), "imagenet:path=DIR")
