import pytest
import torch

from assay.core.errors import MissingEvidence
from assay.core.evidence import Evidence, Need, StepSource
from assay.core.ids import Ids
from assay.core.method import score
from proofs.sgd_influence import SGDInfluence, TinyTraining, TrajectoryInfluence

EXAMPLES = 12


def training(**given):
    draw = torch.Generator().manual_seed(7)
    inputs = torch.randn(EXAMPLES + 8, 3, generator=draw, dtype=torch.float64)
    labels = (inputs @ torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64) > 0).long()
    held_out = inputs[EXAMPLES:], labels[EXAMPLES:]
    return TinyTraining(inputs[:EXAMPLES], labels[:EXAMPLES], held_out, **({"steps": 15, "batch": 4} | given))


def evidence(source):
    return Evidence(Ids([f"row {n}" for n in range(EXAMPLES)]), 2, labels=source.labels, steps=source)


def by_unroll(source):
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    return -torch.autograd.grad(source.unrolled(weights, graph=True), weights)[0]


def test_the_recorded_steps_are_a_training():
    source = training()
    assert isinstance(source, StepSource)
    assert source.target(source.final_params) < source.target(source.start) - 0.05
    ones = torch.ones(EXAMPLES, dtype=torch.float64)
    torch.testing.assert_close(source.unrolled(ones), source.target(source.final_params), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        (SGDInfluence(), {}),
        (TrajectoryInfluence(), {}),
        (TrajectoryInfluence(), {"momentum": 0.9, "decay": 0.01}),
        (TrajectoryInfluence(), {"momentum": 0.5, "steps": 25, "batch": 3}),
    ],
)
def test_equals_the_derivative_of_the_unrolled_training(method, given):
    source = training(**given)
    (scores,) = score([method], evidence(source))
    expected = by_unroll(source)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(scores.values, expected[source.visited], rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", [SGDInfluence(), TrajectoryInfluence()])
def test_equals_finite_differences(method):
    source = training()
    (scores,) = score([method], evidence(source))
    ones, size = torch.ones(EXAMPLES, dtype=torch.float64), 1e-5
    for place, position in enumerate(source.visited.nonzero().flatten().tolist()):
        nudge = torch.zeros_like(ones)
        nudge[position] = size
        slope = (source.unrolled(ones + nudge) - source.unrolled(ones - nudge)) / (2 * size)
        assert float(scores.values[place]) == pytest.approx(-float(slope), abs=1e-8)


def test_it_ranks_like_training_again_without_the_example():
    from scipy.stats import kendalltau

    source = training(steps=25)
    (scores,) = score([TrajectoryInfluence()], evidence(source))
    ones = torch.ones(EXAMPLES, dtype=torch.float64)
    base, again = source.unrolled(ones), []
    for position in source.visited.nonzero().flatten().tolist():
        without = ones.clone()
        without[position] = 0
        again.append(float(source.unrolled(without) - base))
    assert kendalltau(scores.values.numpy(), again).statistic > 0.7


def test_an_example_that_no_step_visited_is_reported_and_is_no_zero():
    source = training()
    (scores,) = score([SGDInfluence()], evidence(source))
    assert f"row {EXAMPLES - 1}" in list(scores.unscored)
    assert len(scores) + len(scores.unscored) == EXAMPLES and len(scores) == int(source.visited.sum())


def test_a_run_without_steps():
    with pytest.raises(MissingEvidence, match="sgd_influence needs steps"):
        score([SGDInfluence()], Evidence(Ids([0]), 2, labels=torch.tensor([0])))
    assert evidence(training()).holds == {Need.LABELS, Need.STEPS}
