"""Whether somebody else changed the weights between the last step of an epoch and its end, as early stopping does that restores the best ones."""

import math

import torch
from torch import nn

from .sharded import own_parts


class AlteredWeights:
    """Compares the weights at the end of an epoch with those after its last step.

    Weights that were written and written back are not altered.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._written: list[tuple[int, int]] = []
        self._sums: list[float] = []

    def stepped(self) -> None:
        """The last step of an epoch was taken."""
        self._written, self._sums = self._versions(), self._totals()

    def altered(self) -> bool:
        """Whether a parameter has another value than after that step."""
        if self._versions() == self._written:
            return False
        totals = self._totals()
        # Weights that are not finite are refused at the commit.
        finite = all(map(math.isfinite, totals))
        return finite and (
            len(totals) != len(self._sums) or any(now != then for now, then in zip(totals, self._sums, strict=True))
        )

    def _versions(self) -> list[tuple[int, int]]:
        return [(value.data_ptr(), value._version) for value in self._model.parameters()]

    def _totals(self) -> list[float]:
        with torch.no_grad():
            sums = [value.sum(dtype=torch.float64) for value in own_parts(self._model) if value.is_floating_point()]
            return torch.stack([one.cpu() for one in sums]).tolist() if sums else []
