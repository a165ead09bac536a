import torch
from hypothesis import strategies as st

from assay.methods.least_confidence import LeastConfidence, least_confidence
from methods.worlds import value

VARIANTS = [{}, {"at": 3}]
REFUSED = ["at=last"]


def PURE(m, logits, labels, target):
    return least_confidence(logits.softmax(-1)[m.at])


def DRAWN(epochs):
    return st.fixed_dictionaries({"at": st.integers(-1, epochs - 1)})


def test_by_hand():
    probs = torch.tensor([[0.25, 0.25, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    assert least_confidence(probs).tolist() == [0.5, 0.0, 0.75]


def test_one_epoch_is_read():
    assert value(LeastConfidence(), top_probs=[[0.75], [0.5], [1.0]]) == [0.0]
    assert value(LeastConfidence(at=0), top_probs=[[0.75], [0.5], [1.0]]) == [0.25]


def test_leading_axes_and_precision_stay():
    assert least_confidence(torch.rand(3, 2, 5).softmax(-1)).shape == (3, 2)
    assert least_confidence(torch.rand(2, 5)).dtype == torch.float32
    assert least_confidence(torch.rand(2, 5, dtype=torch.float64)).dtype == torch.float64
