import pytest
import torch
from torch import nn

from assay.core.errors import BadScores, MissingEvidence, UndeclaredNeed, UsageError
from assay.core.evidence import Evidence, Need
from assay.core.ids import Ids
from assay.core.method import score
from proofs.head_grand import HeadGradients, HeadGraNd

EXAMPLES, CLASSES = 23, 4


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    inputs, labels = torch.randn(EXAMPLES, 6, dtype=torch.float64), torch.randint(CLASSES, (EXAMPLES,))
    models = [(nn.Sequential(nn.Linear(6, 5), nn.Tanh()).double(), nn.Linear(5, CLASSES).double()) for _ in range(2)]
    return models, inputs, labels


def evidence(world, block=7, order=None):
    models, inputs, labels = world
    order = torch.randperm(EXAMPLES) if order is None else order
    ids = Ids([f"row {n}" for n in range(EXAMPLES)])
    return Evidence(ids, CLASSES, labels=labels, gradients=HeadGradients(models, inputs, labels, order, block))


def by_autograd(world, checkpoint):
    models, inputs, labels = world
    body, head = models[checkpoint]
    norms = []
    for x, y in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(head(body(x[None])), y[None])
        norms.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(head.parameters()))]).norm())
    return torch.stack(norms).detach()


@pytest.mark.parametrize(("at", "checkpoint"), [(-1, 1), (0, 0), (1, 1)])
def test_equals_one_backward_pass_per_example(world, at, checkpoint):
    (scores,) = score([HeadGraNd(at=at)], evidence(world))
    torch.testing.assert_close(scores.values, by_autograd(world, checkpoint), rtol=1e-12, atol=1e-14)


def test_equals_the_closed_form(world):
    (body, head), inputs, labels = world[0][1], *world[1:]
    features = body(inputs)
    errors = (head(features).softmax(-1) - nn.functional.one_hot(labels, CLASSES)).norm(dim=1)
    expected = errors * (1 + features.square().sum(1)).sqrt()
    torch.testing.assert_close(score([HeadGraNd()], evidence(world))[0].values, expected.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("block", [1, 2, 22, 23, 1000])
def test_block_size_and_order_do_not_matter(world, block):
    (base,) = score([HeadGraNd()], evidence(world, EXAMPLES, torch.arange(EXAMPLES)))
    torch.testing.assert_close(score([HeadGraNd()], evidence(world, block))[0].values, base.values, rtol=1e-12, atol=1e-14)


def test_an_example_without_gradient_is_no_zero(world):
    with pytest.raises(BadScores, match="1 values are not finite; ids row 3"):
        score([HeadGraNd()], evidence(world, order=torch.tensor([n for n in range(EXAMPLES) if n != 3])))


def test_errors(world):
    with pytest.raises(MissingEvidence, match="reads checkpoint 2; 2 were kept"):
        score([HeadGraNd(at=2)], evidence(world))
    with pytest.raises(UsageError, match="at=-2"):
        HeadGraNd(at=-2)
    with pytest.raises(MissingEvidence, match=r"head_grand needs gradients, which this run lacks \(gradients: gather from a run"):
        score([HeadGraNd()], Evidence(Ids([0]), 2, labels=torch.tensor([0])))
    with pytest.raises(UndeclaredNeed):
        evidence(world).narrow("nobody", frozenset({Need.LABELS})).gradients  # noqa: B018
