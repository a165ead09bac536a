"""A small training that can be replayed, for the laws: recorded in a loop, on given batches, in float64."""

import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..core.ids import Ids
from ..experiments.evidence import open_replay
from ..integrations.data_spec import DataSpec
from ..integrations.pytorch import record
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..runs.recording import Recording

DIMS, WIDTH = 8, 5


class Given:
    """Batches by epoch, in a given order."""

    def __init__(self, epochs: Sequence[Sequence[Tensor]]):
        self.epochs, self.epoch = epochs, 0

    def __iter__(self):
        return iter([list(map(int, batch)) for batch in self.epochs[self.epoch]])

    def __len__(self):
        return len(self.epochs[self.epoch])


def net(classes: int) -> nn.Module:
    """A small net whose last layer starts at 0, so that no class is special."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(DIMS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, classes)).double()
    nn.init.zeros_(model[2].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[2].bias)  # type: ignore[arg-type]
    return model


def trained(
    ids: Ids,
    inputs: Tensor,
    labels: Tensor,
    held_out: tuple[Tensor, Tensor],
    classes: int,
    epochs: Sequence[Sequence[Tensor]],
) -> Replay:
    """Train on these batches (positions, by epoch), record the training, and return it ready for replay.

    Args:
        held_out: Inputs and labels of the target.
    """
    model, batches = net(classes), Given(epochs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    loader = DataLoader(TensorDataset(inputs, labels), batch_sampler=batches)
    folder = pathlib.Path(tempfile.mkdtemp()) / "run"
    with record(folder, model, optimizer, loader, Recording(checkpoints="every"), data=DataSpec(ids=ids)) as recorder:
        for epoch in range(len(epochs)):
            batches.epoch = epoch
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    loop = Loop(model, optimizer, loader, ids=ids)
    replay = open_replay(folder, loop=loop, targets={"validation": held_out}, replay_config=ReplayConfig(tolerance=1e-12))
    weakref.finalize(replay, shutil.rmtree, folder.parent)
    return replay
