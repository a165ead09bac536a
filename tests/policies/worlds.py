"""Small scores and recordings for the policies' tests, and the golden arrays."""

import functools
import pathlib

import numpy as np
import torch

from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.core.scores import Direction, Scores


@functools.cache
def golden() -> dict[str, torch.Tensor]:
    """Expected scores and selections on a synthetic run of 500 examples; ids are positions."""
    with np.load(pathlib.Path(__file__).parent.parent / "golden" / "dynamics_selection.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def scores(values, direction=Direction.HIGH_IS_HARD, ids=None, **options) -> Scores:
    values = torch.as_tensor(values, dtype=torch.float64)
    return Scores(Ids(range(len(values)) if ids is None else ids), values, "made", options, "made", direction, "none")


class Recorded:
    """Target probabilities of some epochs, in memory."""

    holds = frozenset({Need.TARGET_PROBS})

    def __init__(self, target_probs):
        self.target_probs, self.recorded = target_probs, len(target_probs)

    def read(self, epoch, need):
        assert need is Need.TARGET_PROBS
        return self.target_probs[epoch]


def run(ids, *, labels=None, target_probs=None, mean_probs=None) -> Evidence:
    labels = None if labels is None else torch.as_tensor(labels)
    classes = mean_probs.shape[1] if mean_probs is not None else 10
    epochs = None if target_probs is None else Recorded(target_probs)
    return Evidence(Ids(ids), classes, labels=labels, epochs=epochs, mean_probs=mean_probs)
