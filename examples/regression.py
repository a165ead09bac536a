"""Which rows of a regression help, which harm: record one loss for each example, then influence on held-out rows."""

import sys
import tempfile

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay

torch.manual_seed(0)
inputs = torch.randn(200, 5)
targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [3.0]]) + 0.1 * torch.randn(200, 1)
held_out = torch.randn(50, 5)
held_targets = held_out @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [3.0]])
# Ten rows whose target is too large by 5.
targets[:10] += 5

model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=20, shuffle=True)


def losses(model, batch):
    """The loss of each example; the same function is recorded, trained on and given to `assay.Loop`."""
    x, y = batch
    return (model(x) - y).square().mean(1)


folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/run"
with assay.record(folder, model, optimizer, loader, data=assay.DataSpec(losses=losses), seed=0) as recorder:
    for _ in range(20):
        for batch in recorder.epoch():
            values = losses(model, batch)
            optimizer.zero_grad()
            values.mean().backward()
            optimizer.step()
            recorder.losses(values)

loop = assay.Loop(model, optimizer, loader, losses=losses)
table = assay.score(folder, ["loss", "sgd_influence"], loop=loop, targets={"validation": (held_out, held_targets)})
for scores in table.values():
    worst = scores.ids.take(scores.hardness().argsort(descending=True)[:10])
    print(f"{scores.title} ({scores.unit}): {sum(int(one) < 10 for one in worst)} of the 10 wrong rows are among its first 10")
