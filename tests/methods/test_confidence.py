import torch
from hypothesis import strategies as st

from assay.methods.confidence import Confidence, confidence
from methods.drawn import spans
from methods.worlds import value

VARIANTS = [{}, {"epochs": 8}]
REFUSED = ["epochs=0"]


def PURE(m, logits, labels, target):
    return confidence(target[: m.epochs])


def DRAWN(epochs):
    return st.fixed_dictionaries({"epochs": spans(epochs, 1)})


PROBS = torch.tensor([[0.0, 1.0, 0.25], [0.5, 1.0, 0.75]], dtype=torch.float64)


def test_by_hand():
    assert confidence(PROBS).tolist() == [0.25, 1.0, 0.5]
    assert value(Confidence(), target_probs=PROBS) == [0.25, 1.0, 0.5]
    assert value(Confidence(epochs=1), target_probs=PROBS) == [0.0, 1.0, 0.25]


def test_precision_stays():
    assert confidence(PROBS.float()).dtype == torch.float32 and confidence(PROBS).dtype == torch.float64
