r"""A damping found without any training, from how a target's gradient lies in the eigenvectors of the curvature.

The system $(G + \delta I)\, v = g$ splits the gradient into $G v + \delta v$: what the curvature carries, and what the damping does. Of $|g|^2$ the damping's part is

$$ \xi(\delta) = \frac{\delta\, \langle v, g \rangle}{\langle g, g \rangle} = \frac{\sum_k g_k^2\, \delta / (e_k + \delta)}{\sum_k g_k^2} $$

with the curvature $e_k$ along each eigenvector and the gradient's part $g_k$. It rises from 0 to 1. Directions without curvature do not count,
because no example's gradient has a part in them. The damping is taken at which the part is `CARRIED`: after the idea of https://arxiv.org/abs/2505.24261, which chooses the damping by an
indicator of the trained model alone; the indicator and its value are ours (docs/results.md, "Damping").
"""

from torch import Tensor

CARRIED = 0.2
"""Chosen on three small nets by how well the values then predict retraining; on two of them LDS is within 5 % of the best of five dampings."""
HALVINGS = 100
"""Steps of the bisection."""
NONE = 1e-10
"""Curvature, as a part of the largest, that is none but for rounding."""


def carried(values: Tensor, squares: Tensor, damping: float) -> float:
    """The part xi of the gradient that the damping carries, 0 to 1.

    Args:
        values: Curvature along each eigenvector; those at which it is `NONE` or below 0 do not count.
        squares: Square of the gradient's part along each.
        damping: Above 0.

    Returns:
        Rises with the damping; NaN where the gradient has no part along a curvature.
    """
    there = values > NONE * float(values.max())
    return float((squares[there] * damping / (values[there] + damping)).sum() / squares[there].sum())


def balanced_damping(values: Tensor, squares: Tensor, part: float = CARRIED) -> float:
    """The damping that carries a part of the gradient, by bisection of its logarithm.

    Args:
        values: Curvature along each eigenvector.
        squares: Square of the gradient's part along each.
        part: Between 0 and 1.

    Returns:
        A damping above 0, between 1e-15 and 1e6 times the largest curvature.

    Raises:
        ValueError: There is no curvature above 0 along the gradient.
    """
    largest = float(values.max())
    low, high = 1e-15 * largest, 1e6 * largest
    if not largest > 0 or not carried(values, squares, low) < part:
        raise ValueError("the gradient lies where there is no curvature, so that nothing tells a damping; give a number")
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if carried(values, squares, middle) < part else (low, middle)
    return high
