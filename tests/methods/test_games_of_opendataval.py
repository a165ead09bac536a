"""Values held against OpenDataVal 1.3.0, an independent library, stored because it cannot be installed beside assay (tests/golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from assay.core.ids import Ids
from assay.methods.banzhaf import banzhaf
from assay.methods.data_oob import data_oob
from assay.methods.knn_shapley import knn_shapley
from assay.methods.learner_loo import learner_loo
from methods.game_worlds import Table


@pytest.fixture(scope="module")
def theirs():
    with np.load(Path(__file__).parents[1] / "golden" / "games_opendataval.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize("k", [1, 5, 10])
def test_knn_shapley(theirs, k):
    rows, held = theirs["rows"], theirs["held_rows"]
    found = knn_shapley(rows, theirs["labels"].long(), held, theirs["held_labels"].long(), k=k).mean(0)
    # Theirs are in float32.
    torch.testing.assert_close(found, theirs[f"knn_shapley_{k}"], rtol=0, atol=1e-6)


def test_banzhaf_by_maximum_sample_reuse(theirs):
    found = banzhaf(theirs["banzhaf_coalitions"].bool(), theirs["banzhaf_values"])
    torch.testing.assert_close(found, theirs["banzhaf"], rtol=0, atol=1e-12)


def test_data_oob_on_the_same_bags(theirs):
    predicted = theirs["oob_predicted"].long()
    probs = torch.nn.functional.one_hot(predicted.clamp(min=0), 3).double()
    found = data_oob(probs, theirs["labels"].long(), theirs["oob_bags"].long())
    torch.testing.assert_close(found, theirs["data_oob"], rtol=0, atol=1e-7)


class Stored(Table):
    """A game of which the value of everyone and of all but one are known."""

    def __init__(self, coalitions, values):
        known = {tuple(row): value for row, value in zip(coalitions.bool().tolist(), values.tolist(), strict=True)}
        super().__init__(Ids(range(coalitions.shape[1])), known)

    def values(self, coalitions):
        return torch.tensor([self.known[tuple(row)] for row in coalitions.tolist()], dtype=torch.float64)


def test_leave_one_out(theirs):
    found = learner_loo(Stored(theirs["loo_coalitions"], theirs["loo_values"]))
    assert bool((found != 0).any())
    torch.testing.assert_close(found, theirs["loo"], rtol=0, atol=1e-12)
