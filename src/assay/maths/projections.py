"""Random projections to K numbers; the entries +-1/sqrt(K) of the matrix R come from a counter, tile by tile, never all in memory.

<R'x, R'y> has the mean <x, y> and the variance (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_i^2 y_i^2) / K.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from . import draws

TILE_BYTES = 32 * 2**20
"""What a tile of the matrix may take."""


def rademacher(seed: int, name: str, rows: range, dims: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "rows dims"]:
    """Some rows of the matrix of one parameter: each entry +1/sqrt(dims) or -1/sqrt(dims), a pure function of (seed, name, row, column).

    Args:
        seed: Seed of the matrix.
        name: Name of the parameter; different names have independent matrices.
        rows: Which entries of the flattened parameter.
        dims: K, the columns.
        dtype: Type of the result.

    Returns:
        Rows in the order that was asked for.
    """
    keys = np.arange(rows.start, rows.stop, dtype=np.uint64)
    # A word of 64 bits is 64 columns, so a row's first columns do not depend on how many there are.
    words = np.stack([draws.words(keys, seed, f"projection {name}", column) for column in range(math.ceil(dims / 64))], 1)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, count=dims, bitorder="little")
    return torch.from_numpy(bits).to(dtype).mul_(2).sub_(1).mul_(1 / math.sqrt(dims))


def project(
    values: Mapping[str, Float[Tensor, "rows ..."]], dims: int, seed: int = 0, tile_bytes: int = TILE_BYTES
) -> Float[Tensor, "rows dims"]:
    """R'x of each row, which keeps inner products on average; on the device of the rows, in float32 at least.

    Args:
        values: The parts of the rows by name, each (rows, ...), of one type; the order of the names does not matter but to rounding.
        dims: K, numbers of a projected row.
        seed: Seed of the projection.
        tile_bytes: Memory that a tile of R may take.

    Returns:
        One row of `dims` numbers for each row of the parts.

    Raises:
        ValueError: There are no parts.
    """
    total: Tensor | None = None
    for name, part in values.items():
        flat = part.reshape(len(part), -1)
        flat = flat if flat.dtype == torch.float64 else flat.to(torch.float32)
        if total is None:
            total = torch.zeros(len(flat), dims, dtype=flat.dtype, device=flat.device)
        step = max(1, tile_bytes // (dims * flat.element_size()))
        for start in range(0, flat.shape[1], step):
            stop = min(start + step, flat.shape[1])
            tile = rademacher(seed, name, range(start, stop), dims, flat.dtype).to(flat.device)
            total.addmm_(flat[:, start:stop], tile)
    if total is None:
        raise ValueError("There is nothing to project.")
    return total
