"""Loops that train on mixtures of examples are told so; loops that prepare their inputs are not."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.integrations.mixing import mixture_of

IMAGES = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def mixup(x):
    return 0.7 * x + 0.3 * x.roll(3, 0)


def cutmix(x):
    mixed = x.clone()
    mixed[:, :, 1:4, 2:5] = x.roll(3, 0)[:, :, 1:4, 2:5]
    return mixed


PREPARED = {
    "as it is": lambda x: x,
    "normalised": lambda x: (x - 0.4) / 0.3,
    "noisy": lambda x: x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
    "flipped": lambda x: x.flip(-1),
    "shifted": lambda x: x.roll(1, -1),
    "erased": lambda x: x * (torch.arange(6) > 2),
    "centred": lambda x: x - x.mean(0),
    "scaled": lambda x: 0.5 * x,
}


@pytest.mark.parametrize(("change", "kind"), [(mixup, "mixup"), (cutmix, "CutMix")])
def test_mixtures_are_known(change, kind):
    assert mixture_of(change(IMAGES), IMAGES) == kind


@pytest.mark.parametrize("name", PREPARED)
def test_what_is_prepared_is_no_mixture(name):
    assert mixture_of(PREPARED[name](IMAGES), IMAGES) is None


def test_a_smaller_scale_is_no_share_of_an_empty_image():
    images = torch.cat([IMAGES[:7], torch.zeros(1, 1, 6, 6)])
    assert mixture_of(0.5 * images, images) is None and mixture_of(mixup(images), images) == "mixup"


def train(folder, change, view="train"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(24) % 3), 8, shuffle=True)
    with assay.record(folder, model, optimizer, loader, assay.Recording(view=view)) as recorder:
        for _ in range(2):
            for x, y in recorder.epoch():
                logits = model(change(x))
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    assert not model._forward_pre_hooks and assay.Run(folder).epochs == 2


@pytest.mark.parametrize(("change", "kind"), [(mixup, "mixup"), (cutmix, "CutMix")])
def test_a_loop_that_mixes_examples_is_told_so_once(tmp_path, change, kind):
    with pytest.warns(UserWarning, match=rf"mixtures of two examples \({kind}\).*view='eval'") as caught:
        train(tmp_path / "run", change)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path / "clean", change, view="eval")
        train(tmp_path / "plain", PREPARED["normalised"])
