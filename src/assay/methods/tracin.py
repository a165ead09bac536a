r"""TracIn: how much steps on the example would have lowered a target, summed over kept models.

$$ \mathrm{TracIn}_i = \sum_c \eta_c \, \langle \nabla \Phi(\theta_c), \nabla \ell_i(\theta_c) \rangle $$
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.attribution import ROOM, AbstractAttributor, Block
from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.method import Asks, Source, derivatives_taken
from ..core.models import Batch, Model, chosen_params
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import RANK_ONLY, Direction


def tracin(
    checkpoints: Iterable[Model],
    examples: int,
    target: str | None = "validation",
    layers: str = "all",
    backends: set[str] | None = None,
) -> Float[Tensor, " examples"]:
    """Sum over models of rate times <gradient of the target, gradient of the example's loss>.

    Args:
        checkpoints: The kept models.
        examples: How many examples there are.
        target: Name of a target; None for self-influence, rate times |gradient of the example's loss|^2.
        layers: `all` trainable parameters, or only those of the linear layer that makes the logits, `head`.
        backends: A set to which the names of the backends that computed the derivatives are added.

    Returns:
        One per example, in the unit of the target; for self-influence at least 0, in losses.

    Raises:
        UsageError: No trainable linear layer makes the logits.
    """
    values = torch.zeros(examples, dtype=torch.float64)
    for checkpoint in checkpoints:
        names = chosen_params(checkpoint, layers, "tracin")
        along = None
        if target is not None:
            gradient = checkpoint.target(target)
            along = {name: checkpoint.rates[name] * gradient[name] for name in names}
        for batch in checkpoint.batches():
            found, backend = _own(batch, names, checkpoint.rates) if along is None else batch.grad_dots(along)
            values[batch.positions] += found.to("cpu", torch.float64)
            if backends is not None:
                backends.add(backend)
    return values


def tracin_rows(
    checkpoints: Iterable[Model],
    examples: int,
    queries: str,
    rows: slice,
    layers: str = "all",
) -> Float[Tensor, "queries examples"]:
    """Sum over models of rate times <gradient of the query's loss, gradient of the example's loss>, for some queries.

    Args:
        checkpoints: The kept models.
        examples: How many examples there are.
        queries: Name of a target that is a mean over queries.
        rows: Which queries, a slice with start and stop; the gradients of all of them are in memory at once.
        layers: As `tracin` takes it.

    Returns:
        A row for each of these queries, in double precision; above 0 where steps on the example lower the query's loss.

    Raises:
        UsageError: No trainable linear layer makes the logits, or normalisation couples the examples even in eval mode.
    """
    values = torch.zeros(rows.stop - rows.start, examples, dtype=torch.float64)
    for checkpoint in checkpoints:
        names = chosen_params(checkpoint, layers, "tracin")
        # Filled as they come, because joining them would take their memory twice.
        pulls: Tensor | None = None
        for batch in checkpoint.queries(queries, rows):
            for part, gradients in batch.grads(names):
                flat = _flat({name: checkpoint.rates[name] * value for name, value in gradients.items()})
                pulls = flat.new_empty(len(values), flat.shape[1]) if pulls is None else pulls
                pulls[(batch.positions[part] - rows.start).to(flat.device)] = flat
        assert pulls is not None
        for batch in checkpoint.batches():
            for part, gradients in batch.grads(names):
                values[:, batch.positions[part]] += (pulls @ _flat(gradients).T).to("cpu", torch.float64)
    return values


def _flat(gradients: Mapping[str, Tensor]) -> Float[Tensor, "rows params"]:
    """One row for each example, in single precision at least, because products are summed over all parameters."""
    joined = torch.cat([value.flatten(1) for value in gradients.values()], 1)
    return joined.to(torch.promote_types(joined.dtype, torch.float32))


def _own(batch: Batch, names: Sequence[str], rates: Mapping[str, float]) -> tuple[Tensor, str]:
    """Self-influence at the rate of each parameter."""
    by_rate = {rate: [name for name in names if rates[name] == rate] for rate in sorted({rates[name] for name in names})}
    grad_sq_norms, backends = zip(*(batch.grad_sq_norms(own) for own in by_rate.values()), strict=True)
    return torch.stack([rate * part for rate, part in zip(by_rate, grad_sq_norms, strict=True)]).sum(0), backends[0]


@dataclasses.dataclass(frozen=True)
class TracIn(AbstractAttributor):
    """Above 0 steps on the example lower the target, below 0 they raise it. Self-influence is high for wrong labels.

    With `reduce=mean` the value comes from the gradient of the target, which is a mean over queries, and no value per query is computed.

    Args:
        target: The target that steps would lower; `self` for self-influence.
        layers: Gradients with respect to `all` parameters, or to those of the linear layer that makes the logits, `head`.
        every: Sum over the kept models (`checkpoint`), or over the recorded steps that the example took part in (`step`), each divided
            by its batch's size.
    """

    target: str = "validation"
    layers: Literal["all", "head"] = "all"
    every: Literal["checkpoint", "step"] = "checkpoint"
    name: ClassVar[str] = "tracin"
    unit: ClassVar[str] = RANK_ONLY
    source: ClassVar[Source] = Source(
        "Pruthi et al. 2020, equation 1 and section 3.3",
        "https://arxiv.org/abs/2002.08484",
        "every kept model counts, but for the one before training",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.every == "step" and self.layers == "head":
            raise UsageError(f"{self.title}: layers=head goes with every=checkpoint only; leave one of them out.")
        if self.reduce != "mean" and (self.target == "self" or self.every == "step"):
            other = "target=self" if self.target == "self" else "every=step"
            raise UsageError(
                f"{self.title}: reduce={self.reduce} is not read with {other}, which has no value per query; leave one of them out."
            )

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """The kept models for `every=checkpoint`, the steps for `every=step`."""
        return frozenset({Need.CHECKPOINTS if self.every == "checkpoint" else Need.STEPS})

    @property
    def direction(self) -> Direction:  # type: ignore[override]
        """Low values are suspect for a target, because steps on wrong labels raise it; for `self` high ones, because their own loss falls by much."""
        return Direction.HIGH_IS_SUSPECT if self.target == "self" else Direction.LOW_IS_SUSPECT

    @property
    def asks(self) -> Asks:
        if self.reduce != "mean":
            return super().asks
        # A mean may be of a function of the model, which has no rows.
        return Asks(targets=() if self.target == "self" else (self.target,))

    @property
    def query_set(self) -> str:
        if self.target == "self" or self.every == "step":
            other = "target=self" if self.target == "self" else "every=step"
            raise UsageError(f"{self.title} has no value per query; leave {other} out.")
        return self.target

    def attribute(self, evidence: Evidence, room: int = ROOM) -> Iterator[Block]:
        """Some queries by all examples at a time: as many as have gradients and rows of at most `room` bytes together, at least one.

        The kept models are read, and every example's gradient is taken, once for each such group.

        Yields:
            Whole rows, from the first query on.
        """
        source, count = evidence.checkpoints, len(evidence.queries(self.query_set).ids)
        kept = [epoch for epoch in source.kept if epoch >= 0]
        each = 8 * len(evidence.ids)
        if kept:
            first = source.at(kept[0])
            each += sum(
                max(4, one.itemsize) * one.numel()
                for one in (first.params[name] for name in chosen_params(first, self.layers, "tracin"))
            )
        step = max(1, room // each)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            values = tracin_rows(map(source.at, kept), len(evidence.ids), self.query_set, rows, self.layers)
            yield Block(rows, slice(0, len(evidence.ids)), values)

    def run(self, evidence: Evidence) -> Result:
        if self.reduce != "mean":
            return super().run(evidence)
        target, backends = None if self.target == "self" else self.target, set[str]()
        if self.every == "checkpoint":
            source = evidence.checkpoints
            models = (source.at(epoch) for epoch in source.kept if epoch >= 0)
            values = tracin(models, len(evidence.ids), target, self.layers, backends)
            return Result(values, diagnostics=derivatives_taken(backends))
        steps = evidence.steps
        by_epoch = torch.zeros(len(steps.epochs), len(evidence.ids), dtype=torch.float64)
        for step in steps.forwards(range(steps.epochs[0].start, steps.epochs[-1].stop)):
            if target is None:
                found, backend = _own(step, tuple(step.params), step.rates)
            else:
                found, backend = step.grad_dots({name: step.rates[name] * value for name, value in step.target(target).items()})
            backends.add(backend)
            by_epoch[step.epoch].index_add_(0, step.positions, found.to("cpu", torch.float64) / len(step.positions))
        return Result(by_epoch.sum(0), by_epoch, derivatives_taken(backends))

    def speaks_of(self, evidence: Evidence) -> Tensor:
        if self.every == "checkpoint":
            return super().speaks_of(evidence)
        source = evidence.steps
        return source.visits(range(source.epochs[0].start, source.epochs[-1].stop)) > 0
