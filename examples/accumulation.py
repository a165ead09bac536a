"""Gradients of several batches are added up before each step; the steps are repeated as they were taken."""

import sys
import tempfile

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay

torch.manual_seed(0)
inputs = torch.randn(230, 6)
labels = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
# Twenty examples with a wrong label.
labels[:20] = (labels[:20] + 1) % 4
held_out = torch.randn(100, 6)
held_labels = (held_out[:, 0] > 0).long() + 2 * (held_out[:, 1] > 0).long()

model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=10, shuffle=True)
every = 4

folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/run"
with assay.record(folder, model, optimizer, loader, seed=0) as recorder:
    for _ in range(10):
        # 23 batches: the last step of an epoch has three.
        for number, (x, y) in enumerate(recorder.epoch(), 1):
            logits = model(x)
            (F.cross_entropy(logits, y) / every).backward()
            recorder.batch(logits, y)
            if number % every == 0 or number == len(loader):
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

# Which batches made a step is read from the run. A loop that divides the last step's losses by three, as Hugging Face's Trainer does, says
# accumulate="batches"; one that does not divide says accumulate=1.
loop = assay.Loop(model, optimizer, loader, clip=1.0, accumulate=every)
table = assay.score(folder, ["aum", "sgd_influence", "tracin"], loop=loop, targets={"validation": (held_out, held_labels)})
for scores in table.values():
    worst = scores.ids.take(scores.hardness().argsort(descending=True)[:20])
    print(f"{scores.title}: {sum(int(one) < 20 for one in worst)} of the 20 wrong labels are among its first 20")
