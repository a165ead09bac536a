"""Prototypes of rows by k-means, and the distance of each row from the nearest one."""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from .draws import uniform
from .neighbours import Metric

ROWS = 8192
"""Rows whose distances are taken at once."""


def unit(rows: Float[Tensor, "rows dims"]) -> Float64[Tensor, "rows dims"]:
    """Each row divided by its Euclidean length; a row of zeros stays as it is."""
    rows = rows.to(torch.float64)
    # By a power of 2, which rounds nothing, so that no square overflows or falls to 0.
    rows = rows * torch.exp2(-torch.frexp(rows.abs().amax(1, keepdim=True)).exponent.clamp(-1000, 1000).to(torch.float64))
    return rows / rows.norm(dim=1, keepdim=True).masked_fill(rows.norm(dim=1, keepdim=True) == 0, 1)


def prototype_distance(
    rows: Float[Tensor, "examples dims"], centers: Float[Tensor, "clusters dims"], metric: Metric = "cosine"
) -> tuple[Float64[Tensor, " examples"], Int[Tensor, " examples"]]:
    """Distance of each row from its nearest center: the Euclidean one, or 1 minus the cosine of the angle.

    Returns:
        Distances (0 or more; at most 2 by the cosine), and the number of the nearest center, the lowest of equally near ones.

    Raises:
        ValueError: A distance is not finite.
    """
    centers = unit(centers) if metric == "cosine" else centers.to(torch.float64)
    parts = []
    for part in rows.split(ROWS):
        if metric == "cosine":
            apart = (1 - unit(part) @ centers.T).clamp(min=0)
        else:
            apart = torch.cdist(part.to(torch.float64), centers, compute_mode="donot_use_mm_for_euclid_dist")
        parts.append(apart.min(1))
    if not all(bool(part.values.isfinite().all()) for part in parts):
        raise ValueError("Distances are not finite; rows must be finite, and not so large that their squares overflow.")
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def k_means(
    rows: Float[Tensor, "examples dims"], clusters: int, keys: np.ndarray, seed: int, metric: Metric = "cosine", rounds: int = 100
) -> tuple[Float64[Tensor, "clusters dims"], int]:
    """Centers of clusters by Lloyd's algorithm from a start by k-means++; by the cosine, rows and centers have length 1 (spherical k-means).

    A cluster that no row is nearest to keeps its center. Rows must stand in an order of their own, such as that of their ids, for the same centers whatever the
    order in which they came.

    Args:
        rows: One for each example.
        clusters: How many, in 1..examples.
        keys: uint64 of each example, for the draws.
        seed: Seed of the start.
        metric: The distance that is made small.
        rounds: How many rounds, at most.

    Returns:
        The centers, and the rounds that were taken; fewer than `rounds` if no row changed its cluster in the last one.

    Raises:
        ValueError: The number of clusters is outside its range, or a distance is not finite.
    """
    if not 1 <= clusters <= len(rows):
        raise ValueError(f"clusters={clusters} is outside 1..{len(rows)}, the number of examples.")
    rows = unit(rows) if metric == "cosine" else rows.to(torch.float64)
    taken = [int(uniform(keys, seed, "k-means", 0).argmax())]
    gaps, _ = prototype_distance(rows, rows[taken], metric)
    for number in range(1, clusters):
        # The example with the greatest sum of log weight and Gumbel noise is drawn with a probability in proportion to its weight.
        weights = gaps if metric == "cosine" else gaps.square()
        noise = -(-uniform(keys, seed, "k-means", number).log()).log()
        taken.append(int((weights.log() + noise).argmax()) if bool((weights > 0).any()) else int(noise.argmax()))
        gaps = torch.minimum(gaps, prototype_distance(rows, rows[taken[-1:]], metric)[0])
    centers, before = rows[taken].clone(), torch.full((len(rows),), -1)
    for done in range(rounds):
        _, nearest = prototype_distance(rows, centers, metric)
        if torch.equal(nearest, before):
            return centers, done
        sums = torch.zeros_like(centers).index_add_(0, nearest, rows)
        filled = torch.bincount(nearest, minlength=clusters)
        means = sums / filled.clamp(min=1)[:, None]
        means = unit(means) if metric == "cosine" else means
        centers = torch.where((filled > 0)[:, None], means, centers)
        before = nearest
    return centers, rounds
