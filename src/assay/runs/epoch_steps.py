"""The batches of one epoch and the optimizer steps that they end, in the order in which they were trained on."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.ids import Ids


@dataclasses.dataclass
class EpochSteps:
    """What an epoch trained on, and with which settings of the optimizer.

    Attributes:
        batches: Positions of the examples, by batch.
        rates: Learning rate of each parameter group, by batch.
        momenta: For each parameter group (momentum, NaN) or (beta1, beta2), by batch; empty where no schedule may change them.
        updates: How often the optimizer updated the parameters in each batch.
        weights: Factor of each example's loss, NaN for those that did not come; None where nobody gave any.
    """

    batches: list[Int[Tensor, " batch"]] = dataclasses.field(default_factory=list)
    rates: list[list[float]] = dataclasses.field(default_factory=list)
    momenta: list[list[tuple[float, float]]] = dataclasses.field(default_factory=list)
    updates: list[int] = dataclasses.field(default_factory=list)
    weights: Float[Tensor, " examples"] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def add(
        self,
        positions: Int[Tensor, " batch"],
        rates: Sequence[float],
        updates: int,
        momenta: Sequence[tuple[float, float]] | None,
    ) -> None:
        """Take in one batch."""
        self.updates.append(updates)
        self.batches.append(positions)
        self.rates.append([float(rate) for rate in rates])
        if momenta is not None:
            self.momenta.append([(float(first), float(second)) for first, second in momenta])

    def weigh(self, positions: Int[Tensor, " batch"], weights: Tensor | None, ids: Ids, where: str) -> None:
        """Take in the factors of the losses of a batch that is about to be added; None for 1.

        Raises:
            UsageError: A weight is negative, not finite, or another one than the example had before in this epoch.
        """
        if weights is None and self.weights is None:
            return
        if self.weights is None:
            self.weights = torch.full((len(ids),), math.nan, dtype=torch.float64)
            self.weights[self.order] = 1.0
        own = torch.ones(len(positions), dtype=torch.float64) if weights is None else weights.detach().to("cpu", torch.float64)
        before = self.weights[positions]
        self.weights[positions] = own
        bad = ~before.isnan() & (before != own) | (self.weights[positions] != own) | ~own.isfinite() | (own < 0)
        if bool(bad.any()):
            names = ids.take(positions[bad])
            raise UsageError(
                f"{where}: the losses of {len(names)} examples had a weight that is negative, not finite, or another one than before in "
                f"this epoch; ids {listed(names, len(names))}. Give each example one weight of 0 or more per epoch."
            )

    def interleave(self, others: "Sequence[EpochSteps]") -> None:
        """Take in the first batch of each process, then the second batches, and so on; a step is then one on the batches of all."""
        for number, updates in enumerate(others[0].updates):
            for other in others:
                self.batches.append(other.batches[number])
                self.rates.append(other.rates[number])
                self.momenta += other.momenta[number : number + 1]
                self.updates.append(updates if other is others[-1] else 0)

    @property
    def order(self) -> Int[Tensor, " visits"]:
        """Positions of the examples of all batches, one after the other."""
        return torch.cat([torch.zeros(0, dtype=torch.int64), *self.batches])

    @property
    def sizes(self) -> Int[Tensor, " batches"]:
        """How many examples each batch has."""
        return torch.tensor([len(batch) for batch in self.batches], dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """What a shard holds of them."""
        # A group that joins in the middle of an epoch has neither rate nor momenta before.
        groups = max(map(len, self.rates), default=0)
        none = (math.nan, math.nan)
        rates = [[*by_group, *[math.nan] * (groups - len(by_group))] for by_group in self.rates]
        stored = {
            "order": self.order.to(torch.int32),
            "batch_sizes": self.sizes.to(torch.int32),
            "rates": torch.tensor(rates, dtype=torch.float64),
        }
        if self.momenta:
            momenta = [[*by_group, *[none] * (groups - len(by_group))] for by_group in self.momenta]
            stored["momenta"] = torch.tensor(momenta, dtype=torch.float64)
        if any(count != 1 for count in self.updates):
            stored["updates"] = torch.tensor(self.updates, dtype=torch.int32)
        if self.weights is not None and bool((self.weights.nan_to_num(1.0) != 1).any()):
            # What did not stand in a batch has no weight.
            stored["weights"] = self.weights.nan_to_num(0.0)
        return stored
