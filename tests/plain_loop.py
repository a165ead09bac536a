"""The plain loop of users, for tests that are not about the loop itself."""

import torch.nn.functional as F


def epoch(recorder, model, optimizer):
    """One recorded epoch over pairs of inputs and labels, by the cross-entropy."""
    for x, y in recorder.epoch():
        logits = model(x)
        optimizer.zero_grad()
        F.cross_entropy(logits, y).backward()
        optimizer.step()
        recorder.batch(logits, y)
