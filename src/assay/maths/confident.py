"""Confident learning: how given and true labels are distributed together, from predicted probabilities and given labels alone."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

By = Literal["both", "class", "noise_rate", "off_diagonal"]
SLACK = 1e-12
"""What rounding of a mean may add to a threshold."""
RESAMPLED = 200
"""Bootstrap samples."""
LEAST_END = 3.0
"""Least upper end of a count: where none of many is found, up to three may be there (the rule of three)."""


def thresholds(probs: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]) -> Float64[Tensor, " classes"]:
    """Mean probability of each class over the examples with that label; infinite for a class that no label names.

    Returns:
        One per class: what a model gives a class that it is as confident of as it is on average.
    """
    classes = probs.shape[1]
    own = probs.to(torch.float64).gather(1, labels[:, None])[:, 0]
    counts = labels.bincount(minlength=classes)
    means = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, own) / counts.clamp(min=1)
    return means.where(counts > 0, torch.inf)


def confident_classes(
    probs: Float[Tensor, "examples classes"], bounds: Float64[Tensor, " classes"], labels: Int[Tensor, " examples"]
) -> Int[Tensor, " examples"]:
    """The most probable of the classes whose probability reaches their threshold, the label itself if it is one of them; -1 where none does.

    Returns:
        One class per example.
    """
    probs = probs.to(torch.float64)
    reached = (probs >= bounds - SLACK) & (probs > 0)
    there = probs.where(reached, -1.0)
    # Votes of a few trees or neighbours are often equal, and the order of the classes is no evidence against a label.
    of_label = there.gather(1, labels[:, None])[:, 0] == there.amax(1)
    return torch.where(of_label, labels, there.argmax(1)).where(reached.any(1), -1)


def confident_pairs(
    confident: Int[Tensor, " examples"], labels: Int[Tensor, " examples"], classes: int
) -> Float64[Tensor, "given true"]:
    """How many examples there are of each given label and each class that they confidently belong to.

    Returns:
        Rows of given labels and columns of true ones; examples that reach no threshold are in none.
    """
    there = confident >= 0
    return (labels[there] * classes + confident[there]).bincount(minlength=classes**2).view(classes, classes).to(torch.float64)


def confident_counts(
    confident: Int[Tensor, " examples"], labels: Int[Tensor, " examples"], classes: int
) -> Float64[Tensor, "given true"]:
    """As `confident_pairs`, scaled to the numbers of the labels.

    Each class has one example at least that is counted as right, so that no class vanishes.

    Returns:
        Rows of given labels and columns of true ones; a row adds up to the number of examples with that label.
    """
    pairs = confident_pairs(confident, labels, classes)
    pairs.diagonal().clamp_(min=1)
    return pairs / pairs.sum(1, keepdim=True) * labels.bincount(minlength=classes)[:, None]


def wrong_intervals(
    probs: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"], seed: int, level: float = 0.95
) -> tuple[Float64[Tensor, " 3"], Float64[Tensor, "given 3"]]:
    """How many labels the confident joint says are wrong, with an interval, overall and by given class.

    The interval is the range between quantiles of the count over bootstrap samples of the examples, each with its own thresholds, and its upper end is at least 3. It covers the draw
    of examples, given the probabilities, and not what is wrong with these: where classes overlap, right labels of unclear examples are counted, and the count is too
    large whatever the sample. Simulated (`tests/maths/test_confident.py`, slow) it covers the number of wrong labels in at least 95 % of cases where classes are 6 deviations
    apart, of calibrated, over- and underconfident models alike, and nearly never where they are 3 apart, or where the model errs as much as wrong labels are likely.

    Args:
        probs: Probabilities of each class by models that were not trained on the example.
        labels: Given classes.
        seed: Seed of the bootstrap.
        level: Wanted coverage, in (0, 1).

    Returns:
        Count, lower and upper end: of all, and a row of each class.

    Source: Efron 1979 (bootstrap). Departures: the least upper end.
    """
    probs, classes, n = probs.to(torch.float64), probs.shape[1], len(labels)

    def samples():
        """How often each example was drawn, sample by sample, the same ones again at every call."""
        generator = np.random.default_rng(seed)
        for _ in range(RESAMPLED):
            yield torch.from_numpy(np.bincount(generator.integers(n, size=n), minlength=n)).to(torch.float64)

    own = probs.gather(1, labels[:, None])[:, 0]
    sizes, sums = torch.zeros(2, RESAMPLED, classes, dtype=torch.float64)
    for at, weight in enumerate(samples()):
        sizes[at].index_add_(0, labels, weight)
        sums[at].index_add_(0, labels, weight * own)
    bounds = (sums / sizes.clamp(min=1)).where(sizes > 0, torch.inf)
    # Most examples are of the same class by every sample's thresholds.
    least = confident_classes(probs, bounds.amin(0), labels)
    fixed = least < 0
    fixed |= probs.gather(1, least.clamp(min=0)[:, None])[:, 0] >= bounds.amax(0)[least.clamp(min=0)] - SLACK
    open_ = (~fixed).nonzero().flatten()
    drawn = torch.empty(RESAMPLED, classes, dtype=torch.float64)
    confident = least.clone()
    for at, (weight, bound) in enumerate(zip(samples(), bounds, strict=True)):
        confident[open_] = confident_classes(probs[open_], bound, labels[open_])
        drawn[at] = _wrong(confident, labels, weight, sizes[at])
    exact = _wrong(
        confident_classes(probs, thresholds(probs, labels), labels),
        labels,
        torch.ones(n, dtype=torch.float64),
        labels.bincount(minlength=classes).to(torch.float64),
    )
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)

    def around(count: Tensor, found: Tensor, size: Tensor) -> Tensor:
        low, high = found.quantile(ends)
        return torch.stack([count, torch.minimum(count, low), torch.maximum(count, high).clamp(min=LEAST_END).minimum(size)])

    many = labels.bincount(minlength=classes).to(torch.float64)
    by_class = torch.stack([around(exact[at], drawn[:, at], many[at]) for at in range(classes)])
    return around(exact.sum(), drawn.sum(1), many.sum()), by_class


def _wrong(confident: Tensor, labels: Tensor, weights: Tensor, sizes: Tensor) -> Float64[Tensor, " given"]:
    """How many of the labels of each class are counted as wrong, scaled to their number: `confident_counts` outside the diagonal, with weights."""
    there = confident >= 0
    off = torch.zeros_like(sizes).index_add_(0, labels, weights * (there & (confident != labels)))
    right = torch.zeros_like(sizes).index_add_(0, labels, weights * (there & (confident == labels)))
    return off / (off + right.clamp(min=1)) * sizes


def rounded(counts: Float64[Tensor, "given true"]) -> Int[Tensor, "given true"]:
    """Whole numbers with the same sums of rows: those with the largest remainders are rounded up, the lower class first.

    Returns:
        Of the same shape.
    """
    whole = (counts + SLACK).floor()
    missing = (counts.sum(1) - whole.sum(1)).round().to(torch.int64)
    order = (whole - counts).argsort(dim=1, stable=True)
    up = torch.zeros_like(whole).scatter_(1, order, (torch.arange(counts.shape[1]) < missing[:, None]).to(whole.dtype))
    return (whole + up).to(torch.int64)


def find(
    probs: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
    ranks: Int[Tensor, " examples"],
    by: By = "both",
) -> Bool[Tensor, " examples"]:
    """Which labels are wrong, by the confident joint of given and true labels.

    No example whose most probable class is its label is among them.

    Args:
        probs: Probabilities of each class by models that were not trained on the example.
        labels: Given classes.
        ranks: What decides between equal examples: the smallest is named first.
        by: `class`: of each class as many as the joint says are wrong, those with the lowest probability of their label. `noise_rate`: of each pair of a given
            and another class as many as the joint says, those with the largest difference of the two probabilities. `both`: what both name.
            `off_diagonal`: those that are counted outside the diagonal.

    Returns:
        One per example.

    Source: Northcutt, Jiang and Chuang 2021, section 3.2.
    """
    probs, classes = probs.to(torch.float64), probs.shape[1]
    own = probs.gather(1, labels[:, None])[:, 0]
    confident = confident_classes(probs, thresholds(probs, labels), labels)
    likely = probs.amax(1) > own
    if by == "off_diagonal":
        return likely & (confident >= 0) & (confident != labels)
    counts = rounded(confident_counts(confident, labels, classes))
    by_class, by_rate = torch.zeros(2, len(labels), dtype=torch.bool)
    for given in range(classes):
        here = (labels == given).nonzero().flatten()
        # By the ranks first, so that a stable sort leaves equal ones in their order.
        here = here[ranks[here].argsort()]
        if not len(here):
            continue
        by_class[here[own[here].argsort(stable=True)[: len(here) - int(counts[given, given])]]] = True
        for other in range(classes):
            if other != given and int(counts[given, other]):
                margin = own[here] - probs[here, other]
                by_rate[here[margin.argsort(stable=True)[: int(counts[given, other])]]] = True
    return likely & {"class": by_class, "noise_rate": by_rate, "both": by_class & by_rate}[by]
