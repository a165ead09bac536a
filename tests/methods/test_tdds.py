import math

import pytest
import torch
from hypothesis import strategies as st

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.experiments.evidence import gather_logits
from assay.methods.tdds import EPS, TDDS, tdds
from methods.drawn import windowed
from methods.worlds import value

VARIANTS = [{}, {"window": 3, "decay": 0.4, "inner": "kl", "outer": "sumsq"}, {"window": 5, "decay": 1.0, "epochs": 12}]
REFUSED = ["window=2", "decay=0", "decay=1.5", "decay=nan", "inner=l1", "outer=2"]


def PURE(m, logits, labels, target):
    return tdds(logits.softmax(-1)[: m.epochs], m.window, m.decay, inner=m.inner, outer=m.outer)


def DRAWN(epochs):
    return st.tuples(
        windowed(epochs, 3),
        st.fixed_dictionaries(
            {
                "decay": st.floats(0.05, 1.0) | st.just(1.0),
                "inner": st.sampled_from(["abs", "kl"]),
                "outer": st.sampled_from(["norm", "sumsq"]),
            }
        ),
    ).map(lambda pair: pair[0] | pair[1])


PROBS = torch.tensor([[[0.5, 0.5]], [[0.75, 0.25]], [[0.5, 0.5]], [[0.9, 0.1]]], dtype=torch.float64)


def change(now, before, absolute=True):
    terms = [p * (math.log(p + EPS) - math.log(q + EPS)) for p, q in zip(now, before, strict=True)]
    return sum(map(abs, terms)) if absolute else sum(terms)


@pytest.mark.parametrize("inner", ["abs", "kl"])
@pytest.mark.parametrize("outer", ["norm", "sumsq"])
def test_by_hand(inner, outer):
    rows = PROBS[:, 0].tolist()
    one, two, three = (change(rows[t + 1], rows[t], inner == "abs") for t in range(3))
    # Two changes lie half their difference from their mean, so the sum of squares is half the square of the difference.
    early, late = (one - two) ** 2 / 2, (two - three) ** 2 / 2
    if outer == "norm":
        early, late = math.sqrt(early), math.sqrt(late)
    expected = 0.8 * late + 0.8 * 0.2 * early
    assert tdds(PROBS, 3, 0.8, inner=inner, outer=outer).item() == pytest.approx(expected, rel=1e-12)
    method = TDDS(window=3, decay=0.8, inner=inner, outer=outer)
    assert value(method, logits=PROBS.log()) == pytest.approx([expected], rel=1e-12)


def test_the_kl_form_is_the_divergence():
    probs = torch.rand(4, 5, 6, dtype=torch.float64).softmax(-1)
    from scipy.special import rel_entr

    d = torch.stack([torch.from_numpy(rel_entr(probs[t + 1].numpy(), probs[t].numpy()).sum(-1)) for t in range(3)])
    expected = (d - d.mean(0)).square().sum(0)
    torch.testing.assert_close(tdds(probs, 4, 1.0, inner="kl", outer="sumsq"), expected, rtol=1e-5, atol=1e-12)


def test_the_window_slides():
    probs = torch.rand(20, 6, 3, dtype=torch.float64).softmax(-1)
    assert not torch.allclose(tdds(probs, 5), tdds(probs[:-3], 5))


def test_a_decay_of_one_is_the_newest_window_alone():
    probs = torch.rand(9, 6, 3, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(tdds(probs, 4, 1.0), tdds(probs[-4:], 4, 1.0), rtol=1e-12, atol=1e-14)
    assert TDDS(window=4, decay=1.0).epochs_read(9) == range(5, 9)
    assert value(TDDS(window=4, decay=1.0), logits=probs.log()) == pytest.approx(tdds(probs, 4, 1.0).tolist(), rel=1e-12)


def test_constant_and_saturated_probabilities_give_finite_values():
    still = torch.zeros(12, 1, 3, dtype=torch.float64)
    still[..., 0] = 1.0
    assert tdds(still).item() == 0
    turning = still.clone()
    turning[::2] = turning[::2].roll(1, -1)
    assert math.isfinite(tdds(turning).item())


@pytest.mark.parametrize("decay, read", [(1.0, 5), (0.9, 34), (0.5, 104), (0.1, 160)])
def test_windows_too_old_to_matter_are_not_read(decay, read):
    method = TDDS(window=5, decay=decay)
    assert method.epochs_read(160) == range(160 - read, 160)
    logits = 3 * torch.randn(160, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The weight of a window falls below the rounding of the sum long before the window is left out.
    values = method.run(gather_logits(Ids(range(6)), logits, torch.zeros(6, dtype=torch.int64))).values
    torch.testing.assert_close(values, tdds(logits.softmax(-1), 5, decay), rtol=1e-13, atol=0)
    assert TDDS(decay=1e-320).epochs_read(160) == range(160)


def test_too_short_windows_runs_and_wrong_decays():
    with pytest.raises(UsageError, match="9 epochs are fewer than window=10"):
        tdds(torch.rand(9, 2, 3).softmax(-1))
    assert len(tdds(torch.rand(10, 2, 3).softmax(-1))) == 2
    for window in (1, 2):
        with pytest.raises(UsageError, match=f"window={window} is too short; a window needs at least 3"):
            tdds(torch.rand(9, 2, 3).softmax(-1), window)
        with pytest.raises(UsageError, match=f"window={window} is too short"):
            TDDS(window=window)
    for decay in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match=r"outside \(0, 1\]"):
            tdds(torch.rand(12, 2, 3).softmax(-1), decay=decay)
        with pytest.raises(UsageError, match=r"outside \(0, 1\]"):
            TDDS(decay=decay)


def test_units_and_precision():
    assert TDDS().unit == "nats" and TDDS(outer="sumsq").unit == "nats squared"
    assert tdds(torch.rand(12, 4, 3).softmax(-1)).dtype == torch.float32
    assert tdds(torch.rand(12, 4, 3, dtype=torch.float64).softmax(-1)).dtype == torch.float64
