import math

import pytest
import torch
from hypothesis import strategies as st

from assay.core.errors import UsageError
from assay.methods.forgetting import Forgetting, forgetting
from methods.drawn import spans
from methods.worlds import value

VARIANTS = [{}, {"never_learned": "count"}, {"never_learned": 100.0, "epochs": 10}]
REFUSED = ["never_learned=inf", "never_learned=nan", "never_learned=max"]


def PURE(m, logits, labels, target):
    never = {"epochs": float(m.epochs or len(logits)), "count": 0.0}.get(m.never_learned, m.never_learned)
    return forgetting((logits.argmax(-1) == labels)[: m.epochs], never)


def DRAWN(epochs):
    return st.fixed_dictionaries({"epochs": spans(epochs, 1), "never_learned": st.sampled_from(["epochs", "count", -1.5])})


CORRECT = torch.tensor(
    [
        # always, never, from the middle, in turn from right, in turn from wrong, right at first only
        [1, 0, 0, 1, 0, 1],
        [1, 0, 0, 0, 1, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 1, 0, 1, 0],
    ],
    dtype=torch.bool,
)


def test_by_hand():
    assert forgetting(CORRECT).tolist() == [0, math.inf, 0, 2, 1, 1]
    assert forgetting(CORRECT, never_learned=7.0).tolist() == [0, 7, 0, 2, 1, 1]


@pytest.mark.parametrize(("never_learned", "expected"), [("epochs", 4), ("count", 0), (1000.0, 1000), (0.5, 0.5)])
def test_never_learned(never_learned, expected):
    assert value(Forgetting(never_learned=never_learned), correct=CORRECT) == [0, expected, 0, 2, 1, 1]


def test_the_value_of_never_learned_is_the_number_of_epochs_read():
    assert value(Forgetting(epochs=3), correct=CORRECT) == [0, 3, 0, 1, 1, 1]


def test_the_first_epoch_has_no_predecessor():
    assert value(Forgetting(), correct=CORRECT[:1]) == [0, 1, 1, 0, 1, 0]
    assert forgetting(CORRECT[:1]).tolist() == [0, math.inf, math.inf, 0, math.inf, 0]


@pytest.mark.parametrize("never_learned", [math.inf, -math.inf, math.nan])
def test_a_score_is_finite(never_learned):
    with pytest.raises(UsageError, match="is not a finite number; use never_learned=epochs"):
        Forgetting(never_learned=never_learned)
