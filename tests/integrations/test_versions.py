"""Versions of other libraries: which are tested, and one sentence where one keeps what the recorder needs elsewhere."""

import importlib.metadata
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import UsageError
from assay.integrations.versions import TESTED, check_has, check_prepared, unknown_version

DOCS = Path(__file__).parents[2] / "docs/integrations.md"


def test_the_documentation_names_the_versions_that_are_tested():
    rows = {}
    for line in DOCS.read_text().partition("Versions under test")[2].partition("**Cost.**")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].strip("-"):
            rows[cells[0].lower()] = f"{cells[2]} and {cells[1]}"
    assert rows == TESTED


@pytest.mark.parametrize("installed", ["9.9", None])
def test_the_sentence_names_version_and_cure(monkeypatch, installed):
    def version(package):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    which = " (9.9)" if installed else ""
    assert str(unknown_version("skorch", "no _optimizers in Net")) == (
        f"This version of skorch{which} has no _optimizers in Net, so assay does not know it; install one that is tested, 1.3.1 and 1.4.0, or record a loop of "
        "your own by assay.record."
    )
    with pytest.raises(
        UsageError, match=r"has no bias_ in Linear, so assay does not know it; install one that is tested, 4\.57 and 5\.24"
    ):
        check_has("transformers", nn.Linear(1, 1), "weight", "bias_")


def test_a_loader_of_another_accelerate_is_refused_before_anything_is_written(tmp_path):
    loader = DataLoader(TensorDataset(torch.randn(4, 2), torch.arange(4) % 2), 2)
    check_prepared(loader)
    loader.__class__ = type("DataLoaderShard", (DataLoader,), {"__module__": "accelerate.data_loader"})
    model = nn.Linear(2, 2)
    with pytest.raises(
        UsageError, match=r"This version of accelerate.* has no base_dataloader in DataLoaderShard, .* tested, 1\.10 and 1\.15"
    ):
        assay.record(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), loader)
    assert not (tmp_path / "run").exists()
