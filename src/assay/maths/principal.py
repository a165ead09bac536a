"""The plane in which rows vary most."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


def principal_plane(rows: Float[Tensor, "examples dims"]) -> tuple[Float64[Tensor, "examples 2"], tuple[float, float]]:
    r"""The first two principal components of each row: its place in the plane in which all rows vary most.

    With $X$ the rows less their mean and $X = U S V^\top$, the columns of $U S$ that belong to the two largest singular values. The sign of each is such
    that the entry of $V$ with the largest size (the first of equal ones) is positive, so that it does not depend on the machine.

    Args:
        rows: At least two rows of at least two finite numbers.

    Returns:
        The components, and the part of the variance that each has, in [0, 1]; zeros where the rows do not vary.

    Raises:
        ValueError: Fewer rows or numbers, or one that is not finite.

    Source: Pearson 1901; Hotelling 1933. Departures: none.
    """
    from scipy.linalg import eigh

    if rows.ndim != 2 or min(rows.shape) < 2 or not bool(rows.isfinite().all()):
        raise ValueError(f"A plane needs at least two rows of two finite numbers, not shape {tuple(rows.shape)}.")
    centred = rows.numpy().astype(np.float64)
    centred -= centred.mean(0)
    # Without this, squares of small or large numbers would leave the range of a float.
    scale = float(np.abs(centred).max())
    if scale == 0:
        return torch.zeros(len(rows), 2, dtype=torch.float64), (0.0, 0.0)
    centred /= scale
    n, dims = centred.shape
    square = centred.T @ centred if dims <= n else centred @ centred.T
    last = len(square) - 1
    values, vectors = eigh(square, subset_by_index=[last - 1, last])
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
    total = float((centred**2).sum())
    points, directions = (centred @ vectors, vectors) if dims <= n else (vectors * np.sqrt(values), centred.T @ vectors)
    largest = directions[np.abs(directions).argmax(0), [0, 1]]
    made = torch.from_numpy(points * np.where(largest < 0, -1, 1) * scale)
    return made, (min(1.0, float(values[0] / total)), min(1.0, float(values[1] / total)))
