"""The straightforward NumPy version of the dynamics methods: load every epoch, stack, compute. What our folds are held against."""

import pathlib

import numpy as np


def stacked_scores(folder: pathlib.Path, labels: np.ndarray, epochs: int, window: int = 10) -> dict[str, np.ndarray]:
    """All dynamics scores of a folder of `i_Output.npy` (sorted by example) by the textbook formulas on (epochs, examples, classes)."""
    logits = np.stack([np.load(folder / f"{epoch}_Output.npy") for epoch in range(epochs)]).astype(np.float64)
    examples = np.arange(len(labels))
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    probs = exps / exps.sum(-1, keepdims=True)
    target = probs[:, examples, labels]
    correct = logits.argmax(-1) == labels
    others = logits.copy()
    others[:, examples, labels] = -np.inf
    margins = logits[:, examples, labels] - others.max(-1)
    windows = np.lib.stride_tricks.sliding_window_view(target, window, axis=0)
    std = windows.std(-1, ddof=1)
    logs = np.log(probs + 1e-8)
    changes = np.abs(probs[1:] * (logs[1:] - logs[:-1])).sum(-1)
    inner = np.lib.stride_tricks.sliding_window_view(changes, window - 1, axis=0)
    spread = np.sqrt(((inner - inner.mean(-1, keepdims=True)) ** 2).sum(-1))
    age = np.arange(len(spread) - 1, -1, -1)
    events = (correct[:-1] & ~correct[1:]).sum(0)
    last = np.sort(probs[-1], axis=-1)
    onehot = np.eye(logits.shape[-1])[labels]
    with np.errstate(divide="ignore"):
        losses = -np.log(target)
    return {
        "dual": ((1 - windows.mean(-1)) * std).mean(0),
        "dyn_unc": std.mean(0),
        "tdds": (0.9 * 0.1**age) @ spread,
        "el2n": np.linalg.norm(probs[10] - onehot, axis=-1),
        "aum": margins.mean(0),
        "forgetting": np.where(correct.any(0), events, epochs).astype(np.float64),
        "entropy": -(probs[-1] * np.log(probs[-1])).sum(-1),
        "least_confidence": 1 - last[:, -1],
        "margin": last[:, -1] - last[:, -2],
        "loss": losses.mean(0),
        "confidence": target.mean(0),
        "variability": target.std(0),
        "correctness": correct.mean(0),
        "threshold_closeness": target.mean(0) * (1 - target.mean(0)),
    }
