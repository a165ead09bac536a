r"""Prediction depth: the first layer from which on the neighbours of an example agree with the net's prediction.

$$ \mathrm{PD}_i = \min \{\, l : c_{l'}(i) = r(i) \text{ for all } l' \ge l \,\} $$

with c_l(i) the most common class among the k nearest neighbours of i in layer l, and r(i) the class that the net predicts.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import MissingEvidence, UsageError
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..maths import draws
from ..maths.neighbours import Tie, majority_label, nearest
from ..maths.ranking import rank_correlation

SOFTMAX = "(softmax)"
"""Name of the last layer."""
SAMPLE = 500
"""Examples on which an approximation is compared with the exact depth."""


def prediction_depth(
    embeddings: Sequence[Float[Tensor, "examples ..."]],
    labels: Int[Tensor, " examples"],
    predictions: Int[Tensor, " examples"],
    k: int = 30,
    tie: Tie = "low",
) -> Int[Tensor, " examples"]:
    """Number of the first layer from which on every probe agrees with the prediction; the number of layers where the last probe does not.

    A probe is the most common given label among the k nearest other examples by Euclidean distance.

    Args:
        embeddings: Output of each layer for the examples, from the input to the softmax.
        labels: Given class of each.
        predictions: The class that the probes have to agree with: the class that the net predicts (the paper), or the given label.
        k: Number of neighbours.
        tie: Which of several equally common classes is taken: the `low`est, the `high`est, or that of the `nearest` neighbour.

    Returns:
        In 0..layers, one per example.

    Raises:
        ValueError: There is no layer, or there are fewer than k other examples.

    Source: Baldock, Maennel and Neyshabur 2021.
    """
    if not embeddings:
        raise ValueError("Prediction depth needs at least one layer.")
    return depth(torch.stack([probe(rows, labels, k, tie) for rows in embeddings]), predictions)


def probe(
    rows: Float[Tensor, "examples ..."],
    labels: Int[Tensor, " examples"],
    k: int = 30,
    tie: Tie = "low",
    *,
    itself: bool = False,
    support: Int[Tensor, " supports"] | None = None,
) -> Int[Tensor, " examples"]:
    """The most common class among the k nearest neighbours of each example.

    Args:
        rows: Output of a layer, a row for each example.
        labels: Given class of each.
        k: Number of neighbours.
        tie: As `prediction_depth`.
        itself: Whether an example counts as its own neighbour; the paper leaves it out.
        support: Which examples may be neighbours; all by default.

    Returns:
        One class per example.

    Raises:
        ValueError: There are fewer than k possible neighbours.
    """
    flat = rows.flatten(1)
    chosen = torch.arange(len(flat)) if support is None else support
    own = torch.full((len(flat),), -1)
    if not itself:
        own[chosen] = torch.arange(len(chosen))
    near = nearest(flat, flat if support is None else flat[support], k, own)
    return majority_label(near, labels[chosen], int(labels.max()) + 1, tie)


def depth(probes: Int[Tensor, "layers examples"], reference: Int[Tensor, " examples"]) -> Int[Tensor, " examples"]:
    """The first layer from which on all probes equal the reference; the number of layers where the last does not."""
    agree = (probes == reference).to(torch.int64)
    return len(probes) - agree.flip(0).cumprod(0).sum(0)


def consensus(probs: Float[Tensor, "models examples classes"]) -> Int[Tensor, " examples"]:
    """The class that most models predict; of several that of the largest mean probability."""
    counts = torch.nn.functional.one_hot(probs.argmax(-1), probs.shape[-1]).sum(0)
    most = counts == counts.amax(1, keepdim=True)
    return probs.sum(0).masked_fill(~most, -1).argmax(1)


@dataclasses.dataclass(frozen=True)
class PredictionDepth(AbstractMethod):
    """High depth marks examples whose class is settled only in late layers: hard ones, and with reference=label wrongly labelled ones.

    Args:
        k: Number of neighbours.
        reference: The class that the probes have to agree with: the net's `prediction` (the paper), the given `label`, the `last_probe`, the probe of
            the last layer, which then agrees by construction, or the `consensus`: what most models of the recording predict.
        layers: Names of modules to look at, joined by +; NAME#2 is the second call of NAME in a pass; by default all layers found (see
            `replay.activations`). Input and softmax are always added.
        last: How many of the last layers are read; depth is still counted from the input. All by default.
        at: Epoch at whose end the model was kept, counted from 0; -1 is the last one.
        itself: Whether an example counts as its own neighbour.
        tie: Which of several equally common classes is taken: that of the `nearest` neighbour, the `low`est, or the `high`est.
        support: Fraction of the examples that may be neighbours, the same ones in all layers.
        project: Number of dimensions to which larger layers are projected at random; by default none are projected.
        seed: Seed of support and projection.
    """

    k: int = 30
    reference: Literal["prediction", "label", "last_probe", "consensus"] = "prediction"
    layers: str | None = None
    last: int | None = None
    at: int = -1
    itself: bool = False
    tie: Tie = "nearest"
    support: float = 1.0
    project: int | None = None
    seed: int = 0
    name: ClassVar[str] = "prediction_depth"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.LABELS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "layers"
    source: ClassVar[Source] = Source(
        "Baldock, Maennel and Neyshabur 2021",
        "https://arxiv.org/abs/2106.09647",
        "a mean over models where a recording has several, as the paper's over hundreds; where as many neighbours are of several classes "
        "the nearest of them decides, which does not depend on the numbers of classes; tokens are averaged in each layer",
    )

    def __post_init__(self):
        super().__post_init__()
        for option, least in (("k", 1), ("at", -1), ("seed", 0)):
            if getattr(self, option) < least:
                raise UsageError(f"{self.title}: {option}={getattr(self, option)} is below {least}.")
        for option in ("last", "project"):
            if (value := getattr(self, option)) is not None and value < 1:
                raise UsageError(f"{self.title}: {option}={value} is below 1.")
        if self.seed and self.support == 1 and self.project is None:
            raise UsageError(f"{self.title}: seed is not read without support or project; leave it out.")
        if not 0 < self.support <= 1:
            raise UsageError(f"{self.title}: support={self.support} is outside 0..1, 0 excluded.")
        if self.layers is not None and not all(self.layers.split("+")):
            raise UsageError(f"{self.title}: layers={self.layers!r} is not one name or several joined by +.")

    def run(self, evidence: Evidence) -> Result:
        source, labels = evidence.checkpoints, evidence.labels
        kept = [epoch for epoch in source.kept if epoch >= 0]
        if not kept or (self.at != -1 and self.at not in kept):
            raise MissingEvidence(
                f"{self.title} reads the model of {'the last epoch' if self.at == -1 else f'epoch {self.at}'}, and the run kept "
                f"{', '.join(map(str, kept)) or 'none'}; record with Recording(checkpoints='every')."
            )
        # In the order of the ids, so that ties at the edge of a neighbourhood do not depend on that of the examples.
        order = torch.argsort(evidence.ids.ranks)
        keys = evidence.ids.keys[order.numpy()]
        support = self._support(keys)
        sample = draws.permutation(keys, self.seed, "prediction_depth sample")[:SAMPLE].sort().values
        given = labels[order]
        probes: list[Tensor] = []
        exact: list[Tensor] = []
        names: list[str] = []
        rough = self.project is not None or support is not None
        predictions = torch.empty(0)
        for one in source.at(self.at if self.at != -1 else kept[-1]).embeddings(self.named):
            names.append(one.name)
            rows = _ordered(one.rows, order)
            probes.append(self._probe(self._projected(rows, len(probes)), given, support))
            if rough:
                exact.append(self._exact(rows, given, sample))
            if one.name == SOFTMAX:
                predictions = rows.argmax(1)
            del one, rows
        if self.reference == "consensus":
            predictions = consensus(torch.stack([one.final_probs() for one in evidence.models]))[order]
        first = self.first(names)
        found = self._depth(torch.stack(probes), given, predictions, first)
        diagnostics: dict[str, object] = {"layers": names}
        if rough:
            near, true = found[sample], self._depth(torch.stack(exact), given[sample], predictions[sample], first)
            diagnostics[f"share of {len(sample)} examples whose depth is the exact one"] = float((near == true).double().mean())
            if bool((near != near[0]).any() and (true != true[0]).any()):
                both = torch.stack([near, true]).to(torch.float64)
                diagnostics[f"Spearman with the exact depth of {len(sample)} examples"] = float(rank_correlation(both)[0, 1])
        values = torch.empty(len(labels), dtype=torch.float64)
        values[order] = found.to(torch.float64)
        return Result(values, diagnostics=diagnostics)

    @property
    def named(self) -> list[str] | None:
        """Names of the layers that `layers` asks for; None if the layers are to be found automatically."""
        return None if self.layers is None else self.layers.split("+")

    def check_layers(self, named: Callable[[Sequence[str] | None], Sequence[str]]) -> None:
        self.first(named(self.named))

    def first(self, names: Sequence[str]) -> int:
        """Number of the first layer that is read.

        Returns:
            Counted from 0.

        Raises:
            UsageError: There are fewer layers than are to be read.
        """
        if self.last is not None and self.last > len(names):
            raise UsageError(f"{self.title}: last={self.last} is more than the {len(names)} layers: {', '.join(names)}.")
        return 0 if self.last is None else len(names) - self.last

    def _support(self, keys) -> Tensor | None:
        if self.support == 1:
            return None
        count = math.ceil(self.support * len(keys))
        return draws.permutation(keys, self.seed, "prediction_depth support")[:count].sort().values

    def _projected(self, rows: Tensor, layer: int) -> Tensor:
        if self.project is None or rows.shape[1] <= self.project:
            return rows
        draw = torch.Generator().manual_seed(draws.integer(self.seed, "prediction_depth projection", layer))
        # In parts, because the matrix of a wide layer is large.
        total = torch.zeros(len(rows), self.project, dtype=rows.dtype)
        for part in rows.split(4096, dim=1):
            total += part @ torch.randn(part.shape[1], self.project, generator=draw, dtype=rows.dtype)
        return total / math.sqrt(self.project)

    def _probe(self, rows: Tensor, labels: Tensor, support: Tensor | None) -> Tensor:
        try:
            return probe(rows, labels, self.k, self.tie, itself=self.itself, support=support)
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error

    def _exact(self, rows: Tensor, labels: Tensor, sample: Tensor) -> Tensor:
        own = torch.full((len(sample),), -1) if self.itself else sample
        return majority_label(nearest(rows[sample], rows, self.k, own), labels, int(labels.max()) + 1, self.tie)

    def _depth(self, probes: Tensor, labels: Tensor, predictions: Tensor, first: int) -> Tensor:
        reference = {"label": labels, "last_probe": probes[-1]}.get(self.reference, predictions)
        # A layer keeps its number, however many are read.
        return first + depth(probes[first:], reference)


def _ordered(rows: Tensor, order: Tensor) -> Tensor:
    """The rows in this order, in their own memory: a layer may take most of what there is."""
    if not torch.equal(order, torch.arange(len(order))):
        for start in range(0, rows.shape[1], 1024):
            part = rows[:, start : start + 1024]
            part.copy_(part[order])
    return rows
