import pytest
import torch

from assay.core.errors import MissingEvidence
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.method import score
from proofs.leave_one_out import LeaveOneOut, RidgeUtility

EXAMPLES, FLIPPED = 40, 4


@pytest.fixture
def utility():
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES + 200, 3, generator=draw, dtype=torch.float64)
    signs = (inputs @ torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)).sign()
    given = signs[:EXAMPLES].clone()
    given[:FLIPPED] *= -1
    ids = Ids([f"row {n}" for n in range(EXAMPLES)])
    return RidgeUtility(ids, inputs[:EXAMPLES], given, (inputs[EXAMPLES:], signs[EXAMPLES:]))


def evidence(utility, order=None):
    ids = utility.ids if order is None else utility.ids.take(order)
    return Evidence(ids, 2, utility=utility)


def test_equals_the_closed_form_of_one_row_less(utility):
    (scores,) = score([LeaveOneOut()], evidence(utility))
    gram = utility.inputs.T @ utility.inputs + torch.eye(3, dtype=torch.float64)
    weights, (held_inputs, held_signs) = utility.fit(utility.ids), utility.held_out
    for position in range(EXAMPLES):
        # Sherman and Morrison: the fit without row i moves by G^-1 x_i r_i / (1 - x_i G^-1 x_i).
        x = utility.inputs[position]
        solved = torch.linalg.solve(gram, x)
        less = weights - solved * (utility.signs[position] - x @ weights) / (1 - x @ solved)
        without = -(held_inputs @ less - held_signs).square().mean()
        whole = -(held_inputs @ weights - held_signs).square().mean()
        assert float(scores.values[position]) == pytest.approx(float(whole - without), abs=1e-12)


def test_every_retraining_leaves_out_one_example(utility):
    score([LeaveOneOut()], evidence(utility))
    assert [len(ids) for ids in utility.calls] == [EXAMPLES] + [EXAMPLES - 1] * EXAMPLES
    left_out = [set(utility.ids) - set(ids) for ids in utility.calls[1:]]
    assert left_out == [{one} for one in utility.ids]


def test_planted_wrong_labels_are_the_suspects(utility):
    (scores,) = score([LeaveOneOut()], evidence(utility))
    suspicion = scores.suspicion()
    gap = suspicion[:FLIPPED, None] - suspicion[FLIPPED:]
    assert float((gap > 0).double().mean()) > 0.8


def test_another_order_of_the_ids_gives_the_same_values(utility):
    order = torch.randperm(EXAMPLES)
    (base,), (other,) = score([LeaveOneOut()], evidence(utility)), score([LeaveOneOut()], evidence(utility, order))
    torch.testing.assert_close(other.of(base.ids), base.values, rtol=0, atol=1e-12)


def test_a_run_without_a_utility():
    with pytest.raises(MissingEvidence, match=r"leave_one_out needs utility.*give a function that retrains"):
        score([LeaveOneOut()], Evidence(Ids([0]), 2, labels=torch.tensor([0])))
