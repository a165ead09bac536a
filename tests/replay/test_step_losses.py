"""The matrices of a step's losses against the same matrices, written out by torch's own derivatives of the model in train mode."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from assay.core.errors import UsageError
from assay.replay.functional import Functional
from assay.replay.losses import WeightedBatch, WeightedLosses, cross_entropies
from assay.replay.step_losses import step_losses

BATCH, CLASSES, TOTAL = 6, 3, 10
WEIGHTS = torch.tensor([1.0, 0.0, 2.5, 0.5, 1.0, 3.0], dtype=torch.float64)


def net(kind):
    torch.manual_seed(3)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()
    first = [nn.Conv2d(1, 2, 2, padding=1), nn.BatchNorm2d(2), nn.Tanh()]
    return nn.Sequential(*first, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, CLASSES)).double()


def rows(kind):
    draw = torch.Generator().manual_seed(5)
    shape = (BATCH, 4) if kind == "mlp" else (BATCH, 1, 2, 2)
    return torch.randn(shape, generator=draw, dtype=torch.float64), torch.arange(BATCH) % CLASSES


class Written:
    """Losses, outputs and batch statistics of a model in train mode, as functions of one row of parameters."""

    def __init__(self, kind, factors):
        self.model, (self.inputs, self.labels), self.factors = net(kind), rows(kind), factors
        self.params = {name: value.detach() for name, value in self.model.named_parameters()}
        self.row = torch.cat([value.flatten() for value in self.params.values()])

    def at(self, row):
        parts = row.split([value.numel() for value in self.params.values()])
        return {n: part.view(v.shape) for (n, v), part in zip(self.params.items(), parts, strict=True)}

    def outputs(self, row):
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        return functional_call(self.model.train(), {**self.at(row), **buffers}, (self.inputs,))

    def losses(self, row):
        return self.factors * F.cross_entropy(self.outputs(row), self.labels, reduction="none")

    def variance(self, row):
        return F.conv2d(self.inputs, self.at(row)["0.weight"], self.at(row)["0.bias"], padding=1).var((0, 2, 3)).sum()

    def matrix(self, curvature):
        jacobian = torch.autograd.functional.jacobian
        if curvature == "hessian":
            return torch.autograd.functional.hessian(lambda row: self.losses(row).sum() / TOTAL, self.row)
        if curvature == "fisher":
            plain = jacobian(lambda row: F.cross_entropy(self.outputs(row), self.labels, reduction="none"), self.row)
            return torch.einsum("b,bp,bq->pq", self.factors / TOTAL, plain, plain)
        moved, p = jacobian(self.outputs, self.row), self.outputs(self.row).softmax(-1)
        return torch.einsum(
            "b,bcp,bcd,bdq->pq", self.factors / TOTAL, moved, torch.diag_embed(p) - p[:, :, None] * p[:, None], moved
        )


def plain_losses(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels, reduction="none")


@pytest.mark.parametrize("losses", [cross_entropies, plain_losses], ids=["cross-entropies", "by a function"])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton", "fisher"])
def test_a_matrix_times_a_vector_is_the_matrix_written_out(curvature, kind, losses):
    written = Written(kind, 2.5 * WEIGHTS)
    functional = Functional(written.model.train(), WeightedLosses(losses)).scaled(2.5)
    leaves = {name: value.clone().requires_grad_() for name, value in written.params.items()}
    batch = WeightedBatch((written.inputs, written.labels), WEIGHTS)
    for valued in (True, False):
        found = step_losses(curvature, functional, leaves, dict(written.model.named_buffers()), batch, TOTAL, valued)
        slopes = torch.autograd.functional.jacobian(written.losses, written.row) / TOTAL
        if valued or curvature == "gauss_newton":
            gradient = torch.cat([found.gradients[name].flatten() for name in leaves])
            torch.testing.assert_close(gradient, slopes.sum(0), rtol=1e-10, atol=1e-12)
        statistics, added = [], torch.zeros_like(written.row)
        if kind == "conv":
            ((_, variance),) = found.seen["1.running_var"]
            statistics, added = [variance.sum()], torch.autograd.functional.jacobian(written.variance, written.row)
        for seed in range(2):
            gamma = torch.randn(len(written.row), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            dots, moved = found.back(written.at(gamma), statistics, last=seed == 1)
            torch.testing.assert_close(dots, slopes @ gamma, rtol=1e-10, atol=1e-12)
            expected = written.matrix(curvature) @ gamma + added
            assert expected.norm() > 0.1
            torch.testing.assert_close(torch.cat([moved[n].flatten() for n in leaves]), expected, rtol=1e-10, atol=1e-12)


def test_what_has_no_gauss_newton_matrix_is_refused_in_a_sentence():
    written = Written("mlp", torch.ones(BATCH, dtype=torch.float64))
    leaves = {name: value.clone().requires_grad_() for name, value in written.params.items()}
    batch = written.inputs, written.labels

    def penalised(model, batch):
        return plain_losses(model, batch) + model[0].weight.square().sum()

    def twice(model, batch):
        return plain_losses(model, batch) + model(batch[0]).square().sum(1)

    def linear(model, batch):
        return model(batch[0]).gather(1, batch[1][:, None])[:, 0]

    for losses, words in (
        (penalised, "read parameters beside what the model returns.*choose form=exact"),
        (twice, "call the model 2 times.*form=exact"),
        (linear, "linear in what the model returns.*choose form=exact"),
    ):
        with pytest.raises(UsageError, match=words):
            step_losses("gauss_newton", Functional(written.model, losses), leaves, {}, batch, BATCH, True).back(
                {name: torch.ones_like(value) for name, value in written.params.items()}, (), last=True
            )
