"""A loop with mixup: what it computes are logits of mixtures, so the examples are looked at by themselves after each epoch."""

import sys
import tempfile

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay

X, y = load_digits(return_X_y=True)
inputs, labels = torch.tensor(X[:600] / 16, dtype=torch.float32), torch.tensor(y[:600])
wrong = torch.arange(0, 600, 12)
labels[wrong] = (labels[wrong] + 3) % 10


def train(folder, view):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=50, shuffle=True)
    with assay.record(folder, model, optimizer, loader, assay.Recording(view=view), seed=0) as recorder:
        for _ in range(10):
            for x, y in recorder.epoch():
                share = torch.distributions.Beta(0.4, 0.4).sample()
                other = torch.randperm(len(x))
                logits = model(share * x + (1 - share) * x[other])
                loss = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[other])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.batch(logits, y)


# "eval": every example itself, in eval mode, after each epoch: what you want here. "train", the default: what the loop computed, logits
# of mixtures beside the label of one of the two; a warning says so. Methods that take steps again cannot: the loss of an example is not its own.
folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/run"
planted = set(wrong.tolist())
for view in ("eval", "train"):
    train(f"{folder}-{view}", view)
    for scores in assay.score(f"{folder}-{view}", ["aum", "confidence", "loss"]).values():
        worst = scores.ids.take(scores.hardness().argsort(descending=True)[:50])
        print(f"view={view!r}, {scores.title}: {len(planted & set(worst))} of the 50 wrong labels are among its first 50")
