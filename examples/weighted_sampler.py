"""Rare classes are drawn more often, with replacement: an epoch is recorded as it was drawn, and what it left out is named."""

import sys
import tempfile

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import assay

torch.manual_seed(0)
centres = 2 * torch.randn(3, 8)
labels = torch.tensor([0] * 240 + [1] * 60 + [2] * 30)
inputs = centres[labels] + torch.randn(len(labels), 8)
# Twenty examples of the large class with a wrong label.
wrong = torch.arange(0, 240, 12)
labels[wrong] = 1 + torch.arange(20) % 2
held_labels = torch.arange(90) % 3
held_out = centres[held_labels] + torch.randn(90, 8)

# As often as each other on average: an epoch draws some examples several times, and others never.
weights = 1 / labels.bincount()[labels]
loader = DataLoader(TensorDataset(inputs, labels), batch_size=30, sampler=WeightedRandomSampler(weights, len(labels)))
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/run"
with assay.record(folder, model, optimizer, loader, data=assay.DataSpec(visits="any"), seed=0) as recorder:
    for _ in range(5):
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)

visits = assay.Run(folder).visits()
print(f"visits of an example in 5 epochs: {int(visits.min())} to {int(visits.max())}")

# A mean over epochs is one over those that trained on the example. Other methods that read epochs, such as forgetting, say that they cannot.
loop = assay.Loop(model, optimizer, loader)
table = assay.score(folder, ["aum", "loss", "sgd_influence"], loop=loop, targets={"validation": (held_out, held_labels)})
planted = set(wrong.tolist())
for scores in table.values():
    worst = scores.ids.take(scores.hardness().argsort(descending=True)[:20])
    print(f"{scores.title}: {len(planted & set(worst))} of the 20 wrong labels are among its first 20")

# Examples that no epoch drew have no value, and stay in the training set where that is said.
print(f"never drawn: {list(table['aum'].unscored)[:10]}")
decision = assay.choose(table["aum"], policy="remove_worst", count=20, unscored="keep")
print(f"{len(decision.kept_ids)} of {len(labels)} examples are kept")
