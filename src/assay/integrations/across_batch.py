"""Whether what a clean pass records of an example is its own, whatever examples stand beside it in the batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.ids import Ids
from ..training.batches import mapped, rows, size_of, without_rows

CLOSE = 1e-4
"""How far a number may move with the examples beside it, times 1 + its size. Kernels of one size on the CPU round alike whatever stands there."""
CLOSE_ELSEWHERE = 1e-2
"""The same where kernels may add up in any order, or of numbers of 16 bits."""


def beside_others(batch: Any, size: int) -> Any:
    """A batch whose first half is kept, with its first example in every other place; None of a single example, or where a part has not a row for each.

    Of the same size, so that nothing is compiled anew, and the same kernels round alike.
    """
    try:
        if size < 2 or size_of(batch) != size or without_rows(batch):
            return None
        index = torch.arange(size)
        index[size // 2 :] = 0
        return rows(batch, index)
    except Exception:
        # Whatever a user's batch may be; nothing is told of it.
        return None


def copied(batch: Any) -> Any:
    """A batch whose tensors are its own."""
    return mapped(lambda part: part.clone() if isinstance(part, Tensor) else part, batch)


def doubt_of(values: Tensor, again: Callable[[Any], Tensor], batch: Any, others: Any, ids: Ids, positions: Tensor) -> str:
    """What shows that the values of examples are not their own; empty where nothing does, and where that cannot be seen.

    Args:
        values: What the model gave of the batch, a row or a number for each example.
        again: Gives it of a batch, from the same random and other state each time.
        batch: The batch.
        others: What `beside_others` makes of it.
        ids: Ids of all examples.
        positions: Positions of the batch's examples.
    """
    half = len(positions) // 2
    try:
        beside = again(others)
        if _moved(values, beside, half) is None:
            return ""
        # The model may draw at random, or count its calls.
        values = again(batch)
        at = _moved(values, beside, half)
    except Exception:
        # A model may be made for what the loader gives only.
        return ""
    if at is None:
        return ""
    before, after = (float(rows[at[0]].flatten()[at[1]]) for rows in (values, beside))
    return (
        f"the model looks across the batch also in eval mode: a value of id {ids.values[int(positions[at[0]])]} is {before:.6g} in a batch of {len(positions)} "
        f"examples and {after:.6g} beside others, so that what the clean pass records of an example depends on those beside it; give a model that looks at each "
        "example alone in eval mode, as BatchNorm does by its running statistics."
    )


def _moved(one: Tensor, other: Tensor, half: int) -> tuple[int, int] | None:
    """Row and place of the number of the first half that moved most; None if none did."""
    exact = all(part.device.type == "cpu" and part.dtype not in (torch.float16, torch.bfloat16) for part in (one, other))
    first, second = (part[:half].detach().to("cpu", torch.float64).reshape(half, -1) for part in (one, other))
    apart = (first - second).abs() / (1 + first.abs())
    # What is infinite on both sides is refused elsewhere.
    apart = torch.where(first.isfinite() | second.isfinite(), apart.nan_to_num(torch.inf), 0)
    if float(apart.max()) <= (CLOSE if exact else CLOSE_ELSEWHERE):
        return None
    place = int(apart.argmax())
    return place // apart.shape[1], place % apart.shape[1]
