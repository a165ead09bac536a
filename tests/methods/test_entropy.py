import math

import pytest
import torch
from hypothesis import strategies as st

from assay.methods.entropy import Entropy, entropy
from methods.worlds import value

VARIANTS = [{}, {"at": 3}]
REFUSED = ["at=-2"]


def PURE(m, logits, labels, target):
    return entropy(logits.softmax(-1)[m.at])


def DRAWN(epochs):
    return st.fixed_dictionaries({"at": st.integers(-1, epochs - 1)})


def test_by_hand():
    probs = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    assert entropy(probs).tolist() == pytest.approx([math.log(4), 0.0, math.log(2)], abs=1e-15)


def test_one_epoch_is_read():
    assert value(Entropy(), entropies=[[0.125], [0.25], [0.5]]) == [0.5]
    assert value(Entropy(at=1), entropies=[[0.125], [0.25], [0.5]]) == [0.25]


def test_leading_axes_and_precision_stay():
    assert entropy(torch.rand(3, 2, 5).softmax(-1)).shape == (3, 2)
    assert entropy(torch.rand(2, 5).softmax(-1)).dtype == torch.float32
    assert entropy(torch.rand(2, 5, dtype=torch.float64).softmax(-1)).dtype == torch.float64
