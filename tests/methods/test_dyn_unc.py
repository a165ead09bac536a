import math

import pytest
import torch
from hypothesis import strategies as st

from assay.core.errors import MissingEvidence, UsageError
from assay.core.needs import Need
from assay.core.scoring import score
from assay.methods.dyn_unc import DynUnc, dyn_unc
from methods.drawn import windowed
from methods.worlds import in_memory, value

VARIANTS = [{"window": 3}, {"drop_last": True}, {"window": 4, "drop_last": True, "epochs": 9}]
REFUSED = ["window=1", "window=12,drop_last=true,epochs=12", "drop_last=perhaps"]


def PURE(m, logits, labels, target):
    return dyn_unc(target[: m.epochs], m.window, drop_last=m.drop_last)


def DRAWN(epochs):
    return st.booleans().flatmap(lambda drop: windowed(epochs, more=int(drop)).map(lambda options: options | {"drop_last": drop}))


PROBS = torch.tensor([[0.0], [0.5], [1.0], [1.0], [0.0]], dtype=torch.float64)


def test_by_hand():
    # Standard deviations (ddof 1) of the windows of two: sqrt(1/8), sqrt(1/8), 0, sqrt(1/2).
    spread = [math.sqrt(1 / 8), math.sqrt(1 / 8), 0.0, math.sqrt(1 / 2)]
    assert dyn_unc(PROBS, 2).item() == pytest.approx(sum(spread) / 4, abs=1e-15)
    assert value(DynUnc(window=2), target_probs=PROBS) == pytest.approx([sum(spread) / 4], abs=1e-15)
    assert dyn_unc(PROBS, 2, drop_last=True).item() == pytest.approx(sum(spread[:3]) / 3, abs=1e-15)
    assert value(DynUnc(window=2, drop_last=True), target_probs=PROBS) == pytest.approx([sum(spread[:3]) / 3], abs=1e-15)


def test_the_last_window_is_that_of_the_epochs_read():
    assert DynUnc(window=2, drop_last=True, epochs=4).epochs_read(5) == range(3)
    got = value(DynUnc(window=2, drop_last=True, epochs=4), target_probs=PROBS)
    assert got == pytest.approx(dyn_unc(PROBS[:4], 2, drop_last=True).tolist(), abs=1e-15)


def test_constant_is_zero_and_the_largest_value_is_that_of_the_docstring():
    assert dyn_unc(torch.full((20, 1), 0.1, dtype=torch.float64)).item() < 1e-15
    turns = torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(10, 1)
    assert dyn_unc(turns).item() == pytest.approx(math.sqrt(10 / 36))


@pytest.mark.parametrize("drop_last", [False, True])
def test_too_few_epochs(drop_last):
    least = 10 + drop_last
    assert len(dyn_unc(torch.rand(least, 3), drop_last=drop_last)) == 3
    with pytest.raises(UsageError, match="9 epochs are fewer than window=10"):
        dyn_unc(torch.rand(least - 1, 3), drop_last=drop_last)
    with pytest.raises(MissingEvidence, match=f"at least {least} epochs, but this run has {least - 1}"):
        score([DynUnc(drop_last=drop_last)], in_memory({Need.TARGET_PROBS: torch.rand(least - 1, 3)}))
    with pytest.raises(UsageError, match="window=1 is too short"):
        dyn_unc(torch.rand(5, 3), 1, drop_last=drop_last)


def test_an_unfinished_fold_is_no_value():
    # Live, every epoch is the last one so far, so this variant absorbs nothing; half a window divided by -8 would be a number.
    method = DynUnc(drop_last=True)
    with pytest.raises(MissingEvidence, match=r"dyn_unc:drop_last=True has folded 0 epochs, its window takes 10"):
        method.compute(method.start(3, 2))


def test_precision_stays():
    assert dyn_unc(torch.rand(12, 4)).dtype == torch.float32
    assert dyn_unc(torch.rand(12, 4, dtype=torch.float64)).dtype == torch.float64
