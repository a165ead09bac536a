"""Saved probabilities as logits: whatever is computed of a softmax is that of the model's own logits."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.maths.observations import observe
from assay.maths.saved_probabilities import FLOOR, are_probs, log_probs


@given(st.integers(0, 2**32), st.integers(2, 6), st.floats(0.1, 8))
def test_every_fact_of_the_logarithms_is_that_of_the_logits(seed, classes, scale):
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(9, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(classes, (9,), generator=draw)
    # A row moved by one number has the same softmax, and so the same logarithms.
    made, floor, zeros = log_probs((logits + torch.randn(9, 1, generator=draw)).softmax(-1))
    assert floor == 0 and not bool(zeros.any())
    there, here = observe(logits, labels), observe(made, labels)
    assert here.keys() == there.keys()
    for name, fact in there.items():
        assert torch.allclose(here[name].double(), fact.double(), rtol=1e-9, atol=1e-11), name


def test_nothing_counts_as_less_than_the_smallest_number_above_it():
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.4, 0.1], [0.0, 1e-12, 1.0]], dtype=torch.float64)
    made, floor, zeros = log_probs(probs)
    assert floor == 0.5e-12 and zeros.tolist() == [True, False, True]
    # What is above 0 stays as it is.
    assert torch.equal(made[probs > 0], probs[probs > 0].log())
    assert torch.allclose(made[probs == 0].exp(), torch.tensor(0.5e-12, dtype=torch.float64), rtol=1e-12)
    # Of a forest, whose smallest vote is 1 of 100, confidence keeps its six digits.
    votes = torch.tensor([[1.0, 0.0], [0.01, 0.99]], dtype=torch.float64)
    made, floor, _ = log_probs(votes)
    assert floor == FLOOR and torch.allclose(made.softmax(-1), votes, atol=2e-7)
    # The smallest number that there is has no half.
    tiny = torch.tensor([[0.0, 5e-324, 1.0]], dtype=torch.float64)
    assert bool(log_probs(tiny)[0].isfinite().all())


def test_rows_that_are_probabilities():
    rows = torch.tensor([[0.5, 0.5], [0.5, 0.5004], [0.5, 0.502], [1.5, -0.5], [0.0, 1.0]], dtype=torch.float64)
    assert are_probs(rows).tolist() == [True, True, False, False, True]
