import numpy as np
import torch

from assay.core.ids import Ids
from assay.studies.alterations import transformed

KEYS = Ids(range(400)).keys


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
