"""Versions of other libraries: which are tested, and one sentence where one keeps what the recorder needs elsewhere."""

import importlib.metadata
import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import UsageError
from assay.integrations.versions import TESTED, check_has, check_prepared, unknown_version

ROOT = Path(__file__).parents[2]
PAGES = ["integrations.md", "integrations-sklearn.md"]


def rows_of(page):
    """Newer and older version by library, as a page says that they are tested."""
    lines = (ROOT / "docs" / page).read_text().partition("\n| | newer | older |\n|---|---|---|\n")[2].splitlines()
    rows = [line.strip("|").split("|") for line in itertools.takewhile(lambda line: line.startswith("|"), lines)]
    return {name.strip().lower(): (newer.strip(), older.strip()) for name, newer, older in rows}


def test_the_documentation_names_the_versions_that_are_tested():
    assert {name: f"{older} and {newer}" for name, (newer, older) in rows_of("integrations.md").items()} == TESTED


@pytest.mark.parametrize("page", PAGES)
def test_the_versions_that_are_tested_are_those_that_the_tests_install(page):
    rows = rows_of(page)
    assert len(rows) >= 3
    for number, file in enumerate(("constraints.txt", "constraints-older.txt")):
        pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / file).read_text(), re.MULTILINE))
        for name, versions in rows.items():
            pin = pins.get(name) or pins[f"{name}-cpu"]
            assert f"{pin}.".startswith(f"{versions[number]}."), f"{file} has {name} {pin}"


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
