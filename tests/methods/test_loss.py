import pytest
import torch
from hypothesis import strategies as st

from assay.core.needs import Need
from assay.methods.loss import Loss, loss
from methods.drawn import spans
from methods.worlds import facts_of, value

VARIANTS = [{}, {"epochs": 8}]
REFUSED = ["epochs=0"]


def PURE(m, logits, labels, target):
    return loss(-logits.log_softmax(-1)[: m.epochs, torch.arange(len(labels)), labels])


def DRAWN(epochs):
    return st.fixed_dictionaries({"epochs": spans(epochs, 1)})


def test_by_hand():
    losses = torch.tensor([[0.0, 1.0], [0.5, 3.0]], dtype=torch.float64)
    assert loss(losses).tolist() == [0.25, 2.0]
    assert value(Loss(), losses=losses) == [0.25, 2.0]
    assert value(Loss(epochs=1), losses=losses) == [0.0, 1.0]


def test_it_is_the_cross_entropy_and_stays_exact_where_the_probability_vanishes():
    logits = torch.tensor([[[0.0, 800.0]]], dtype=torch.float64)
    losses = facts_of(logits, torch.tensor([0]))[Need.LOSSES]
    assert value(Loss(), losses=losses) == pytest.approx([800.0])


def test_precision_stays():
    assert loss(torch.rand(2, 5)).dtype == torch.float32
    assert loss(torch.rand(2, 5, dtype=torch.float64)).dtype == torch.float64
