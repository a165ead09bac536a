r"""TracIn: how much steps on the example would have lowered a target, summed over kept models.

$$ \mathrm{TracIn}_i = \sum_c \eta_c \, \langle \nabla \Phi(\theta_c), \nabla \ell_i(\theta_c) \rangle $$
"""

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import UsageError
from ..core.evidence import Batch, Checkpoint, Evidence, Need, Params
from ..core.method import AbstractMethod, Findings, Source, derivatives_taken
from ..core.scores import Direction
from ..maths.derivatives import directional


def tracin(
    checkpoints: Iterable[Checkpoint],
    examples: int,
    target: str | None = "validation",
    layers: str = "all",
    ways: set[str] | None = None,
) -> Float[Tensor, " examples"]:
    """Sum over models of rate times <gradient of the target, gradient of the example's loss>.

    Args:
        checkpoints: The models.
        examples: How many examples there are.
        target: Name of a target; None for self-influence, rate times |gradient of the example's loss|^2.
        layers: `all` trainable parameters, or only those of the last linear layer, `head`.
        ways: Gets the ways in which derivatives were taken.

    Raises:
        UsageError: The model has no linear layer.
    """
    values = torch.zeros(examples, dtype=torch.float64)
    for checkpoint in checkpoints:
        names = tuple(checkpoint.params) if layers == "all" else checkpoint.head
        if not names:
            raise UsageError("tracin: layers=head needs a model with a trainable linear layer; choose layers=all.")
        here = {name: checkpoint.params[name] for name in names}
        along = None
        if target is not None:
            gradient = checkpoint.target(target)
            along = {name: checkpoint.rates[name] * gradient[name] for name in names}
        for batch in checkpoint.batches():
            found = _own(batch, here, checkpoint) if along is None else _slopes(batch, here, along)
            values[batch.positions] += found.to("cpu", torch.float64)
            if ways is not None:
                ways |= batch.ways
    return values


def _slopes(batch: Batch, here: Params, along: Params) -> Tensor:
    found = directional(batch.losses, here, along)
    batch.ways.add(f"slopes: {found.way}")
    return found.slopes


def _own(batch: Batch, here: dict[str, Tensor], checkpoint: Checkpoint) -> Tensor:
    """Self-influence at the rate of each parameter."""
    rates = sorted({checkpoint.rates[name] for name in here})
    parts = [rate * batch.squares({n: v for n, v in here.items() if checkpoint.rates[n] == rate}) for rate in rates]
    return torch.stack(parts).sum(0)


@dataclasses.dataclass(frozen=True)
class TracIn(AbstractMethod):
    """Above 0 steps on the example lower the target, below 0 they raise it. Self-influence is high for wrong labels.

    Args:
        target: Which number is to fall; `self` for self-influence.
        layers: Gradients by `all` parameters, or by those of the last linear layer, `head`.
        every: Sum over the kept models (`checkpoint`), or over the recorded steps that the example took part in (`step`), each divided
            by its batch's size.
    """

    target: str = "validation"
    layers: Literal["all", "head"] = "all"
    every: Literal["checkpoint", "step"] = "checkpoint"
    name: ClassVar[str] = "tracin"
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "rank only"
    source: ClassVar[Source] = Source(
        "Pruthi et al. 2020, equation 1 and section 3.3",
        "https://arxiv.org/abs/2002.08484",
        "every kept model counts, but for the one before training",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.target == "self":
            object.__setattr__(self, "direction", Direction.HIGH_IS_SUSPECT)
        if self.every == "step" and self.layers == "head":
            raise UsageError(f"{self.title}: layers=head goes with every=checkpoint only; leave one of them out.")

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """Kept models, or steps."""
        return frozenset({Need.CHECKPOINTS if self.every == "checkpoint" else Need.STEPS})

    @property
    def targets(self) -> tuple[str, ...]:
        return () if self.target == "self" else (self.target,)

    def values(self, evidence: Evidence) -> Float[Tensor, " examples"]:
        return self.findings(evidence).values

    def findings(self, evidence: Evidence) -> Findings:
        target, ways = None if self.target == "self" else self.target, set[str]()
        if self.every == "checkpoint":
            source = evidence.checkpoints
            models = (source.at(epoch) for epoch in source.kept if epoch >= 0)
            values = tracin(models, len(evidence.ids), target, self.layers, ways)
            return Findings(values, diagnostics=derivatives_taken(ways))
        steps = evidence.steps
        by_epoch = torch.zeros(len(steps.epochs), len(evidence.ids), dtype=torch.float64)
        for step in steps.forwards(range(steps.epochs[0].start, steps.epochs[-1].stop)):
            if target is None:
                rates = sorted(set(step.rates.values()))
                parts = [rate * step.squares({n: v for n, v in step.params.items() if step.rates[n] == rate}) for rate in rates]
                found = torch.stack(parts).sum(0)
            else:
                along = {name: step.rates[name] * value for name, value in step.target(target).items()}
                found = _slopes(step, step.params, along)
            by_epoch[step.epoch].index_add_(0, step.positions, found.to("cpu", torch.float64) / len(step.positions))
            ways |= step.ways
        return Findings(by_epoch.sum(0), by_epoch, derivatives_taken(ways))

    def scored(self, evidence: Evidence) -> Tensor:
        if self.every == "checkpoint":
            return super().scored(evidence)
        source = evidence.steps
        return source.visits(range(source.epochs[0].start, source.epochs[-1].stop)) > 0
