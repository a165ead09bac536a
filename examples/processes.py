"""Several processes train one model, each on its part of every epoch; they record one run.

torchrun --nproc-per-node 2 examples/processes.py runs/processes
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import assay

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/processes"

X, y = load_digits(return_X_y=True)
inputs, labels = torch.tensor(X[:601] / 16, dtype=torch.float32), torch.tensor(y[:601])
wrong = torch.arange(0, 601, 12)
labels[wrong] = (labels[wrong] + 3) % 10

dist.init_process_group("gloo")  # "nccl" where each process has a GPU
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
dataset = TensorDataset(inputs, labels)
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=25, sampler=sampler)

# The same lines in every process, with the same folder; process 0 writes it. Started again, with any number of processes, it goes on.
resume = os.path.exists(FOLDER)
dist.barrier()
with assay.record(FOLDER, model, optimizer, loader, seed=0, resume=resume) as recorder:
    for epoch in range(recorder.epochs, 8):
        sampler.set_epoch(epoch)
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)

if dist.get_rank() == 0:
    run = assay.Run(FOLDER)
    filled = int(run.visits_in(0).sum()) - len(dataset)
    print(
        f"{run.epochs} epochs of {run.processes} processes; the sampler drew {filled} of {len(dataset)} examples again to fill up"
    )
    # Afterwards one process is enough, also for what takes the steps again, by a loader over all examples.
    planted = set(wrong.tolist())
    for scores in assay.score(FOLDER, ["aum", "forgetting"]).values():
        worst = scores.ids.take(scores.hardness().argsort(descending=True)[: len(wrong)])
        print(f"{scores.title}: {len(planted & set(worst))} of the {len(wrong)} wrong labels are among its first {len(wrong)}")
dist.destroy_process_group()
