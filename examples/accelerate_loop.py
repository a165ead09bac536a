"""Which labels are wrong: the recorder in a loop of accelerate, after `prepare`, with accumulated gradients."""

import sys

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/accelerate"

draw = torch.Generator().manual_seed(0)
centres = 2 * torch.randn(3, 10, generator=draw)
truth = torch.randint(3, (400,), generator=draw)
inputs = centres[truth] + 2 * torch.randn(400, 10, generator=draw)
flipped = torch.rand(400, generator=draw) < 0.1
labels = torch.where(flipped, (truth + 1) % 3, truth)

torch.manual_seed(0)
accelerator = Accelerator(gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=32, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

with assay.record(FOLDER, model, optimizer, loader, seed=0) as recorder:
    for _ in range(8):
        for x, y in recorder.epoch():
            with accelerator.accumulate(model):
                logits = model(x)
                accelerator.backward(F.cross_entropy(logits, y))
                optimizer.step()
                optimizer.zero_grad()
                recorder.batch(logits, y)

table = assay.score(FOLDER, ["aum", "loss"])
suspects = assay.choose(table["aum"], policy="top_k", keep=0.9).dropped_ids
found = sum(bool(flipped[id]) for id in suspects)
print(f"{found} of the {len(suspects)} most suspect labels are wrong; {int(flipped.sum())} of {len(flipped)} are in all.")
