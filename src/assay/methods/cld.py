r"""CLD: correlation of the changes of an example's loss with those of its class's validation loss, from epoch to epoch.

$$ \mathrm{CLD}_i = \rho_t\bigl(\ell_{t,i} - \ell_{t-1,i},\; L_{t, y_i} - L_{t-1, y_i}\bigr) $$

with $\ell_{t,i}$ the loss of the example in epoch $t$, $L_{t,c}$ the mean loss of the validation examples of class $c$ after it, and $\rho$ Pearson's correlation.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import MissingEvidence, UsageError, listed
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction

FEWEST = 3
"""Epochs: of two there is one change, which correlates with nothing."""
LEVEL = 2.5e-7
"""Changes whose spread is less than this part of the losses are rounding of single precision, in which runs keep them."""


def cld(
    losses: Iterable[Float[Tensor, " examples"]],
    labels: Int[Tensor, " examples"],
    validation_losses: Float[Tensor, "epochs classes"],
) -> Float64[Tensor, " examples"]:
    """Correlation of the changes of each example's loss with those of the mean validation loss of its class.

    Args:
        losses: Losses of the examples, epoch by epoch; each is read once.
        labels: Given class of each.
        validation_losses: Mean loss of the validation examples of each class, by epoch.

    Returns:
        In -1..1; 0 where either does not change, or always by as much; NaN for examples of a class without validation examples.

    Source: Nagaraj, Ravikumar and Roy 2025.
    """
    changes = validation_losses.to(torch.float64).diff(dim=0)
    changes = (changes - changes.mean(0))[:, labels]
    mean, square, product, size = (torch.zeros(len(labels), dtype=torch.float64) for _ in range(4))
    before: Tensor | None = None
    for number, one in enumerate(losses):
        # An epoch's facts are valid until the next one.
        one = one.to(torch.float64, copy=True)
        size = torch.maximum(size, one.abs())
        if before is not None:
            # Welford's update, in which no large sums are subtracted.
            change = one - before
            apart = change - mean
            mean = mean + apart / number
            square += apart * (change - mean)
            product += change * changes[number - 1]
        before = one
    spread = changes.square().sum(0)
    most = validation_losses.to(torch.float64).abs().amax(0)[labels]
    level = (square <= (LEVEL * size).square() * len(changes)) | (spread <= (LEVEL * most).square() * len(changes))
    found = product / (square * spread).sqrt()
    return found.clamp(-1, 1).masked_fill(level & ~spread.isnan(), 0.0)


@dataclasses.dataclass(frozen=True)
class CLD(AbstractMethod):
    """Low values mark examples whose loss does not move with the validation loss of their class: wrong labels, and such as teach nothing that holds elsewhere.

    The recording must have measured validation examples after every epoch. The published use keeps the examples with the highest values, class by class.
    """

    name: ClassVar[str] = "cld"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.LOSSES, Need.VALIDATION_LOSSES})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "correlation"
    source: ClassVar[Source] = Source(
        "Nagaraj, Ravikumar and Roy 2025, Coresets from trajectories",
        "https://arxiv.org/abs/2508.20230",
        "from the first recorded epoch on, where the paper begins with the state before training; in the recorded pass, which for view=train is made while training",
    )

    def run(self, evidence: Evidence) -> Result:
        if evidence.recorded < FEWEST:
            raise MissingEvidence(
                f"{self.title} reads at least {FEWEST} epochs, but this run has {evidence.recorded}. Record more epochs."
            )
        labels, validation = evidence.labels, evidence.validation_losses
        values = cld(self._losses(evidence), labels, validation)
        scored = ~validation.isnan().any(0)[labels]
        if not bool(scored.any()):
            raise UsageError(f"{self.title}: no class of the examples has validation examples; hold out some of each class.")
        warnings: tuple[str, ...] = ()
        if not bool(scored.all()):
            missing = labels[~scored].unique().tolist()
            warnings = (
                f"Classes {listed(missing, len(missing))} (numbered from 0) have no validation examples, so that their {int((~scored).sum())} examples have "
                "no value; hold out some of each class.",
            )
        return Result(values, scored=scored, warnings=warnings)

    def _losses(self, evidence: Evidence) -> Iterator[Tensor]:
        return (evidence.epoch(index).losses for index in range(evidence.recorded))
