import math

import pytest
import torch
from hypothesis import strategies as st

from assay.core.errors import MissingEvidence, UsageError
from assay.core.needs import Need
from assay.core.scoring import score
from assay.methods.el2n import EL2N, el2n
from methods.worlds import in_memory, value

VARIANTS = [{"at": 5}, {"at": 3, "span": 4, "reduce": "sum"}]
REFUSED = ["at=-1", "span=0", "reduce=max"]


def PURE(m, logits, labels, target):
    mean = el2n(logits.softmax(-1)[m.at : m.at + m.span], labels)
    return mean * m.span if m.reduce == "sum" else mean


def DRAWN(epochs):
    return st.integers(0, epochs - 1).flatmap(
        lambda at: st.fixed_dictionaries(
            {"at": st.just(at), "span": st.integers(1, epochs - at), "reduce": st.sampled_from(["mean", "sum"])}
        )
    )


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(UsageError, match=r"1 labels are outside 0\.\.2 \(3\), at positions 1; give every example"):
        el2n(torch.rand(2, 3).softmax(-1), torch.tensor([0, 3]))


def test_by_hand():
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    got = el2n(probs, torch.tensor([0, 0, 0]))
    assert got.tolist() == pytest.approx([math.sqrt(0.5), math.sqrt(2), 0.0], abs=1e-15)


def test_leading_axes_are_averaged():
    probs = torch.rand(2, 3, 4, 5, dtype=torch.float64).softmax(-1)
    labels = torch.tensor([0, 1, 2, 4])
    one_by_one = torch.stack([el2n(probs[m, e], labels) for m in range(2) for e in range(3)])
    torch.testing.assert_close(el2n(probs, labels), one_by_one.mean(0))


def test_epochs_and_their_mean_or_sum():
    norms = torch.tensor([[0.1], [0.2], [0.6], [1.0]], dtype=torch.float64)
    assert value(EL2N(at=2), error_norms=norms) == [0.6]
    assert value(EL2N(at=1, span=2), error_norms=norms) == pytest.approx([0.4])
    assert value(EL2N(at=1, span=2, reduce="sum"), error_norms=norms) == pytest.approx([0.8])
    assert EL2N(at=1, span=2).epochs_read(4) == range(1, 3)


def test_epochs_that_were_not_recorded():
    evidence = in_memory({Need.ERROR_NORMS: torch.rand(10, 3)})
    with pytest.raises(MissingEvidence, match="el2n reads at least 11 epochs, but this run has 10"):
        score([EL2N()], evidence)
    with pytest.raises(UsageError, match="at must be 0 or more"):
        EL2N(at=-1)
    with pytest.raises(UsageError, match="span 1 or more"):
        EL2N(span=0)


def test_labels_of_any_integer_type_and_precision():
    probs = torch.rand(4, 5).softmax(-1)
    assert torch.equal(el2n(probs, torch.tensor([0, 1, 2, 4], dtype=torch.int32)), el2n(probs, torch.tensor([0, 1, 2, 4])))
    assert el2n(probs, torch.tensor([0, 1, 2, 4])).dtype == torch.float32
    assert el2n(probs.double(), torch.tensor([0, 1, 2, 4])).dtype == torch.float64
