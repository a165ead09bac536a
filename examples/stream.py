"""An IterableDataset, whose examples have no positions: each batch holds the ids of its examples."""

import random
import sys
import tempfile

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import assay

X, y = load_digits(return_X_y=True)
inputs, labels = torch.tensor(X[:600] / 16, dtype=torch.float32), torch.tensor(y[:600])
wrong = torch.arange(0, 600, 12)
labels[wrong] = (labels[wrong] + 3) % 10
names = [f"digit-{number:03}" for number in range(600)]


class Stream(IterableDataset):
    """Reads its records in their order and shuffles them in a buffer, as readers of shards and of queues do."""

    def __iter__(self):
        buffer = []
        for name, x, label in zip(names, inputs, labels, strict=True):
            buffer.append({"id": name, "image": x, "label": label})
            if len(buffer) > 200:
                yield buffer.pop(random.randrange(len(buffer)))
        random.shuffle(buffer)
        yield from buffer


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
# All ids, and where a batch has its own. Where epochs leave examples out, also visits="any" and labels=.
data = assay.DataSpec(ids=names, id_field="id")
folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/run"
kept = assay.Recording(checkpoints="every")
with assay.record(folder, model, optimizer, DataLoader(Stream(), batch_size=50), kept, data=data, seed=0) as recorder:
    for _ in range(8):
        for batch in recorder.epoch():
            logits = model(batch["image"])
            optimizer.zero_grad()
            F.cross_entropy(logits, batch["label"]).backward()
            optimizer.step()
            recorder.batch(logits, batch["label"])

# Kept models are looked at over the same examples by position. Methods that take steps again need a map-style dataset from the start.
loop = assay.Loop(model, optimizer, DataLoader(TensorDataset(inputs, labels), batch_size=50), ids=names)
planted = {names[number] for number in wrong.tolist()}
for scores in assay.score(folder, ["aum", "forgetting", "grand"], loop=loop).values():
    worst = scores.ids.take(scores.hardness().argsort(descending=True)[:50])
    print(f"{scores.title}: {len(planted & set(worst))} of the 50 wrong labels are among its first 50, such as {worst[0]}")
