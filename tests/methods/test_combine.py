"""Combined rankings, by hand and against single methods."""

import statistics

import pytest
import torch

import assay
from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.methods import parse
from assay.methods.combine import combine

VARIANTS = []
REFUSED = [
    "methods=aum",
    "methods=aum+aum",
    "methods=aum+entropy",
    "methods=aum+nonsense",
    "methods=combine+aum",
    "methods=loo+aum",
]


def test_by_hand():
    made = combine(torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 5.0]]))
    normal = statistics.NormalDist().inv_cdf
    wanted = [(normal(3 / 4) + normal(1.5 / 4)) / 2, (normal(1 / 4) + normal(1.5 / 4)) / 2, (normal(2 / 4) + normal(3 / 4)) / 2]
    assert made.tolist() == pytest.approx(wanted)


def test_options_of_a_part_follow_behind_semicolons():
    method = parse("combine:methods=aum;form=probs+knn_disagreement;features=inputs;k=5")
    assert [one.title for one in method.parts] == ["aum:form=probs", "knn_disagreement:features=inputs,k=5"]
    assert Need.FEATURES in method.reads and method.asks.features == ("inputs",)


def test_it_is_the_combination_of_the_scores_alone():
    draw = torch.Generator().manual_seed(0)
    evidence = assay.gather_logits(Ids(range(30)), torch.randn(4, 30, 3, generator=draw), torch.arange(30) % 3)
    table = assay.score(evidence, ["combine:methods=aum+loss", "aum", "loss"])
    together = combine(torch.stack([table["aum"].suspicion(), table["loss"].suspicion()]))
    assert torch.equal(table["combine:methods=aum+loss"].values, together)
    with pytest.raises(UsageError, match="ranks difficulty"):
        parse("combine:methods=aum+dual")
