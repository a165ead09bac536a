"""The complexity gap as the paper writes it: the complexity of all examples less that of all but one, each solved anew."""

import math

import numpy as np


def kernel(inputs):
    """H of the rows, entry by entry."""
    rows = [np.asarray(row, dtype=np.float64).ravel() for row in inputs]
    rows = [row / math.sqrt(float(row @ row)) for row in rows]
    gram = np.empty((len(rows), len(rows)))
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            cosine = min(1.0, max(-1.0, float(one @ other)))
            gram[i, j] = 0.5 if i == j else cosine * (math.pi - math.acos(cosine)) / (2 * math.pi)
    return gram


def complexity(gram, signs):
    """y' H^-1 y."""
    return float(signs @ np.linalg.solve(gram, signs)) if len(signs) else 0.0


def gaps(inputs, signs, jitter=0.0):
    """What each example adds."""
    signs = np.asarray(signs, dtype=np.float64)
    gram = kernel(inputs) + jitter * np.eye(len(signs))
    whole = complexity(gram, signs)
    found = []
    for out in range(len(signs)):
        rest = [place for place in range(len(signs)) if place != out]
        found.append(whole - complexity(gram[np.ix_(rest, rest)], signs[rest]))
    return np.array(found)
