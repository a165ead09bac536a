import torch
from hypothesis import strategies as st

from assay.methods.margin import Margin, margin
from methods.worlds import value

VARIANTS = [{}, {"at": 3}]
REFUSED = ["at=-5"]


def PURE(m, logits, labels, target):
    return margin(logits.softmax(-1)[m.at])


def DRAWN(epochs):
    return st.fixed_dictionaries({"at": st.integers(-1, epochs - 1)})


def test_by_hand():
    probs = torch.tensor([[0.125, 0.625, 0.25], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert margin(probs).tolist() == [0.375, 0.0, 1.0]


def test_one_epoch_is_read():
    top, second = [[0.75], [0.5]], [[0.125], [0.5]]
    assert value(Margin(), top_probs=top, second_probs=second) == [0.0]
    assert value(Margin(at=0), top_probs=top, second_probs=second) == [0.625]


def test_leading_axes_and_precision_stay():
    assert margin(torch.rand(3, 2, 5)).shape == (3, 2)
    assert margin(torch.rand(2, 5)).dtype == torch.float32
    assert margin(torch.rand(2, 5, dtype=torch.float64)).dtype == torch.float64
