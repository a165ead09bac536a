"""Leave-one-out: a working method on a utility, which proves `Utility`; and a ridge classifier that retrains in closed form."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from assay.core.evidence import Evidence, Need
from assay.core.ids import Ids
from assay.core.method import AbstractMethod, Source
from assay.core.scores import Direction


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(AbstractMethod):
    """Utility of all examples minus the utility without this one. Below 0 the others do better without it."""

    name: ClassVar[str] = "leave_one_out"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.UTILITY})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = "utility"
    source: ClassVar[Source] = Source("Cook 1977", "https://doi.org/10.2307/1268249")

    def values(self, evidence: Evidence) -> Tensor:
        utility, everyone = evidence.utility, torch.arange(len(evidence.ids))
        whole = utility(evidence.ids)
        without = [utility(evidence.ids.take(everyone != position)) for position in everyone]
        return whole - torch.tensor(without, dtype=torch.float64)


class RidgeUtility:
    """Minus the squared error on held-out rows of a ridge regression on signs, fitted on the rows of the given ids."""

    def __init__(self, ids: Ids, inputs: Tensor, signs: Tensor, held_out: tuple[Tensor, Tensor], ridge: float = 1.0):
        self.ids, self.inputs, self.signs, self.held_out, self.ridge = ids, inputs, signs, held_out, ridge
        self.calls: list[Ids] = []

    def fit(self, ids: Ids) -> Tensor:
        rows = self.ids.positions(ids)
        inputs = self.inputs[rows]
        gram = inputs.T @ inputs + self.ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
        return torch.linalg.solve(gram, inputs.T @ self.signs[rows])

    def __call__(self, ids: Ids) -> float:
        self.calls.append(ids)
        inputs, signs = self.held_out
        return -float((inputs @ self.fit(ids) - signs).square().mean())
