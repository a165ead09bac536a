import pytest
import torch
from hypothesis import strategies as st

from assay.core.errors import UsageError
from assay.core.needs import Need
from assay.methods.aum import AUM, aum
from methods.drawn import spans
from methods.worlds import facts_of, value

VARIANTS = [{}, {"form": "probs", "reduce": "sum"}, {"epochs": 6}]
REFUSED = ["form=prob", "reduce=max", "epochs=0"]


def PURE(m, logits, labels, target):
    mean = aum((logits if m.form == "logits" else logits.softmax(-1))[: m.epochs], labels)
    return mean * (m.epochs or len(logits)) if m.reduce == "sum" else mean


def DRAWN(epochs):
    return st.fixed_dictionaries(
        {"epochs": spans(epochs, 1), "form": st.sampled_from(["logits", "probs"]), "reduce": st.sampled_from(["mean", "sum"])}
    )


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(UsageError, match=r"1 labels are outside 0\.\.2 \(-1\), at positions 0"):
        aum(torch.rand(4, 2, 3), torch.tensor([-1, 2]))


def test_by_hand():
    logits = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 3.0, 1.0]]], dtype=torch.float64)  # two epochs, one example
    assert aum(logits, torch.tensor([0])).tolist() == [(1.0 - 3.0) / 2]
    assert aum(logits, torch.tensor([1])).tolist() == [(-1.0 + 2.0) / 2]
    assert value(AUM(), margins=[[1.0], [-3.0]]) == [-1.0]
    assert value(AUM(reduce="sum"), margins=[[1.0], [-3.0]]) == [-2.0]
    assert value(AUM(epochs=1), margins=[[1.0], [-3.0]]) == [1.0]


def test_the_given_class_is_masked_where_all_logits_are_negative():
    logits = torch.tensor([[[-1.0, -5.0, -7.0]]])
    assert aum(logits, torch.tensor([0])).item() == 4.0  # masked with 0 it would be -1


def test_a_tie_is_zero():
    assert aum(torch.tensor([[[2.0, 2.0, 0.0]]]), torch.tensor([1])).item() == 0.0


def test_the_form_of_the_ccs_code_is_the_margin_of_the_probabilities():
    logits = torch.randn(5, 40, 4, dtype=torch.float64) * 3
    logits[0, 0] = 1.0  # a tie of all classes
    labels = torch.arange(40) % 4
    facts = {need.value: fact for need, fact in facts_of(logits, labels).items()}
    expected = aum(logits.softmax(-1), labels)
    assert value(AUM(form="probs"), **facts) == pytest.approx(expected.tolist(), abs=1e-12)
    assert value(AUM(form="probs", reduce="sum"), **facts) == pytest.approx((5 * expected).tolist(), abs=1e-12)


def test_each_form_declares_what_it_reads_and_its_unit():
    assert AUM().reads == {Need.MARGINS} and AUM().unit == "logits"
    assert AUM(form="probs").reads == {Need.TARGET_PROBS, Need.TOP_PROBS, Need.SECOND_PROBS, Need.CORRECT}
    assert AUM(form="probs").unit == "probability"


def test_precision_stays():
    assert aum(torch.randn(2, 3, 4), torch.tensor([0, 1, 2], dtype=torch.int32)).dtype == torch.float32
    assert aum(torch.randn(2, 3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])).dtype == torch.float64
