r"""A damping found without any training, from how a target's gradient lies in the eigenvectors of the curvature.

With the curvature $e_k$ along each eigenvector and the gradient's part $g_k$, the influence of the target on itself is $f(\delta) = \sum_k g_k^2 / (e_k + \delta)$. The part

$$ \xi(\delta) = -\frac{\mathrm{d} \log f}{\mathrm{d} \log \delta} = \frac{\sum_k \frac{g_k^2}{e_k + \delta} \frac{\delta}{e_k + \delta}}{\sum_k \frac{g_k^2}{e_k + \delta}} $$

of it comes from directions in which the damping, and not the curvature, decides: near 1 where the damping is far above every curvature, so that values are only scaled by it, and near 0
where it is far below. The largest damping is taken at which it is one half. Directions without curvature do not count, because no example's gradient has a part in them. After the idea of https://arxiv.org/abs/2505.24261, which chooses the damping by an indicator of the trained model alone; the formula is ours.
"""

from torch import Tensor

HALVINGS = 60
"""Steps of the bisection."""
NONE = 1e-10
"""Curvature, as a part of the largest, that is none but for rounding."""
PLACES = 200
"""Dampings among which the last one is looked for below which the part is smaller."""


def dominated(values: Tensor, squares: Tensor, damping: float) -> float:
    """The part xi of the target's influence on itself that lies where the damping dominates, 0 to 1.

    Args:
        values: Curvature along each eigenvector; those at which it is `NONE` or below 0 do not count.
        squares: Square of the gradient's part along each.
        damping: Above 0.

    Returns:
        Near 0 for a damping far below all curvatures, near 1 for one far above; NaN where the gradient has no part along a curvature.
    """
    there = values > NONE * float(values.max())
    own = squares[there] / (values[there] + damping)
    return float((own * damping / (values[there] + damping)).sum() / own.sum())


def balanced_damping(values: Tensor, squares: Tensor, part: float = 0.5) -> float:
    """The largest damping at which `dominated` is `part`, by bisection of its logarithm.

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
    places = [largest * 10 ** (6 - 21 * place / PLACES) for place in range(PLACES + 1)] if largest > 0 else []
    at = next((place for place, one in enumerate(places) if dominated(values, squares, one) < part), 0)
    if not at:
        raise ValueError("the gradient lies where there is no curvature, so that nothing tells a damping; give a number")
    high, low = places[at - 1], places[at]
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if dominated(values, squares, middle) < part else (low, middle)
    return high
