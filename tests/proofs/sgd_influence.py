"""Exact SGD-influence: working methods on recorded steps, which prove `StepSource`; and a real, tiny, recorded training."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from assay.core.errors import NumericalError
from assay.core.evidence import Evidence, Need, Params, Step
from assay.core.method import AbstractMethod, Source
from assay.core.scores import Direction


def leaves(params: Params) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


@dataclasses.dataclass(frozen=True)
class SGDInfluence(AbstractMethod):
    """Change of the target when an example's loss is taken out of every step, to first order; small values are harmful.

    lambda_T = grad target(theta_T); for each step backwards: s_i += rate/b <lambda, grad l_i>, lambda -= rate * H lambda, with H the
    Hessian of the mean loss of the batch. For plain SGD.
    """

    name: ClassVar[str] = "sgd_influence"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.STEPS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "change of the target"
    source: ClassVar[Source] = Source("Hara et al. 2019, section 4", "https://arxiv.org/abs/1906.08473")

    def scored(self, evidence: Evidence) -> Tensor:
        return evidence.steps.visited

    def values(self, evidence: Evidence) -> Tensor:
        source = evidence.steps
        total = torch.zeros(len(evidence.ids), dtype=torch.float64)
        final = leaves(source.final_params)
        adjoint = dict(zip(final, torch.autograd.grad(source.target(final), list(final.values())), strict=True))
        for step in source.backwards():
            params = leaves(step.params)
            weights = torch.ones(len(step.positions), dtype=torch.float64, requires_grad=True)
            mean = (weights * source.losses(params, step)).sum() / len(step.positions)
            gradients = torch.autograd.grad(mean, list(params.values()), create_graph=True)
            pushed = {name: step.rates[name] * adjoint[name] for name in params}
            product = sum((g * pushed[name]).sum() for name, g in zip(params, gradients, strict=True))
            along, *curved = torch.autograd.grad(product, [weights, *params.values()])
            # An example may stand twice in a batch, so its shares are added, not assigned.
            total.index_add_(0, step.positions, along)
            adjoint = {name: adjoint[name] - curve for name, curve in zip(params, curved, strict=True)}
            if not all(bool(part.isfinite().all()) for part in adjoint.values()):
                raise NumericalError(f"{self.title}: the adjoint is not finite at step {step.index}; lower the learning rate.")
        return total


@dataclasses.dataclass(frozen=True)
class TrajectoryInfluence(SGDInfluence):
    """The same number for whatever optimizer took the steps, by walking backwards through `StepSource.advance`."""

    name: ClassVar[str] = "trajectory_influence"

    def values(self, evidence: Evidence) -> Tensor:
        source = evidence.steps
        total = torch.zeros(len(evidence.ids), dtype=torch.float64)
        final = leaves(source.final_params)
        adjoint = dict(zip(final, torch.autograd.grad(source.target(final), list(final.values())), strict=True))
        carried: dict[str, Tensor] = {}
        for step in source.backwards():
            params, buffers = leaves(step.params), leaves(step.buffers)
            weights = torch.ones(len(step.positions), dtype=torch.float64, requires_grad=True)
            moved, kept = source.advance(params, buffers, weights, step)
            product = sum((moved[name] * adjoint[name]).sum() for name in moved)
            product = product + sum((kept[name] * carried[name]).sum() for name in carried)
            along, *back = torch.autograd.grad(product, [weights, *params.values(), *buffers.values()])
            total.index_add_(0, step.positions, -along)
            adjoint = dict(zip(params, back[: len(params)], strict=True))
            carried = dict(zip(buffers, back[len(params) :], strict=True))
        return total


class TinyTraining:
    """A tanh net trained by SGD (momentum, weight decay) in float64, every step recorded; rates differ by layer and by step."""

    def __init__(self, inputs, labels, held_out, *, steps, batch, momentum=0.0, decay=0.0, seed=0):
        self.inputs, self.labels, self.held_out = inputs, labels, held_out
        self.momentum, self.decay = momentum, decay
        draw = torch.Generator().manual_seed(seed)
        classes = int(labels.max()) + 1
        self.start = {
            "hidden": torch.randn(inputs.shape[1], 4, generator=draw, dtype=torch.float64),
            "out": torch.randn(4, classes, generator=draw, dtype=torch.float64),
        }
        # With replacement, so that an example stands twice in some batches; the last example is left out.
        batches = torch.randint(len(labels) - 1, (steps, batch), generator=draw)
        batches[0, 1] = batches[0, 0]
        self.visited = torch.zeros(len(labels), dtype=torch.bool)
        self.visited[batches.flatten()] = True
        self.recorded = steps
        self.steps: list[Step] = []
        params, buffers = self.start, {name: torch.zeros_like(p) for name, p in self.start.items()} if momentum else {}
        for index, positions in enumerate(batches):
            rate = 0.5 / (index + 1) ** 0.5
            step = Step(index, positions, {"hidden": rate, "out": 0.3 * rate}, params, buffers)
            self.steps.append(step)
            params, buffers = self.advance(leaves(params), buffers, torch.ones(batch, dtype=torch.float64), step, graph=False)
        self.final_params = params

    def outputs(self, params, inputs):
        return (inputs @ params["hidden"]).tanh() @ params["out"]

    def losses(self, params: Params, step: Step) -> Tensor:
        outputs = self.outputs(params, self.inputs[step.positions])
        return torch.nn.functional.cross_entropy(outputs, self.labels[step.positions], reduction="none")

    def target(self, params: Params) -> Tensor:
        inputs, labels = self.held_out
        return torch.nn.functional.cross_entropy(self.outputs(params, inputs), labels)

    def advance(self, params, buffers, weights, step, graph=True):
        mean = (weights * self.losses(params, step)).sum() / len(step.positions)
        gradients = dict(zip(params, torch.autograd.grad(mean, list(params.values()), create_graph=graph), strict=True))
        gradients = {name: gradients[name] + self.decay * params[name] for name in params}
        if self.momentum:
            buffers = {name: self.momentum * buffers[name] + gradients[name] for name in params}
            gradients = buffers
        moved = {name: params[name] - step.rates[name] * gradients[name] for name in params}
        if not graph:
            moved, buffers = ({name: value.detach() for name, value in part.items()} for part in (moved, buffers))
        return moved, buffers

    def backwards(self) -> Iterator[Step]:
        return reversed(self.steps)

    def unrolled(self, weights: Tensor, graph: bool = False) -> Tensor:
        """The target after the whole training with these loss weights; by `graph`, one graph from end to end."""
        params = {name: value.clone().requires_grad_() for name, value in self.start.items()}
        buffers = {name: torch.zeros_like(p) for name, p in params.items()} if self.momentum else {}
        for step in self.steps:
            params = params if graph else leaves(params)
            params, buffers = self.advance(params, buffers, weights[step.positions], step, graph)
        return self.target(params)
