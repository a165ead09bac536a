"""Windows of consecutive epochs: all at once, or one epoch at a time in a ring that holds the last few."""

import torch
from jaxtyping import Float
from torch import Tensor


def window_moments(
    values: Float[Tensor, "epochs examples"], window: int
) -> tuple[Float[Tensor, "windows examples"], Float[Tensor, "windows examples"]]:
    """Mean and standard deviation (ddof 1) of each window of `window` consecutive epochs, stride 1, oldest first."""
    windows = values.unfold(0, window, 1)
    return windows.mean(-1), windows.std(-1, correction=1)


def start_ring(window: int, examples: int) -> dict[str, Tensor]:
    """A ring for the last `window` values of each example; empty."""
    return {"ring": torch.zeros(window, examples, dtype=torch.float64), "seen": torch.zeros((), dtype=torch.int64)}


def push(ring: dict[str, Tensor], values: Float[Tensor, " examples"]) -> bool:
    """Overwrite the oldest values with the newest; returns whether the ring now holds a full window."""
    window = len(ring["ring"])
    ring["ring"][int(ring["seen"]) % window] = values
    ring["seen"] += 1
    return int(ring["seen"]) >= window


def ring_moments(ring: dict[str, Tensor]) -> tuple[Float[Tensor, " examples"], Float[Tensor, " examples"]]:
    """Mean and standard deviation (ddof 1) over a full ring."""
    held = ring["ring"]
    mean = held.mean(0)
    return mean, (squared_gaps(held, mean) / (len(held) - 1)).sqrt_()


def squared_gaps(held: Float[Tensor, "window examples"], mean: Float[Tensor, " examples"]) -> Float[Tensor, " examples"]:
    """Sum over the window of the squared distance from `mean`."""
    # Row by row: a second ring to hold all the gaps costs more than the sums.
    total, gap = torch.zeros_like(mean), torch.empty_like(mean)
    for row in held:
        torch.sub(row, mean, out=gap)
        total.addcmul_(gap, gap)
    return total
