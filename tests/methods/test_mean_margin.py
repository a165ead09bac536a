"""Mean margin: by hand, at probabilities of 0, and against AUM where the two agree."""

import math

import pytest
import torch

import assay
from assay.core.ids import Ids
from assay.methods.mean_margin import mean_margin

VARIANTS = [{}, {"form": "probs"}]
REFUSED = ["form=logits"]


def test_by_hand():
    logits = torch.log(torch.tensor([[[0.8, 0.1, 0.1]], [[0.2, 0.5, 0.3]]], dtype=torch.float64))
    evidence = assay.gather_logits(Ids([7]), logits, torch.tensor([0]))
    (found,) = assay.score(evidence, "mean_margin").values()
    assert float(found.values) == pytest.approx(math.log(0.5) - math.log(0.3), rel=1e-12)
    (found,) = assay.score(evidence, "mean_margin:form=probs").values()
    assert float(found.values) == pytest.approx(0.2, rel=1e-12) and found.unit == "probability"


def test_it_is_aum_where_there_is_one_epoch():
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 20, 4, generator=draw, dtype=torch.float64), torch.arange(20) % 4
    evidence = assay.gather_logits(Ids(range(20)), logits, labels)
    found = assay.score(evidence, ["mean_margin", "aum"])
    torch.testing.assert_close(found["mean_margin"].values, found["aum"].values, rtol=1e-12, atol=1e-12)


def test_a_probability_of_nothing_has_a_finite_margin():
    found = mean_margin(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]), torch.zeros(3, dtype=torch.int64))
    assert found[0] == -found[1] and 700 < float(found[1]) < 709 and float(found[2]) == 0
