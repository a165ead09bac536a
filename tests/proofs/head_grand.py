"""GraNd of the last layer: a working method on blocks of per-example gradients, which proves `GradientSource`."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from assay.core.errors import MissingEvidence, UsageError
from assay.core.evidence import Evidence, GradientBlock, Need
from assay.core.method import AbstractMethod, Source
from assay.core.scores import Direction


@dataclasses.dataclass(frozen=True)
class HeadGraNd(AbstractMethod):
    """Norm of each example's loss gradient at one checkpoint.

    Args:
        at: Which checkpoint, counted from 0; -1 is the last.
    """

    at: int = -1
    name: ClassVar[str] = "head_grand"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "loss per parameter"
    source: ClassVar[Source] = Source(
        "Paul et al. 2021, definition 2.1", "https://arxiv.org/abs/2107.07075", "the last layer only"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.at < -1:
            raise UsageError(f"{self.title}: at={self.at} is outside -1..; give a checkpoint counted from 0, or -1 for the last.")

    def values(self, evidence: Evidence) -> Tensor:
        source = evidence.gradients
        if self.at >= source.checkpoints:
            raise MissingEvidence(f"{self.title} reads checkpoint {self.at}; {source.checkpoints} were kept. Keep more.")
        norms = torch.full((len(evidence.ids),), torch.nan, dtype=torch.float64)
        for block in source.blocks(self.at % source.checkpoints):
            norms[block.positions] = block.gradients.to(torch.float64).norm(dim=1)
        return norms


class HeadGradients:
    """Gradients of the cross-entropy by the weights and biases of a linear last layer, from features and outputs alone."""

    def __init__(self, models: list[tuple[nn.Module, nn.Linear]], inputs: Tensor, labels: Tensor, order: Tensor, block: int):
        self.checkpoints = len(models)
        self._models, self._inputs, self._labels, self._order, self._block = models, inputs, labels, order, block

    def blocks(self, checkpoint: int) -> Iterator[GradientBlock]:
        body, head = self._models[checkpoint]
        for positions in self._order.split(self._block):
            with torch.no_grad():
                features = body(self._inputs[positions])
                errors = head(features).softmax(-1)
                errors[torch.arange(len(positions)), self._labels[positions]] -= 1
                extended = torch.cat([features, torch.ones(len(positions), 1, dtype=features.dtype)], 1)
                yield GradientBlock(positions, (errors[:, :, None] * extended[:, None, :]).flatten(1))
