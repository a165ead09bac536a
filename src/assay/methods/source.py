r"""SOURCE: leaving an example out of a training that is unrolled in a few segments, each with one curvature and one gradient.

$$ s_i = \frac1n \Big\langle \nabla \Phi(\theta_T), \; \sum_{l=1}^{L} \Big( \prod_{l'>l} e^{-\bar\eta_{l'} H_{l'}} \Big)
   \big(I - e^{-\bar\eta_l H_l}\big) H_l^{-1} \, \bar g_{li} \Big\rangle $$

$\bar\eta_l$ is the sum of the learning rates of segment $l$, $H_l$ the mean curvature at its checkpoints by EK-FAC, with the weight decay, and
$\bar g_{li}$ the mean gradient of the example's loss there.
"""

import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.attribution import ROOM, AbstractAttributor, Block
from ..core.curvature import Factors, factor_pairs
from ..core.errors import MissingEvidence, UsageError
from ..core.evidence import Evidence
from ..core.method import Asks, Source
from ..core.models import Batch, Model, ModelSource
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import CHANGE, Direction
from ..maths.kronecker import Eigenbasis, EigenLayer, eigenbasis, kronecker_factors
from ..maths.layer_pairs import LayerPair
from ..maths.params import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of training during which curvature and gradients count as constant.

    Attributes:
        models: Its checkpoints.
        basis: The mean curvature of the mean loss at them, without weight decay.
        sizes: The sum of the learning rates of its steps, by parameter.
        decay: Weight decay of each parameter.
    """

    models: Sequence[Model]
    basis: Eigenbasis
    sizes: Mapping[str, float]
    decay: Mapping[str, float]

    def decayed(self, direction: Params) -> dict[str, Tensor]:
        """exp(-eta H) times a direction: what the segment leaves of a change of the parameters before it."""
        return self.basis.times(lambda layer: torch.exp(-self._exponents(layer)), direction)

    def gathered(self, direction: Params) -> dict[str, Tensor]:
        """(I - exp(-eta H)) H^-1 times a direction: how far a constant gradient moves the parameters during the segment."""
        return self.basis.times(lambda layer: _mean(layer, self.sizes) * growth(self._exponents(layer)), direction)

    def _exponents(self, layer: EigenLayer) -> Tensor:
        return _mean(layer, self.sizes) * (layer.values.clamp(min=0) + _mean(layer, self.decay))


_LAST: "weakref.WeakKeyDictionary[ModelSource, tuple[object, tuple[list[Segment], tuple[str, ...]]]]" = (
    weakref.WeakKeyDictionary()
)
"""Segments of a source of models that were made last, with EK-FAC, and of what: several targets that are asked for together read the same."""


def growth(exponents: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """(1 - exp(-x)) / x for x from 0 on, and 1 at 0: what is left of a step, on average over the way, where curvature pulls it back."""
    safe = torch.where(exponents > 0, exponents, torch.ones_like(exponents))
    return torch.where(exponents > 0, -torch.expm1(-safe) / safe, torch.ones_like(exponents))


def _mean(layer: EigenLayer, numbers: Mapping[str, float]) -> float:
    """A number of the layer: the mean over its parameters."""
    return sum(numbers.get(name, 0.0) for name in layer.matrix.names) / len(layer.matrix.names)


def source(
    segments: Sequence[Segment], direction: Mapping[str, Float[Tensor, "queries ..."]], examples: int
) -> Float[Tensor, "queries examples"]:
    """Predicted change of some targets if each example is left out of the whole training.

    Args:
        segments: The segments, from first to last.
        direction: Gradient of each target at the end of training, by parameter.
        examples: How many examples there are.

    Returns:
        In double precision, in the unit of the targets; above 0 where leaving the example out makes the target rise.

    Raises:
        UsageError: Normalisation couples the examples even in eval mode.
    """
    values = torch.zeros(len(next(iter(direction.values()))), examples, dtype=torch.float64)
    for segment in reversed(segments):
        along = segment.gathered(direction)
        for model in segment.models:
            for batch in model.batches():
                _add_products(values, batch, along, 1 / (examples * len(segment.models)))
        direction = segment.decayed(direction)
    return values


def _add_products(values: Tensor, batch: Batch, along: Params, factor: float) -> None:
    """Add the inner products of each direction with the gradient of each example of a batch, times a factor."""
    if len(values) == 1:
        dots, _ = batch.grad_dots({name: value[0] for name, value in along.items()})
        values[0, batch.positions] += factor * dots.to("cpu", torch.float64)
        return
    names = tuple(along)
    flat = torch.cat([along[name].flatten(1) for name in names], 1)
    for part, gradients in batch.grads(names):
        rows = torch.cat([gradients[name].flatten(1) for name in names], 1).to(flat)
        values[:, batch.positions[part]] += factor * (flat @ rows.T).to("cpu", torch.float64)


def _mean_curvature(models: Sequence[Model], factors: Factors, keys: np.ndarray, seed: int) -> Eigenbasis:
    """EK-FAC of the mean over some models of the curvature of their mean loss, without weight decay."""
    names, examples = tuple(models[0].params), len(keys) * len(models)

    def pairs() -> Iterator[LayerPair]:
        for model in models:
            yield from factor_pairs(model.batches(), names, factors, keys, seed)

    return eigenbasis(kronecker_factors(pairs(), examples)).corrected(pairs(), examples)


def segmented(
    models: ModelSource,
    segments: int,
    checkpoints: int | None,
    factors: Factors,
    keys: np.ndarray,
    *,
    seed: int = 0,
    decayed: bool = True,
) -> tuple[list[Segment], tuple[str, ...]]:
    """The segments of a training, with EK-FAC of each.

    Args:
        models: The kept models; those before training do not count.
        segments: How many segments the kept epochs are divided into, as even as possible.
        checkpoints: The most models of a segment, evenly spaced; None for all.
        factors: Of which gradients EK-FAC is made.
        keys: A number for each example, which what is drawn depends on.
        seed: Seed of what is drawn.
        decayed: Whether the weight decay of the optimizer counts.

    Returns:
        The segments, from first to last; and what is taken for granted of the steps and does not hold, a sentence each.

    Raises:
        MissingEvidence: Fewer models were kept than there are segments.
        UsageError: A layer has no Kronecker factors, or weight decay or rates are not known.
    """
    kept = [epoch for epoch in models.kept if epoch >= 0]
    if len(kept) < segments:
        raise MissingEvidence(
            f"segments={segments} needs as many kept models at least, and the run kept {len(kept)}; record with Recording(checkpoints='every') "
            f"(`--checkpoints every`), or choose segments={max(1, len(kept))}."
        )
    found, said, start = [], dict[str, None](), 0
    for part in np.array_split(kept, segments):
        epochs = list(map(int, part))
        chosen = [models.at(epoch) for epoch in _spaced(epochs, checkpoints)]
        try:
            basis = _mean_curvature(chosen, factors, keys, seed)
        except ValueError as error:
            raise UsageError(f"source: {str(error).rstrip('.')}; choose tracin, which needs no Kronecker factors.") from error
        steps = models.step_sizes(range(start, epochs[-1] + 1))
        decay = {name: one.factor for name, one in chosen[-1].weight_decay().items()} if decayed else {}
        found.append(Segment(chosen, basis, steps.sizes, decay))
        said |= dict.fromkeys(steps.assumptions)
        start = epochs[-1] + 1
    return found, tuple(said)


def _spaced(epochs: Sequence[int], most: int | None) -> list[int]:
    """At most so many of the epochs, each from the middle of an equal part."""
    count = len(epochs) if most is None else min(most, len(epochs))
    return [epochs[(2 * place + 1) * len(epochs) // (2 * count)] for place in range(count)]


@dataclasses.dataclass(frozen=True)
class Unrolled(AbstractAttributor):
    """Predicted change of the target if the example is left out of training, from a few kept models: above 0 it helps, below 0 it harms.

    Args:
        target: The target whose change is predicted.
        segments: How many segments the training is divided into; each needs a kept model.
        checkpoints: The most kept models of a segment, evenly spaced, over which curvature and gradients are averaged; or `all`.
        factors: EK-FAC of the Gauss-Newton matrix (`exact`), one pass per output; of a random mix of the outputs with the same mean (`sampled`); or of
            the losses' own gradients (`empirical`).
        seed: Seed of what `sampled` draws.
        decay: The `recorded` weight decay of the optimizer is added to the curvature, or `none`.
    """

    target: str = "validation"
    segments: int = 3
    checkpoints: Literal["all"] | int = 2
    factors: Literal["exact", "sampled", "empirical"] = "exact"
    seed: int = 0
    decay: Literal["recorded", "none"] = "recorded"
    name: ClassVar[str] = "source"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = CHANGE
    source: ClassVar[Source] = Source(
        "Bae et al. 2024, section 3 and equation 18",
        "https://arxiv.org/abs/2405.12186",
        "the Gauss-Newton matrix is exact by default, where theirs is of sampled labels; a layer has one learning rate, the mean of its parameters'; momentum "
        "divides the rates by 1 - momentum; the gradient of the target is taken at the last model",
    )

    def __post_init__(self):
        super().__post_init__()
        for name, value in (("segments", self.segments), ("checkpoints", self.checkpoints)):
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{self.title}: {name}={value} is below 1.")
        if self.factors != "sampled" and self.seed:
            raise UsageError(f"{self.title}: seed is not read with factors={self.factors}; leave it out.")

    @property
    def query_set(self) -> str:
        return self.target

    @property
    def asks(self) -> Asks:
        # A mean may be of a function of the model, which has no rows.
        return Asks(targets=(self.target,)) if self.reduce == "mean" else super().asks

    def _segments(self, evidence: Evidence) -> tuple[list[Segment], tuple[str, ...]]:
        most = None if isinstance(self.checkpoints, str) else self.checkpoints
        of = self.segments, most, self.factors, self.seed, self.decay
        last = _LAST.pop(evidence.checkpoints, None)
        if last is None or last[0] != of:
            # Let go first, so that two are never there at once.
            last = None
            last = of, self._made(evidence, most)
        _LAST[evidence.checkpoints] = last
        return last[1]

    def _made(self, evidence: Evidence, most: int | None) -> tuple[list[Segment], tuple[str, ...]]:
        try:
            return segmented(
                evidence.checkpoints,
                self.segments,
                most,
                self.factors,
                evidence.ids.keys,
                seed=self.seed,
                decayed=self.decay == "recorded",
            )
        except MissingEvidence as error:
            raise MissingEvidence(f"{self.title}: {error}") from error

    def attribute(self, evidence: Evidence, room: int = ROOM) -> Iterator[Block]:
        """Some queries by all examples at a time: as many as have gradients and rows of at most `room` bytes together, at least one.

        The examples' gradients are taken once for each such group, at each checkpoint.

        Yields:
            Whole rows, from the first query on.
        """
        segments, assumed = self._segments(evidence)
        source_, count, examples = evidence.checkpoints, len(evidence.queries(self.target).ids), len(evidence.ids)
        last = source_.at(source_.kept[-1])
        size = sum(value.numel() * max(4, value.element_size()) for value in last.params.values())
        step = max(1, room // (8 * examples + 3 * size))
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            values = source(segments, _gradients(last.queries(self.target, rows), last), examples)
            yield Block(rows, slice(0, examples), values, _told(segments), assumed)

    def run(self, evidence: Evidence) -> Result:
        if self.reduce != "mean":
            return super().run(evidence)
        segments, assumed = self._segments(evidence)
        gradient = evidence.checkpoints.at(evidence.checkpoints.kept[-1]).target(self.target)
        values = source(segments, {name: value[None] for name, value in gradient.items()}, len(evidence.ids))[0]
        return Result(values, diagnostics=_told(segments), warnings=assumed)


def _told(segments: Sequence[Segment]) -> dict[str, object]:
    return {
        "epochs of the checkpoints, by segment": [[model.epoch for model in one.models] for one in segments],
        "sum of the learning rates, by segment": [max(one.sizes.values()) for one in segments],
    }


def _gradients(batches: Iterable[Batch], model: Model) -> dict[str, Tensor]:
    """Gradient of each row's loss, by name."""
    names = tuple(model.params)
    parts = [part for batch in batches for _, part in batch.grads(names)]
    return {
        name: torch.cat([part[name] for part in parts]).to(torch.promote_types(parts[0][name].dtype, torch.float32))
        for name in names
    }
