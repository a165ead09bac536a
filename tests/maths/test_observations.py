import math

import pytest
import torch

from assay.core.needs import EPOCH_NEEDS, Need
from assay.maths.observations import observe


def test_by_hand():
    facts = observe(torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1]))
    expected = {
        "target_probs": [0.25, 0.5],
        "margins": [-math.log(3), 0.0],
        "losses": [math.log(4), math.log(2)],
        "correct": [False, False],  # at a tie the first class is predicted
        "entropies": [0.25 * math.log(4) + 0.75 * math.log(4 / 3), math.log(2)],
        "error_norms": [0.75 * math.sqrt(2), 0.5 * math.sqrt(2)],
        "top_probs": [0.75, 0.5],
        "second_probs": [0.25, 0.5],
    }
    assert set(facts) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(facts[name], torch.tensor(values, dtype=facts[name].dtype), msg=name)


def test_every_need_of_an_epoch_but_the_logits_is_observed():
    facts = observe(torch.randn(3, 4), torch.tensor([0, 1, 2]))
    assert {Need(name) for name in facts} == EPOCH_NEEDS - {Need.LOGITS}


def test_saturated_outputs_stay_finite():
    logits = torch.tensor([[900.0, 0.0], [0.0, 900.0], [-900.0, -900.0]], dtype=torch.float64)
    facts = observe(logits, torch.tensor([0, 0, 1]))
    assert all(bool(fact.isfinite().all()) for fact in facts.values())
    assert facts["losses"].tolist() == pytest.approx([0.0, 900.0, math.log(2)]) and facts["target_probs"][1] == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_anything_is_computed(dtype):
    logits, labels = (torch.randn(50, 4) * 4).to(dtype), torch.randint(4, (50,))
    facts, wide = observe(logits, labels), observe(logits.float(), labels)
    for name, fact in facts.items():
        assert torch.equal(fact, wide[name]), name
    assert observe(torch.tensor([[9.0, 0.0]], dtype=dtype), torch.tensor([0]))["target_probs"].item() < 1.0


def test_labels_of_any_integer_type():
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    for name, fact in observe(logits, labels.to(torch.int16)).items():
        assert torch.equal(fact, observe(logits, labels)[name])


def test_precision_stays():
    for dtype in (torch.float32, torch.float64):
        facts = observe(torch.randn(3, 4, dtype=dtype), torch.tensor([0, 1, 2]))
        assert {fact.dtype for name, fact in facts.items() if name != "correct"} == {dtype}
