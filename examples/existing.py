"""What is there already: saved probabilities of a forest, and the saved models of a training that nobody recorded.

python examples/existing.py
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_predict
from torch.utils.data import DataLoader, TensorDataset

import assay

X, y = load_breast_cancer(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)
wrong = np.random.default_rng(0).random(len(y)) < 0.1
y = np.where(wrong, 1 - y, y)


def found(title, scores):
    """How many of the rows that a score suspects most are wrong."""
    suspects = np.argsort(-scores.hardness().numpy())[: wrong.sum()]
    print(f"{title}: {wrong[suspects].sum()} of {wrong.sum()} wrong rows are among the {len(suspects)} most suspect")


# Probabilities of any model make a run; `kind` says what they are, and every score says it again.
forest = RandomForestClassifier(150, min_samples_leaf=5, random_state=0)
probs = cross_val_predict(forest, X, y, cv=5, method="predict_proba")
run = assay.from_probs("runs/forest", probs, y, "out_of_fold", about={"net": "random forest, 5 folds"})
found("out of fold", assay.score(run, "confidence")["confidence"])

# A training whose author kept the state after every epoch, and nothing else.
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(30, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
train_set = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(y))
states = []
for _ in range(8):
    for inputs, labels in DataLoader(train_set, 32, shuffle=True):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    states.append(copy.deepcopy(model.state_dict()))

# Every state counts as an epoch; `states` may also be a folder of checkpoints of Hugging Face's Trainer, of Lightning, or of any files.
run = assay.from_checkpoints("runs/states", model, train_set, states, rates=[0.1] * 8)
loop = assay.Loop(model, optimizer, DataLoader(train_set, 32))
table = assay.score(run, ["aum", "tracin:target=self", "grand:at=0"], loop=loop)
for title, scores in table.items():
    found(title, scores)
