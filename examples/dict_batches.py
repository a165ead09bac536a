"""Batches that are dicts, padded to the longest of each, of a model that returns an object: texts, as most libraries give them."""

import sys
import tempfile
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import assay


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 8), nn.Linear(8, 2)

    def forward(self, tokens, mask):
        words = self.embed(tokens) * mask[..., None]
        return SimpleNamespace(logits=self.head(words.sum(1) / mask.sum(1, keepdim=True)))


def text(label):
    return {"tokens": torch.randint(1, 20, (int(torch.randint(4, 12, ())),)) + 19 * label, "label": label}


def collate(items):
    tokens = nn.utils.rnn.pad_sequence([item["tokens"] for item in items], batch_first=True)
    return {"tokens": tokens, "mask": (tokens > 0).float(), "labels": torch.tensor([item["label"] for item in items])}


def forward(model, batch):
    return model(batch["tokens"], batch["mask"]).logits, batch["labels"]


torch.manual_seed(0)
texts, held_out = [text(number % 2) for number in range(200)], collate([text(number % 2) for number in range(50)])
for one in texts[:15]:
    one["label"] = 1 - one["label"]
model = Classifier()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
loader = DataLoader(texts, batch_size=25, shuffle=True, collate_fn=collate)
folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/run"
kept = assay.Recording(checkpoints="every", live=["liveval"])
with assay.record(folder, model, optimizer, loader, kept, data=assay.DataSpec(forward=forward), seed=0) as recorder:
    for batch in (batch for _ in range(6) for batch in recorder.epoch()):
        logits, labels = forward(model, batch)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        recorder.batch(logits, labels)
targets = {"validation": lambda model: F.cross_entropy(*forward(model, held_out))}
loop = assay.Loop(model, optimizer, loader, forward=forward)
for scores in assay.score(folder, ["aum", "liveval", "grand", "sgd_influence"], loop=loop, targets=targets).values():
    worst = scores.ids.take(scores.hardness().argsort(descending=True)[:15])
    print(f"{scores.title}: {sum(int(one) < 15 for one in worst)} of the 15 wrong labels are among its first 15")
