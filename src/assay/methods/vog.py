r"""VoG: variance of gradients, how much the gradient of the given label's logit with respect to the input changes over training.

$$ \mathrm{VoG}_i = \operatorname{mean}_p \sqrt{\tfrac{1}{K} \sum_t (s_{t,i,p} - \bar s_{i,p})^2}, \qquad
   s_{t,i} = \operatorname{mean}_c \nabla_{x_i} z_{y_i}(x_i; \theta_t) $$

over $K$ checkpoints $t$, places (pixels) $p$ and channels $c$.
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import MissingEvidence, NumericalError, UsageError, listed
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction

UNITS = {"std": "logit per input unit", "var": "squared logit per input unit"}


def vog(
    gradients: Float[Tensor, "checkpoints examples channels *places"],
    labels: Int[Tensor, " examples"] | None = None,
    reduce: Literal["std", "var"] = "std",
) -> Float[Tensor, " examples"]:
    """Spread of each example's input gradient over checkpoints, averaged over places (pixels); standardised within each class if labels are given.

    Args:
        gradients: Gradient of the given label's logit with respect to the input, at each checkpoint.
        labels: Given labels; the result is then in standard deviations above the mean of the class, 0 where a class has no spread.
        reduce: `std`, the root of the population variance at each place, or `var`, that variance.

    Returns:
        One per example: at least 0, or in standard deviations of its class.

    Raises:
        ValueError: There is no checkpoint, or `reduce` is neither `std` nor `var`.

    Source: Agarwal, D'souza and Hooker 2022; the root by place is that of the authors' code.
    """
    if not len(gradients):
        raise ValueError("VoG needs at least one checkpoint.")
    spread = _Spread()
    for one in gradients:
        spread.add(one.mean(1))
    values = spread.values(reduce)
    return values if labels is None else within_class(values, labels)


def within_class(values: Float[Tensor, " examples"], labels: Int[Tensor, " examples"]) -> Float[Tensor, " examples"]:
    """(value - mean of the class) / population standard deviation of the class; 0 in a class without spread, NaN in a class with a NaN value."""
    normalised = torch.zeros_like(values)
    for label in labels.unique():
        members = labels == label
        own = values[members]
        apart = own - own.mean()
        spread = apart.square().mean().sqrt()
        # Equal values may differ from their mean by a last bit.
        if not spread <= torch.finfo(own.dtype).eps * own.abs().max():
            normalised[members] = apart / spread
    return normalised


class _Spread:
    """Mean and sum of squared deviations at each place, one checkpoint after the other (Welford), in float64."""

    def __init__(self):
        self.count = 0

    def add(self, gradients: Float[Tensor, "examples *places"]) -> None:
        """One checkpoint."""
        new = gradients.to(torch.float64)
        self.count += 1
        if self.count == 1:
            self._mean, self._squares = new.clone(), torch.zeros_like(new)
            return
        apart = new - self._mean
        self._mean += apart / self.count
        self._squares.addcmul_(apart, new - self._mean)

    def values(self, reduce: str) -> Float[Tensor, " examples"]:
        """Mean over places of the deviation or the variance."""
        variance = self._squares / self.count
        if reduce not in UNITS:
            raise ValueError(f"reduce={reduce!r} is neither std nor var.")
        return (variance.sqrt() if reduce == "std" else variance).reshape(len(variance), -1).mean(1)


@dataclasses.dataclass(frozen=True)
class VoG(AbstractMethod):
    """High VoG marks examples whose input gradient keeps changing: hard and atypical ones, and late in training memorised ones.

    Args:
        stage: `all` kept models, the first of them, `early`, or the last, `late`.
        count: How many models of an early or late stage; a third of the kept ones by default, at least 2.
        reduce: Mean over places of the standard deviation, `std`, or of the variance, `var`.
        by_class: Whether the value is standardised within the class of the given label.
    """

    stage: Literal["all", "early", "late"] = "all"
    count: int | None = None
    reduce: Literal["std", "var"] = "std"
    by_class: bool = True
    name: ClassVar[str] = "vog"
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    source: ClassVar[Source] = Source(
        "Agarwal, D'souza and Hooker 2022",
        "https://arxiv.org/abs/2008.11600",
        "every kept model counts, but for the one before training; the deviation is taken place by place before the mean, as in the "
        "authors' code; tokens are differentiated by their embeddings",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.count is not None and (self.count < 2 or self.stage == "all"):
            raise UsageError(f"{self.title}: count={self.count} goes with stage=early or late, from 2 on.")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Standard deviations within the class, or the unit of the raw value."""
        return "standard deviations within the class" if self.by_class else UNITS[self.reduce]

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Kept models; labels where values are compared within a class."""
        return frozenset({Need.CHECKPOINTS, Need.LABELS} if self.by_class else {Need.CHECKPOINTS})

    def run(self, evidence: Evidence) -> Result:
        if not evidence.classes:
            raise MissingEvidence(
                f"{self.title} differentiates the logit of each example's class, and the examples of this run have none; choose grand."
            )
        source = evidence.checkpoints
        epochs = self.epochs_of([epoch for epoch in source.kept if epoch >= 0])
        spread = _Spread()
        for epoch in epochs:
            parts, places = zip(
                *((batch.input_gradients(), batch.positions) for batch in source.at(epoch).batches()), strict=True
            )
            gradients, order = torch.cat(parts), torch.cat(places)
            bad = ~gradients.flatten(1).isfinite().all(1)
            if bool(bad.any()):
                names = evidence.ids.take(order[bad].cpu())
                raise NumericalError(
                    f"{self.title}: the input gradients of {len(names)} examples at the end of epoch {epoch} are NaN or infinite (ids "
                    f"{listed(names, len(names))}), so the kept model has diverged; choose an earlier stage, such as stage=early."
                )
            # Three axes are channels, height and width; of anything else each number is a place of its own.
            by_place = gradients.mean(1) if gradients.ndim == 4 else gradients
            spread.add(by_place.to("cpu")[order.argsort()])
        values = spread.values(self.reduce)
        return Result(
            within_class(values, evidence.labels) if self.by_class else values,
            diagnostics={"epochs whose end was looked at": list(epochs)},
        )

    def epochs_of(self, kept: list[int]) -> list[int]:
        """The kept epochs of the stage.

        Returns:
            Counted from 0, rising.

        Raises:
            MissingEvidence: The stage has too few kept epochs.
        """
        count = len(kept) if self.stage == "all" else self.count if self.count is not None else max(len(kept) // 3, 2)
        if len(kept) < max(count, 2):
            raise MissingEvidence(
                f"{self.title} needs the models of at least {max(count, 2)} epochs, and the run kept {len(kept)}; record with "
                "Recording(checkpoints='every')."
            )
        return kept[:count] if self.stage != "late" else kept[-count:]
