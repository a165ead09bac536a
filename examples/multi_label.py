"""Several labels per example: each is recorded as a binary problem of its own, and an example is worth what its worst label is."""

import sys
import tempfile

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay

torch.manual_seed(0)
inputs = torch.randn(300, 8)
labels = (inputs[:, :4] + 0.3 * torch.randn(300, 4) > 0).float()
# Fifteen examples one of whose four labels is wrong, where it is plain.
wrong = inputs[:15, :4].abs().argmax(1, keepdim=True)
labels[:15] = labels[:15].scatter(1, wrong, 1 - labels[:15].gather(1, wrong))
held_out = torch.randn(60, 8)
held_labels = (held_out[:, :4] > 0).float()

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=30, shuffle=True)


def losses(model, batch):
    """The loss of each example, for what takes the training again."""
    x, y = batch
    return F.binary_cross_entropy_with_logits(model(x), y, reduction="none").mean(1)


folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/run"
told = assay.DataSpec(losses=losses, task="labels", reduce_labels="worst")
with assay.record(folder, model, optimizer, loader, assay.Recording(checkpoints="every"), data=told, seed=0) as recorder:
    for _ in range(10):
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)

loop = assay.Loop(model, optimizer, loader, losses=losses)
table = assay.score(folder, ["aum", "confidence", "tracin"], loop=loop, targets={"validation": (held_out, held_labels)})
for scores in table.values():
    worst = scores.ids.take(scores.hardness().argsort(descending=True)[:15])
    print(f"{scores.title}: {sum(int(one) < 15 for one in worst)} of the 15 wrong examples are among its first 15")
