import math

import torch

from assay.maths.divergences import error_norm, weighted_change


def test_error_norm_by_hand():
    probs = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    got = error_norm(probs, torch.tensor([0, 0, 0], dtype=torch.int32))
    torch.testing.assert_close(got, torch.tensor([math.sqrt(0.5), 0.0, math.sqrt(2)], dtype=torch.float64))
    assert error_norm(probs.expand(4, 3, 2), torch.tensor([0, 1, 0])).shape == (4, 3)


def test_weighted_change_by_hand():
    probs = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    before = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    terms = 0.5 * math.log(2), 0.5 * math.log(2 / 3)
    signed = weighted_change(probs, probs.log() - before.log(), absolute=False)
    absolute = weighted_change(probs, probs.log() - before.log(), absolute=True)
    torch.testing.assert_close(signed, torch.tensor([terms[0] + terms[1]], dtype=torch.float64))
    torch.testing.assert_close(absolute, torch.tensor([terms[0] - terms[1]], dtype=torch.float64))


def test_the_divergence_is_that_of_torch_and_inputs_stay():
    probs, before = torch.rand(2, 5, 4, dtype=torch.float64).softmax(-1)
    logs, log_before = probs.log(), before.log()
    held = logs.clone(), log_before.clone()
    expected = torch.nn.functional.kl_div(log_before, probs, reduction="none").sum(-1)
    torch.testing.assert_close(weighted_change(probs, logs - log_before, absolute=False), expected)
    assert bool((weighted_change(probs, logs - log_before, absolute=True) >= expected - 1e-15).all())
    assert torch.equal(logs, held[0]) and torch.equal(log_before, held[1])
