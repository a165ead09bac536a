"""Small recordings for the methods' tests: by hand, planted, golden, in memory and on disk."""

import functools
import pathlib

import numpy as np
import torch

from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.core.scoring import score
from assay.replay.live_methods import LiveMethods
from assay.runs.recorder import Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run
from assay.testing.worlds import Facts as Facts
from assay.testing.worlds import facts_of as facts_of


def in_memory(facts: dict[Need, torch.Tensor], ids=None, classes=2) -> Evidence:
    """Evidence over `facts` alone."""
    examples = next(iter(facts.values())).shape[1]
    return Evidence(Ids(range(examples)) if ids is None else Ids(ids), classes, epochs=Facts(facts))


def value(method, **facts) -> list[float]:
    """What a method says of facts given by the name of their need, each (epochs, examples)."""
    given = {Need(name): torch.as_tensor(fact) for name, fact in facts.items()}
    classes = given[Need.LOGITS].shape[-1] if Need.LOGITS in given else 2
    return score([method], in_memory(given, classes=classes))[0].values.tolist()


def on_disk(folder, logits, labels, *, ids=None, live=(), stop=None, keep_logits=True) -> Run:
    """A recorded run of these logits, each epoch in another order and in ragged batches; stopped and resumed after `stop` epochs."""
    ids = Ids([f"row {number}" for number in range(len(labels))] if ids is None else ids)
    draw = np.random.default_rng(0)

    def record(first, last, resume):
        with Recorder(
            folder, ids, Recording(keep_logits=keep_logits, checkpoints="none"), live=LiveMethods(live), resume=resume
        ) as recorder:
            for epoch in range(first, last):
                assert recorder.begin() == epoch
                for batch in np.array_split(draw.permutation(len(ids)), 3):
                    positions = torch.from_numpy(batch)
                    recorder.step(positions, [0.1])
                    recorder.observe(positions, logits[epoch, positions], labels[positions])
                recorder.commit()

    stop = len(logits) if stop is None else stop
    record(0, stop, False)
    if stop < len(logits):
        record(stop, len(logits), True)
    return Run(folder)


@functools.cache
def golden() -> dict[str, torch.Tensor]:
    """The arrays of tests/golden/dynamics.npz; logits stay float32, labels become int64."""
    with np.load(pathlib.Path(__file__).parent.parent / "golden" / "dynamics.npz") as archive:
        arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
    return arrays | {"labels": arrays["labels"].long()}
