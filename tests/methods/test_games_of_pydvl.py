"""Games held against values of pyDVL 0.10.0, an independent library, stored because it cannot be installed beside assay (tests/golden/README.md)."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.methods.banzhaf import banzhaf
from assay.methods.beta_shapley import beta_shapley
from assay.methods.data_oob import data_oob
from assay.methods.least_core import least_core
from assay.methods.shapley import shapley
from methods.game_worlds import every_coalition, number

PLAYERS = 7


@pytest.fixture(scope="module")
def theirs():
    with np.load(Path(__file__).parents[1] / "golden" / "games.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def paths(theirs):
    """Every order of the players, and the values of its beginnings."""
    orders = list(itertools.permutations(range(PLAYERS)))
    values = [[float(theirs["table"][number(order[:size])]) for size in range(PLAYERS + 1)] for order in orders]
    return torch.tensor(orders), torch.tensor(values, dtype=torch.float64)


def test_shapley_and_beta_shapley(theirs, paths):
    torch.testing.assert_close(shapley(*paths), theirs["shapley"], rtol=1e-9, atol=1e-9)
    for alpha, beta in ((16, 1), (1, 16), (4, 4)):
        found = beta_shapley(*paths, alpha=float(alpha), beta=float(beta))
        torch.testing.assert_close(found, theirs[f"beta_{alpha}_{beta}"], rtol=1e-9, atol=1e-9)


def test_banzhaf_by_maximum_sample_reuse_over_all_coalitions(theirs):
    torch.testing.assert_close(banzhaf(every_coalition(PLAYERS), theirs["table"]), theirs["banzhaf"], rtol=1e-9, atol=1e-9)


def test_least_core(theirs):
    coalitions, values = every_coalition(PLAYERS), theirs["table"]
    shares, short = least_core(coalitions, values, float(values[-1]))
    # Their solver is iterative: its own shares fall short by 1e-5 more than the e that it says.
    told = float((values[1:-1] - coalitions[1:-1].double() @ theirs["least_core"]).max())
    assert short == pytest.approx(float(theirs["least_core_e"]), abs=1e-5) and short <= told + 1e-7
    assert float((values[1:-1] - coalitions[1:-1].double() @ shares).max()) == pytest.approx(short, abs=1e-7)
    torch.testing.assert_close(shares, theirs["least_core"], rtol=0, atol=1e-4)


def test_data_oob_on_the_same_bags(theirs):
    probs = torch.nn.functional.one_hot(theirs["oob_predicted"].long(), 3).double()
    found = data_oob(probs, theirs["oob_labels"], theirs["oob_bags"].long())
    torch.testing.assert_close(found, theirs["data_oob"], rtol=1e-12, atol=1e-12)
