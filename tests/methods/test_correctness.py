import torch
from hypothesis import strategies as st

from assay.methods.correctness import Correctness, correctness
from methods.drawn import spans
from methods.worlds import value

VARIANTS = [{}, {"epochs": 8}]
REFUSED = ["epochs=0"]


def PURE(m, logits, labels, target):
    return correctness((logits.argmax(-1) == labels)[: m.epochs])


def DRAWN(epochs):
    return st.fixed_dictionaries({"epochs": spans(epochs, 1)})


CORRECT = torch.tensor([[True, False, False], [True, True, False], [True, False, False], [True, False, False]])


def test_by_hand():
    assert correctness(CORRECT).tolist() == [1.0, 0.25, 0.0]
    assert value(Correctness(), correct=CORRECT) == [1.0, 0.25, 0.0]
    assert value(Correctness(epochs=2), correct=CORRECT) == [1.0, 0.5, 0.0]


def test_it_is_float64():
    assert correctness(CORRECT).dtype == torch.float64
