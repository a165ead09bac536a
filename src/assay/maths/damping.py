r"""A damping found without any training, from how a target's gradient lies in the eigenvectors of the curvature.

Along an eigenvector of curvature $e_k$ leaving examples out moves the parameters by about $\sqrt{e_k / n}$ noise, and the target by $g_k / (e_k + \delta)$ for each unit of gradient,
so the predicted changes of the target have the variance $\sum_k e_k w_k^2$ with $w_k = g_k / (e_k + \delta)$. Of it the part

$$ \xi(\delta) = \frac{\sum_k e_k w_k^2 \, \delta / (e_k + \delta)}{\sum_k e_k w_k^2} $$

lies where the damping dominates. It goes from 0 to 1, but not always upwards: the largest damping is taken at which it is one half. After the idea of
https://arxiv.org/abs/2505.24261, which chooses the damping by an indicator of the trained model alone; its formula is not ours.
"""

from torch import Tensor

HALVINGS = 60
"""Steps of the bisection."""
PLACES = 200
"""Dampings among which the last one is looked for below which the part is smaller."""


def dominated(values: Tensor, squares: Tensor, damping: float) -> float:
    """The part xi of the predicted changes' variance that lies where the damping dominates, 0 to 1.

    Args:
        values: Curvature along each eigenvector; what is below 0 counts as 0.
        squares: Square of the gradient's part along each.
        damping: Above 0.

    Returns:
        Near 0 for a damping far below all curvatures, near 1 for one far above.
    """
    values = values.clamp(min=0)
    variance = values * squares / (values + damping).square()
    return float((variance * damping / (values + damping)).sum() / variance.sum())


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
    if not largest > 0 or not float((values.clamp(min=0) * squares).sum()) > 0:
        raise ValueError("the gradient lies where there is no curvature, so that nothing tells a damping; give a number")
    places = [largest * 10 ** (6 - 21 * place / PLACES) for place in range(PLACES + 1)]
    at = next((place for place in range(1, PLACES + 1) if dominated(values, squares, places[place]) < part), PLACES)
    high, low = places[at - 1], places[at]
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if dominated(values, squares, middle) < part else (low, middle)
    return high
