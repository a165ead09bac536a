r"""DeepFool: the examples nearest to a boundary between classes.

$$ d_i = \min_{k \ne c} \frac{z_{ic} - z_{ik}}{\lVert w_c - w_k \rVert}, \qquad c = \arg\max_k z_{ik}. $$

$z$ are the logits, $w_k$ the weights of class k in the linear layer that makes them.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.errors import UsageError
from ..core.method import Asks, Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, Pool, Selection, class_turns, count_of

AGREES = 1e-3
"""How far logits may be from those of the linear layer, as a part of the largest one, because of rounding in low precision."""


def boundary_distance(
    logits: Float[Tensor, "examples classes"], weight: Float[Tensor, "classes dims"]
) -> Float64[Tensor, " examples"]:
    """Distance from each example's features to the nearest point where another class has the largest logit.

    Exact for a linear layer: DeepFool's first step ends on the boundary.

    Args:
        logits: What the layer gives each class.
        weight: The layer's weights.

    Returns:
        In the unit of the features, at least 0; infinite where no other class can be reached.
    """
    logits, weight = logits.to(torch.float64), weight.to(torch.float64)
    best = logits.argmax(1)
    found = torch.full((len(logits),), torch.inf, dtype=torch.float64)
    for label in best.unique().tolist():
        here = best == label
        apart = (weight - weight[label]).norm(dim=1)
        # Classes of equal weights have no boundary between them.
        other = apart > 0
        if bool(other.any()):
            found[here] = ((logits[here, label, None] - logits[here][:, other]) / apart[other]).amin(1)
    return found


@dataclasses.dataclass(frozen=True)
class DeepFool(AbstractSelector):
    """Keeps the examples nearest to a boundary between classes, in the space of what goes into the layer that makes the logits.

    The distance is exact there, for the linear layer; how far the input itself would have to move through the whole net is not asked.
    No score is read. Examples alike are not passed over.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        epoch: Epoch at whose end the model is taken, counted from 0; by default the last kept one.
        by_class: Whether each given class gives examples in proportion.
    """

    keep: int | float
    epoch: int | None = None
    by_class: bool = False
    name: ClassVar[str] = "deepfool"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    spreads: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Ducoffe and Precioso 2018, Adversarial active learning for deep networks: a margin based approach (DeepFool: Moosavi-Dezfooli et al. 2016)",
        "https://arxiv.org/abs/1802.09841",
        "on the last linear layer, where the distance is exact in one step, not on the input through the whole net in up to 50; the distance, which "
        "ranks as its square does; ties break by id; classes by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        if self.epoch is not None and self.epoch < 0:
            raise UsageError(f"{self.name}: epoch={self.epoch} is below 0; epochs are counted from 0.")

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Features and the kept model, and labels where classes are looked at separately."""
        needs = {Need.FEATURES, Need.CHECKPOINTS}
        return frozenset(needs | {Need.LABELS} if self.by_class else needs)

    @property
    def asks(self) -> Asks:
        at = "" if self.epoch is None else f"@{self.epoch}"
        return Asks(features=(f"penultimate{at}", f"logits{at}"))

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        rows, logits = (pool.features(spec) for spec in self.asks.features)
        values = boundary_distance(logits, self._weight(pool, rows, logits))
        order = torch.zeros(budget, dtype=torch.int64)
        for members, turns, _ in class_turns(pool, self.by_class, budget):
            order[turns] = members[ordered(values[members], pool.ids.take(members), descending=False)[: len(turns)]]
        reasons = {place: f"{value:.4g} from the nearest boundary between classes" for place, value in enumerate(values.tolist())}
        return Selection.taken(order, pool, "near to a boundary", "far from every boundary", reasons)

    def _weight(self, pool: Pool, rows: Tensor, logits: Tensor) -> Float[Tensor, "classes dims"]:
        """The weights of the layer that makes the logits.

        Returns:
            A row for each class.

        Raises:
            UsageError: No trained linear layer makes them by itself.
        """
        source = pool.checkpoints
        model = source.at(source.kept[-1] if self.epoch is None else self.epoch)
        weights = [model.params[name].detach().cpu() for name in model.head if model.params[name].ndim == 2]
        weight = weights[0] if weights else torch.zeros(0, 0)
        if len(weight) == 1 and logits.shape[1] == 2:
            # One logit z is recorded as the two (0, z).
            weight = torch.cat([torch.zeros_like(weight), weight])
        if weight.shape == (logits.shape[1], rows.shape[1]):
            biases = logits.to(torch.float64) - rows.to(torch.float64) @ weight.to(torch.float64).T
            if float((biases - biases.mean(0)).abs().max()) <= AGREES * (1 + float(logits.abs().max())):
                return weight
        raise UsageError(
            f"{self.title}: no trained linear layer makes the model's logits by itself, so that distances to boundaries are not known; choose by the "
            "score margin instead: bottom_k keeps those between two classes."
        )
