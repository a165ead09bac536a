"""Which labels are wrong: one callback in a skorch net."""

import sys

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

import assay

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/skorch"

draw = np.random.default_rng(0)
centres = 2 * draw.normal(size=(3, 10))
truth = draw.integers(3, size=400)
inputs = (centres[truth] + 2 * draw.normal(size=(400, 10))).astype(np.float32)
flipped = draw.random(400) < 0.1
labels = np.where(flipped, (truth + 1) % 3, truth)


class Net(nn.Module):
    """Gives probabilities, as a NeuralNetClassifier wants them; what is recorded are their logarithms."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3), nn.Softmax(dim=-1))

    def forward(self, x):
        return self.layers(x)


torch.manual_seed(0)
net = NeuralNetClassifier(
    Net,
    max_epochs=8,
    lr=0.1,
    batch_size=32,
    verbose=0,
    iterator_train__shuffle=True,
    callbacks=[assay.skorch.Recorder(FOLDER)],  # the one line
)
net.fit(inputs, labels)  # a fifth is held out for validation by skorch, and not recorded

table = assay.score(FOLDER, ["aum", "loss"])
suspects = assay.choose(table["aum"], policy="top_k", keep=0.9).dropped_ids
found = sum(bool(flipped[id]) for id in suspects)
wrong = sum(bool(flipped[id]) for id in table.ids)
print(f"{found} of the {len(suspects)} most suspect labels are wrong; {wrong} of {len(table.ids)} are in all.")
