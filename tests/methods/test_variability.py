import math

import pytest
import torch
from hypothesis import strategies as st

from assay.core.errors import MissingEvidence, UsageError
from assay.core.needs import Need
from assay.core.scoring import score
from assay.methods.variability import Variability, variability
from methods.drawn import spans
from methods.worlds import in_memory, value

VARIANTS = [{}, {"ddof": 1, "epochs": 8}]
REFUSED = ["ddof=2", "ddof=-1", "ddof=1,epochs=1"]


def PURE(m, logits, labels, target):
    return variability(target[: m.epochs], m.ddof)


def DRAWN(epochs):
    return st.integers(0, 1).flatmap(
        lambda ddof: st.fixed_dictionaries({"ddof": st.just(ddof), "epochs": spans(epochs, 1 + ddof)})
    )


PROBS = torch.tensor([[0.0, 0.3], [1.0, 0.3], [0.0, 0.3], [1.0, 0.3]], dtype=torch.float64)


def test_by_hand():
    assert variability(PROBS).tolist() == pytest.approx([0.5, 0.0], abs=1e-15)
    assert variability(PROBS, ddof=1).tolist() == pytest.approx([math.sqrt(1 / 3), 0.0], abs=1e-15)
    assert value(Variability(), target_probs=PROBS) == pytest.approx([0.5, 0.0], abs=1e-15)
    assert value(Variability(ddof=1), target_probs=PROBS) == pytest.approx([math.sqrt(1 / 3), 0.0], abs=1e-15)


def test_examples_that_hardly_move_do_not_cancel():
    # The mean of squares minus the square of the mean would be rounding noise here.
    probs = 1 - torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64) * 2**-40
    assert value(Variability(), target_probs=probs) == pytest.approx([math.sqrt(1.25) * 2**-40], rel=1e-9)


def test_one_epoch():
    assert variability(PROBS[:1]).tolist() == [0.0, 0.0]
    with pytest.raises(UsageError, match="1 epochs are too few for ddof=1; give at least 2"):
        variability(PROBS[:1], ddof=1)
    with pytest.raises(MissingEvidence, match="at least 2 epochs, but this run has 1"):
        score([Variability(ddof=1)], in_memory({Need.TARGET_PROBS: PROBS[:1]}))


@pytest.mark.parametrize("ddof", [-1, 2])
def test_ddof_is_0_or_1(ddof):
    with pytest.raises(UsageError, match=f"ddof={ddof} is neither 0 nor 1"):
        variability(PROBS, ddof)
    with pytest.raises(UsageError, match=f"ddof={ddof} is neither 0 nor 1"):
        Variability(ddof=ddof)


def test_precision_stays():
    assert variability(PROBS.float()).dtype == torch.float32 and variability(PROBS).dtype == torch.float64
