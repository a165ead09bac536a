"""Recordings whose every number is known beforehand."""

import math

import torch

from assay.core.ids import Ids
from assay.methods.dual import DUAL
from assay.methods.tdds import TDDS
from assay.runs.recorder import Recorder
from settings import grouped_recorder

EXAMPLES, CLASSES, BATCH = 23, 4, 6
IDS = Ids([f"picture {number:02d}" for number in range(EXAMPLES)])
LABELS = torch.arange(EXAMPLES) * 7 % CLASSES
LIVE = (TDDS(window=3), DUAL(window=2))


def generator(epoch, salt=0):
    return torch.Generator().manual_seed(1000 * salt + epoch)


def logits_of(epoch):
    """What the model says in that epoch, in the order of the ids."""
    return 3 * torch.randn(EXAMPLES, CLASSES, generator=generator(epoch))


def order_of(epoch):
    return torch.randperm(EXAMPLES, generator=generator(epoch, 1))


def state_of(epoch):
    return {"weight": torch.full((3, 2), float(epoch)), "step": torch.tensor(epoch)}


def play(recorder, epochs):
    """Go on with a recording until it has that many epochs."""
    while recorder.epochs < epochs:
        epoch = recorder.begin()
        for step, positions in enumerate(order_of(epoch).split(BATCH)):
            recorder.step(positions, [0.5**epoch, step])
            recorder.observe(positions, logits_of(epoch)[positions], LABELS[positions])
        recorder.commit(state_of(epoch), {"epoch": str(epoch)})


def recorded(folder, epochs, **settings):
    with Recorder(folder, IDS, **grouped_recorder(settings)) as recorder:
        play(recorder, epochs)


def facts_by_hand(logits, label):
    """The facts of one example, one class after the other, in Python's floats."""
    logits = [float(value) for value in logits]
    top = max(logits)
    total = math.fsum(math.exp(value - top) for value in logits)
    log_probs = [value - top - math.log(total) for value in logits]
    probs = [math.exp(value) for value in log_probs]
    ranked = sorted(probs, reverse=True)
    return {
        "target_probs": probs[label],
        "margins": logits[label] - max(value for number, value in enumerate(logits) if number != label),
        "losses": -log_probs[label],
        "correct": logits.index(top) == label,
        "entropies": -math.fsum(p * q for p, q in zip(probs, log_probs, strict=True)),
        "error_norms": math.sqrt(math.fsum((p - (number == label)) ** 2 for number, p in enumerate(probs))),
        "top_probs": ranked[0],
        "second_probs": ranked[1],
    }


def assert_holds(shard, logits, labels):
    """Every fact of a shard is that of these logits, to float32."""
    held = {name: shard.read(name) for name in facts_by_hand(logits[0], int(labels[0]))}
    for position, (row, label) in enumerate(zip(logits, labels.tolist(), strict=True)):
        for name, value in facts_by_hand(row, label).items():
            assert abs(float(held[name][position]) - value) <= 3e-6 * max(1.0, abs(value)), (name, position)
