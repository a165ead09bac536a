r"""Theory of a perceptron trained on a pruned set of a teacher's examples: how pruning changes the power law of the test error.

Inputs x are N(0, I) in N dimensions, labels sign(T.x) with the teacher T. A probe J, at an angle to T, keeps the fraction f of the examples
with the smallest (hard) or the largest (easy) field |J.x|, alpha N of them; the student is the separator of largest margin kappa. All three
are unit vectors: J = e1, T = cos(angle) e1 + sin(angle) e2, and the student a e1 + b e2 + c u with u orthogonal to both and
c^2 = 1 - a^2 - b^2. Let z = x.e1 be the field of a kept example, w = x.e2 ~ N(0, 1), y = sign(z cos(angle) + w sin(angle)) its label, E the mean
over these, and Phi and phi the distribution function and the density of N(0, 1). Then

$$ \alpha\, E[q(h)] = 1, \quad h = \frac{\kappa - y (a z + b w)}{c}, \quad q(h) = (1 + h^2) \Phi(h) + h \varphi(h) $$

gives kappa(a, b), which the student maximises; R = a cos(angle) + b sin(angle), and its error is arccos(R) / pi.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from scipy.optimize import brentq, minimize, root
from scipy.special import ndtr, ndtri

MOST, LEAST = 10_000, 1e-6
"""Most kept examples per dimension, and smallest fraction kept, for which the integrals are exact."""
FAR = 9.0
"""No field is taken to be larger: the probability beyond is 1e-19."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@dataclasses.dataclass(frozen=True)
class Learnt:
    """The result of a student's training.

    Attributes:
        error: Probability that student and teacher disagree on a new input, in 0..1/2.
        overlap: R, the cosine of the angle between student and teacher.
        margin: kappa, the smallest distance of a kept example from the student's boundary, in units of a field.
    """

    error: float
    overlap: float
    margin: float


def learnt(
    alpha: float | int, fraction: float | int = 1, keep: Literal["hard", "easy"] = "hard", angle: float | int = 0
) -> Learnt:
    """The student of largest margin, in the limit of infinitely many dimensions N.

    Args:
        alpha: Kept examples per input dimension, above 0 and at most 10,000.
        fraction: Which part of all examples is kept, from 1e-6 to 1; before pruning there were alpha / fraction examples per dimension.
        keep: Those with the smallest (`hard`) or largest (`easy`) field of the probe.
        angle: Between probe and teacher, in radians, from 0 to below pi / 2.

    Returns:
        Its test error, its overlap with the teacher and its margin.

    Raises:
        ValueError: A setting is outside its range.

    Source: the setting is that of Sorscher et al. 2022; the equations are derived anew (the paper's own saddle-point equations were not
    available), and hold for keeping by |field of the probe|.
    """
    if not 0 < alpha <= MOST:
        raise ValueError(f"alpha={alpha} is not above 0 and at most {MOST:,}.")
    if not LEAST <= fraction <= 1:
        raise ValueError(f"fraction={fraction} is outside {LEAST}..1.")
    if keep not in ("hard", "easy"):
        raise ValueError(f"keep={keep!r} is neither hard nor easy.")
    if not 0 <= angle < math.pi / 2:
        raise ValueError(f"angle={angle} is outside 0..pi/2.")
    if fraction == 1:
        # All are kept, whatever the probe.
        angle = 0.0
    if angle == 0:
        return _aligned(alpha, *_fields(fraction, keep, 8))
    # A coarse look finds the student nearly, the fine one from there on exactly.
    near = _started(alpha, _Tilted(fraction, keep, angle, 1), angle)
    return _tilted(alpha, _Tilted(fraction, keep, angle, 8), near)


def _fields(fraction: float | int, keep: str, pieces: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the probe's field and their weights, which add up to 1."""
    low, high = (0.0, float(ndtri((1 + fraction) / 2))) if keep == "hard" else (float(ndtri(1 - fraction / 2)), FAR)
    z, weight = _quadrature(low, min(high, FAR), pieces)
    weight = weight * np.exp(-(z**2) / 2)
    return z, weight / weight.sum()


def _quadrature(low: float, high: float, pieces: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre on pieces of an interval."""
    edges = np.linspace(low, high, pieces + 1)
    half = np.diff(edges) / 2
    nodes = (edges[:-1] + half)[:, None] + half[:, None] * _NODES
    return nodes.ravel(), (half[:, None] * _WEIGHTS).ravel()


def _density(h: np.ndarray) -> np.ndarray:
    return np.exp(-(h**2) / 2) / math.sqrt(2 * math.pi)


def _load(h: np.ndarray) -> np.ndarray:
    """q(h)."""
    return (1 + h**2) * ndtr(h) + h * _density(h)


def _slope(h: np.ndarray) -> np.ndarray:
    """q'(h) / 2."""
    return h * ndtr(h) + _density(h)


def _margin(alpha: float | int, fields: np.ndarray, weight: np.ndarray, c: float) -> float:
    """kappa, given y (a z + b w) of each node and c."""

    def excess(kappa: float) -> float:
        return alpha * float(_load((kappa - fields) / c) @ weight) - 1

    # E q grows with kappa from 0 without bound.
    low = high = 0.0
    while excess(high) < 0:
        high = 2 * high + 1
    while excess(low) > 0:
        low = 2 * low - 1
    return float(brentq(excess, low, high, xtol=1e-14, rtol=1e-14))


def _aligned(alpha: float | int, z: np.ndarray, weight: np.ndarray) -> Learnt:
    def stationary(part: float) -> float:
        # By the logarithm of c^2, so that overlaps near 1 are told apart.
        c2 = math.exp(part)
        a, c = math.sqrt(1 - c2), math.sqrt(c2)
        h = (_margin(alpha, a * z, weight, c) - a * z) / c
        return float((_slope(h) * (a * h / c - z)) @ weight)

    part = brentq(stationary, -30.0, -1e-12, xtol=1e-14, rtol=1e-14)
    c2 = math.exp(part)
    a = math.sqrt(1 - c2)
    return Learnt(math.asin(math.sqrt(c2)) / math.pi, a, _margin(alpha, a * z, weight, math.sqrt(c2)))


class _Tilted:
    """Fields of probe and second direction, labels and weights, for a probe at an angle."""

    def __init__(self, fraction: float | int, keep: str, angle: float | int, pieces: int):
        self.cos, self.sin = math.cos(angle), math.sin(angle)
        # For each z > 0 the label changes where w passes -z cot; by symmetry z < 0 is the same with w turned.
        nodes, parts = [], []
        for one, share in zip(*_fields(fraction, keep, pieces), strict=True):
            edge = max(-FAR, min(FAR, -one * self.cos / self.sin))
            for low, high, y in ((-FAR, edge, -1.0), (edge, FAR, 1.0)):
                if high - low > 1e-12:
                    w, inner = _quadrature(low, high, min(pieces, 3))
                    nodes.append(np.stack([np.full_like(w, one), w, np.full_like(w, y)]))
                    parts.append(share * inner * _density(w))
        z, w, y = np.concatenate(nodes, 1)
        shares = np.concatenate(parts)
        self.along, self.across, self.shares = y * z, y * w, shares / shares.sum()

    def margin(self, alpha: float | int, a: float, b: float, c: float) -> float:
        """kappa of a student."""
        return _margin(alpha, a * self.along + b * self.across, self.shares, c)

    def gradient(self, alpha: float | int, a: float, b: float, c: float) -> np.ndarray:
        """Of kappa by a and b, up to a factor above 0."""
        inner = a * self.along + b * self.across
        h = (_margin(alpha, inner, self.shares, c) - inner) / c
        slope = _slope(h) * self.shares
        return np.array([slope @ (self.along - h * a / c), slope @ (self.across - h * b / c)]) / slope.sum()


def _student(place: np.ndarray) -> tuple[float, float, float]:
    """a, b and c of a size and a direction: the size through tanh, so that c stays above 0, and the angle in the plane."""
    size = math.tanh(place[0])
    return size * math.cos(place[1]), size * math.sin(place[1]), math.sqrt(1 - size**2)


def _started(alpha: float | int, fields: _Tilted, angle: float | int) -> np.ndarray:
    """About where the student of largest margin is."""
    found = minimize(
        lambda place: -fields.margin(alpha, *_student(place)),
        np.array([1.0, angle / 2]),
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-9},
    )
    return found.x


def _tilted(alpha: float | int, fields: _Tilted, near: np.ndarray) -> Learnt:
    solved = root(lambda place: fields.gradient(alpha, *_student(place)), near, method="hybr", options={"xtol": 1e-12})
    a, b, c = _student(solved.x)
    overlap = a * fields.cos + b * fields.sin
    return Learnt(math.acos(max(-1.0, min(1.0, overlap))) / math.pi, overlap, fields.margin(alpha, a, b, c))
