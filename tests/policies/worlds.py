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


@functools.cache
def golden_features() -> dict[str, torch.Tensor]:
    """Features of those examples, their labels and forgetting, and what is to be chosen by them."""
    with np.load(pathlib.Path(__file__).parent.parent / "golden" / "dynamics_features.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def in_features(rows, labels=None, ids=None, **more) -> Evidence:
    """Evidence of rows, as the data themselves, and of others by name."""
    rows = torch.as_tensor(rows) if isinstance(rows, torch.Tensor) else torch.tensor(rows, dtype=torch.float64)
    labels = None if labels is None else torch.as_tensor(labels)
    classes = 2 if labels is None else max(2, int(labels.max()) + 1)
    given = {name: torch.as_tensor(one, dtype=torch.float64) for name, one in more.items()}
    return Evidence(Ids(range(len(rows)) if ids is None else ids), classes, labels=labels, inputs={"": rows, **given})


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
