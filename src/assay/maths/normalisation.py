"""Mean and standard deviation of a training part, per channel or column."""

import torch
from torch import Tensor

PART = 2**26
"""Bytes of inputs that are counted at a time."""


def statistics(inputs: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What `Examples.mean` and `Examples.std` hold: mean and population standard deviation over all but axis 1.

    Args:
        inputs: uint8 (taken as 0..1) or float; axis 1 is the channel or the column.

    Returns:
        Mean, and standard deviation with 1 where a channel is constant. Computed in float64; exact sums for uint8.
    """
    if inputs.dtype == torch.uint8:
        return _of_bytes(inputs)
    means, stds = [], []
    for channel in range(inputs.shape[1]):
        values = inputs[:, channel].reshape(-1)
        mean = values.to(torch.float64).mean()
        var = ((values.to(torch.float64) - mean) ** 2).mean()
        means.append(float(mean))
        stds.append(1.0 if bool((values == values[0]).all()) else float(var.sqrt()))
    return tuple(means), tuple(stds)


def _of_bytes(inputs: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    # Counts of the 256 values, in parts: no float copy of all pixels is ever held, nor all pixels of what is on disk.
    counts = torch.zeros(inputs.shape[1], 256, dtype=torch.int64)
    for part in inputs.split(max(1, PART // max(1, inputs.shape[1:].numel()))):
        for channel, values in enumerate(part.transpose(0, 1).flatten(1)):
            counts[channel] += torch.bincount(values, minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for held in counts:
        times = held.to(torch.float64)
        mean = (times @ levels) / times.sum()
        var = (times @ (levels - mean) ** 2) / times.sum()
        means.append(float(mean))
        stds.append(1.0 if int((held > 0).sum()) == 1 else float(var.sqrt()))
    return tuple(means), tuple(stds)
