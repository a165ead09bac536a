"""CLD: by NumPy's correlation, at losses that do not change, and of recorded runs."""

import numpy as np
import pytest
import torch

import assay
from assay.core.errors import MissingEvidence
from assay.methods.cld import cld
from experiments.small import recorded

VARIANTS = [{}]


def by_hand(losses, labels, validation):
    """One example after the other, by NumPy."""
    found = [
        np.corrcoef(np.diff(losses[:, one]), np.diff(validation[:, label]))[0, 1] for one, label in enumerate(labels.tolist())
    ]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_is_the_correlation_of_the_differences(scale):
    draw = np.random.default_rng(0)
    losses, validation, labels = draw.random((7, 30)) * scale, draw.random((7, 4)), torch.arange(30) % 4
    found = cld(torch.from_numpy(losses), labels, torch.from_numpy(validation))
    torch.testing.assert_close(found, by_hand(losses, labels, validation), rtol=1e-9, atol=1e-12)


def test_with_its_class_against_it_and_without_change():
    validation = torch.tensor([[1.0, 5.0], [0.6, 5.0], [0.5, 5.0], [0.1, 5.0]], dtype=torch.float64)
    one = validation[:, 0]
    losses = torch.stack([2 * one + 3, -one, torch.full((4,), 0.1), torch.tensor([0.3, 0.2, 0.1, 0.0]), one], 1)
    found = cld(losses, torch.tensor([0, 0, 0, 0, 1]), validation)
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_of_a_recorded_run_and_its_refusals(tmp_path):
    run = recorded(tmp_path / "run", validation=0.2)
    (found,) = assay.score(run, "cld").values()
    losses = torch.stack([run.shard(epoch).read("losses") for epoch in range(3)]).double().numpy()
    validation = torch.stack([run.validation(epoch)[0] for epoch in range(3)]).double().numpy()
    torch.testing.assert_close(found.values, by_hand(losses, run.labels, validation), rtol=1e-7, atol=1e-9)
    without = recorded(tmp_path / "without")
    with pytest.raises(MissingEvidence, match=r"cld needs validation_losses, which this run lacks .*--validation 0\.1"):
        assay.score(without, "cld")
    short = recorded(tmp_path / "short", validation=0.2, recipe={"epochs": 2})
    with pytest.raises(MissingEvidence, match="cld reads at least 3 epochs, but this run has 2"):
        assay.score(short, "cld")


def test_examples_of_a_class_without_validation_examples_have_no_value(tmp_path):
    torch.manual_seed(0)
    inputs, labels = torch.randn(30, 4), torch.arange(30) % 3
    model = torch.nn.Linear(4, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with assay.record(tmp_path / "run", model, optimizer, loader) as recorder:
        for _ in range(4):
            for x, y in recorder.epoch():
                optimizer.zero_grad()
                logits = model(x)
                torch.nn.functional.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
            with torch.no_grad():
                recorder.validation(model(inputs[:10] + 0.1), torch.arange(10) % 2)
    (found,) = assay.score(tmp_path / "run", "cld").values()
    assert len(found) == 20 and len(found.unscored) == 10 and "Classes 2 (numbered from 0)" in found.warnings[0]
