"""Random projections to K numbers; the entries +-1/sqrt(K) of the matrix R come from a counter, tile by tile, never all in memory.

<R'x, R'y> has the mean <x, y> and the variance (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_i^2 y_i^2) / K.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from . import draws
from .layer_pairs import LayerPair

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
    return project_chunks([values], dims, seed, tile_bytes)[0]


def project_chunks(
    chunks: Sequence[Mapping[str, Float[Tensor, "_ ..."]]], dims: int, seed: int = 0, tile_bytes: int = TILE_BYTES
) -> list[Float[Tensor, "_ dims"]]:
    """`project` of several chunks of rows with the same names, for which each tile of R is made once.

    Args:
        chunks: As `project` takes the rows, several times.
        dims: K, numbers of a projected row.
        seed: Seed of the projection.
        tile_bytes: Memory that a tile of R may take.

    Returns:
        The projected rows of each chunk.

    Raises:
        ValueError: There are no parts.
    """
    if not chunks or not chunks[0]:
        raise ValueError("There is nothing to project.")
    totals: list[Tensor] = []
    for name in chunks[0]:
        parts = [chunk[name].reshape(len(chunk[name]), -1) for chunk in chunks]
        parts = [part if part.dtype == torch.float64 else part.to(torch.float32) for part in parts]
        first = parts[0]
        totals = totals or [part.new_zeros(len(part), dims) for part in parts]
        step = max(1, tile_bytes // (dims * first.element_size()))
        for start in range(0, first.shape[1], step):
            stop = min(start + step, first.shape[1])
            tile = rademacher(seed, name, range(start, stop), dims, first.dtype).to(first.device)
            for total, part in zip(totals, parts, strict=True):
                total.addmm_(part[:, start:stop], tile)
    return totals


def axis_matrix(seed: int, name: str, size: int, side: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "size side"]:
    """The matrix by which one axis of a layer's gradient is projected; an axis that has no more than `side` numbers stays as it is.

    Args:
        seed: Seed of the projection.
        name: Name of the layer's first parameter and of the axis; different names have independent matrices.
        size: Length of the axis.
        side: The most numbers that it may have afterwards.
        dtype: Type of the result.

    Returns:
        `rademacher` for all rows, or the unit matrix.
    """
    return torch.eye(size, dtype=dtype) if size <= side else rademacher(seed, name, range(size), side, dtype)


def project_pairs(pair: LayerPair, side: int, seed: int = 0) -> Float[Tensor, "examples dims"]:
    r"""Each example's gradient of one layer, projected on both sides without ever being made.

    $$ P_{out}^\top \Big(\sum_p g_p a_p^\top\Big) P_{in} = \sum_p (P_{out}^\top g_p)(P_{in}^\top a_p)^\top $$

    with a third matrix over the groups of a layer, such as the channels of a normalisation. Inner products are kept on average.
    Choe et al. 2024, section 3, https://arxiv.org/abs/2405.13954; their matrices may be learned, these are random signs.

    Args:
        pair: Inputs and output gradients of some examples.
        side: The most numbers that an axis (groups, outputs, inputs with the 1 of the bias) has afterwards.
        seed: Seed of the projection.

    Returns:
        At most side^3 numbers for each example, side^2 where a layer has one group; in float32 at least.
    """
    matrix, gradients = pair.matrix, pair.gradients
    gradients = gradients if gradients.dtype == torch.float64 else gradients.to(torch.float32)

    def axis(what: str, size: int) -> Tensor:
        return axis_matrix(seed, f"{matrix.names[0]} {what}", size, side, gradients.dtype).to(gradients.device)

    across = axis("inputs", matrix.columns)
    inputs = across[pair.inputs] if matrix.indexed else pair.inputs.to(gradients.dtype) @ across
    blocks = (gradients @ axis("outputs", matrix.outputs)).mT @ inputs
    return torch.einsum("egoi,gk->ekoi", blocks, axis("groups", matrix.groups)).flatten(1)
