import torch
from hypothesis import strategies as st

from assay.methods.threshold_closeness import ThresholdCloseness, threshold_closeness
from methods.drawn import spans
from methods.worlds import value

VARIANTS = [{}, {"epochs": 8}]
REFUSED = ["epochs=0.5"]


def PURE(m, logits, labels, target):
    return threshold_closeness(target[: m.epochs])


def DRAWN(epochs):
    return st.fixed_dictionaries({"epochs": spans(epochs, 1)})


PROBS = torch.tensor([[0.0, 1.0, 0.25], [0.5, 1.0, 0.75]], dtype=torch.float64)


def test_by_hand():
    assert threshold_closeness(PROBS).tolist() == [0.1875, 0.0, 0.25]
    assert value(ThresholdCloseness(), target_probs=PROBS) == [0.1875, 0.0, 0.25]
    assert value(ThresholdCloseness(epochs=1), target_probs=PROBS) == [0.0, 0.0, 0.1875]


def test_precision_stays():
    assert threshold_closeness(PROBS.float()).dtype == torch.float32 and threshold_closeness(PROBS).dtype == torch.float64
