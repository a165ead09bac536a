"""Mean and standard deviation of a training part, per channel or column."""

import torch
from torch import Tensor


def statistics(inputs: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What `Examples.mean` and `Examples.std` hold: mean and population standard deviation over all but axis 1.

    Args:
        inputs: uint8 (taken as 0..1) or float; axis 1 is the channel or the column.

    Returns:
        Mean, and standard deviation with 1 where a channel is constant. Computed in float64; exact sums for uint8.
    """
    means, stds = [], []
    for channel in range(inputs.shape[1]):
        values = inputs[:, channel].reshape(-1)
        if values.dtype == torch.uint8:
            # Counts of the 256 values: no float copy of all pixels is ever held.
            counts = torch.bincount(values, minlength=256).to(torch.float64)
            levels = torch.arange(256, dtype=torch.float64) / 255
            mean = (counts @ levels) / counts.sum()
            var = (counts @ (levels - mean) ** 2) / counts.sum()
        else:
            mean = values.to(torch.float64).mean()
            var = ((values.to(torch.float64) - mean) ** 2).mean()
        constant = bool((values == values[0]).all())
        means.append(float(mean))
        stds.append(1.0 if constant else float(var.sqrt()))
    return tuple(means), tuple(stds)
