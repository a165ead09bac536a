import math

import pytest
import torch

from assay.core.errors import UsageError
from assay.methods.dual import DUAL, dual
from methods.drawn import windowed
from methods.worlds import value

VARIANTS = [{}, {"window": 4, "epochs": 9}]
REFUSED = ["window=1", "window=0", "window=2.5", "window=", "epochs=9", "epochs=0", "epochs=-1"]


def PURE(m, logits, labels, target):
    return dual(target[: m.epochs], m.window)


def DRAWN(epochs):
    return windowed(epochs)


def test_by_hand():
    # Windows (0, 1/2), (1/2, 1), (1, 1): means 1/4, 3/4, 1; standard deviations sqrt(1/8), sqrt(1/8), 0.
    probs = torch.tensor([[0.0], [0.5], [1.0], [1.0]], dtype=torch.float64)
    expected = (0.75 * math.sqrt(1 / 8) + 0.25 * math.sqrt(1 / 8) + 0) / 3
    assert dual(probs, window=2).tolist() == pytest.approx([expected], abs=1e-15)
    assert value(DUAL(window=2), target_probs=probs) == pytest.approx([expected], abs=1e-15)


def test_the_factor_stands_inside_the_mean_over_windows():
    probs = torch.tensor([[0.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
    assert dual(probs, 2).item() == pytest.approx(0.5 * math.sqrt(0.5) / 3)


def test_constant_trajectories_give_zero():
    probs = torch.tensor([[0.0, 0.1, 0.3, 1 - 2**-53, 1.0]], dtype=torch.float64).expand(25, 5)
    assert dual(probs).abs().max() < 1e-15
    assert max(map(abs, value(DUAL(), target_probs=probs))) < 1e-15


def test_the_largest_value_is_that_of_the_docstring():
    best = max(dual(torch.tensor([[1.0]] * right + [[0.0]] * (10 - right)), 10).item() for right in range(11))
    assert 0.33 < best <= 3 * math.sqrt(3) / 16 * math.sqrt(10 / 9)


def test_one_window_is_enough_and_fewer_epochs_are_not():
    probs = torch.rand(10, 3, dtype=torch.float64)
    expected = (1 - probs.mean(0)) * probs.std(0)
    torch.testing.assert_close(dual(probs, 10), expected)
    with pytest.raises(UsageError, match="9 epochs are fewer than window=10; give more epochs or a window of at most 9"):
        dual(probs[:9], 10)


def test_a_window_of_one_has_no_spread():
    with pytest.raises(UsageError, match="window=1 is too short; a window needs at least 2 epochs"):
        dual(torch.rand(5, 2), 1)
    with pytest.raises(UsageError, match="window=1 is too short"):
        DUAL(window=1)
    with pytest.raises(UsageError, match="epochs=9 is too few; at least 10"):
        DUAL(epochs=9)


def test_only_the_first_epochs_are_read():
    probs = torch.rand(12, 4, dtype=torch.float64)
    assert value(DUAL(window=3, epochs=7), target_probs=probs) == pytest.approx(dual(probs[:7], 3).tolist(), abs=1e-14)


def test_precision_stays():
    assert dual(torch.rand(12, 4)).dtype == torch.float32
    assert dual(torch.rand(12, 4, dtype=torch.float64)).dtype == torch.float64
