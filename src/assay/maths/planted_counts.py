"""How many labels are wrong, by where labels that were made wrong on purpose rank among the others."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

PAIRS = ((0.25, 0.5), (0.375, 0.75), (0.45, 0.9))
"""Parts of the planted labels above two cuts, of which the second has twice as many."""
LEAST_AREA = 0.85
"""Area under the ROC curve, of wrong against right labels, from which on right ones thin out fast enough towards the top (normal ones 1.47 deviations apart)."""
FEWEST = 10
"""Planted labels below which nothing is counted."""
PERCENTILE = 0.99
"""Part of the threshold examples above AUM's threshold, from the most suspect on."""
_DRAWN = 4000
_RESAMPLED = 400


@dataclasses.dataclass(frozen=True)
class PlantedCount:
    """How many labels are wrong, by planted ones.

    Attributes:
        count: The estimate; 0 where only the upper end, or nothing, is told.
        low: Lower end of the interval; 0 where that is not told.
        high: Upper end; the number of examples where nothing is told.
        right: Part of right labels that is expected among the first `count` of the ranking, in 0..1.
        area: Chance that a wrong label ranks before a right one: that of the planted before the others, freed of the wrong ones among those.
        holds: What is told: the `count` with its interval; its `upper end` alone, because wrong labels rank before planted ones; nothing, because right labels stand
            among the first (`overlap`, an area below .85), because another count lies outside the interval (`contradicted`), or because none can (`unchecked`).
    """

    count: float
    low: float
    high: float
    right: float
    area: float
    holds: Literal["count", "upper end", "overlap", "contradicted", "unchecked"] = "count"

    @property
    def told(self) -> bool:
        """Whether the upper end, at least, is told."""
        return self.holds in ("count", "upper end")

    @property
    def seen(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low >= 0.5


def count_by_planted(
    suspicion: Float64[np.ndarray, " examples"],
    planted: Bool[np.ndarray, " examples"],
    seed: int,
    *,
    mended: float = 0.0,
    easier: bool = False,
    level: float = 0.95,
) -> PlantedCount:
    r"""How many labels are wrong, if wrong ones rank as planted ones do.

    Let k of m planted labels, and N of the others, rank at or above a cut. If W of the others are wrong and exchangeable with the planted ones, the number of them above the k-th planted
    is beta-binomial (W, k, m + 1 - k), and N is no less: the largest W that does not make N improbable is an upper end, whatever right labels do, and also where wrong ones rank
    before planted ones. Each cut gives one, and the least is taken, at the level that allows for all.

    Right labels above the cut make r = N (m + 1) / k larger than W. From a cut with half as many planted labels to the next, this excess is taken to double at least (a ROC curve
    that starts as that of normal distributions 1.47 deviations apart, area .85, or farther, does so), so that r_1 - (r_2 - r_1) / (k_2 / k_1 - 1), and r_2, are not below W by more
    than chance. The smaller is the estimate, at the pair of cuts with the least upper end. Its lower end is the least quantile, at that pair and deeper ones, over draws of the part of
    wrong labels above either cut (Dirichlet) and of the numbers there (gamma). Where r falls from one cut to the next by more than chance, wrong labels rank before planted ones, and
    only the upper end is told.

    A label that was wrong before may be planted too, and become right: of the W wrong ones among n the part `mended`, so that a part c = mended W / n of the planted is right. Such
    ones rank low, r is larger than W by 1 / (1 - c), and estimate and lower end are r / (1 + mended r / n).

    Args:
        suspicion: Larger is more suspect; ties are broken at random.
        planted: Which labels are planted, a random part of all.
        seed: Seed of the draws.
        mended: Chance that planting makes a wrong label right, in 0..1: 1 / (classes - 1) where any other class is as likely.
        easier: Whether planted labels are harder to find than wrong ones are, so that they give an upper end only.
        level: Wanted coverage, in (0, 1).

    Returns:
        The count with its interval, of all examples: what the others hold, times examples / others.

    Raises:
        ValueError: Fewer than 10 labels are planted or left, or a value is NaN.

    Source: Garg et al. 2021 (best bin estimation), Storey 2002 for the idea. Departures: the exact upper end by ranks, and the lower end, which is found by simulation.
    """
    m, n = int(planted.sum()), len(planted)
    rest = n - m
    if min(m, rest) < FEWEST or np.isnan(suspicion).any():
        raise ValueError(f"at least {FEWEST} planted labels and as many others, each with a number, are needed.")
    generator = np.random.default_rng(seed)
    ranked = planted[np.lexsort((generator.random(n), -suspicion))]
    places, tail, scale = ranked.nonzero()[0], (1 - level) / 2 / len(PAIRS), n / rest
    ends, points, lows, falls = [], [], [], []
    for parts in PAIRS:
        k1, k2 = (max(1, round(part * m)) for part in parts)
        n1, n2 = (int(places[k - 1]) - (k - 1) for k in (k1, k2))
        ends.append(min(_most(n1, k1, m, rest, tail / 2), _most(n2, k2, m, rest, tail / 2)))
        points.append(float(_without_excess(n1 * (m + 1) / k1, n2 * (m + 1) / k2, k2 / k1)))
        shares = generator.dirichlet([k1, k2 - k1, m + 1 - k2], _DRAWN)
        p1, p2 = shares[:, 0], shares[:, 0] + shares[:, 1]
        # A gamma of shape 0 is 0.
        drawn1, more = generator.gamma(max(n1, 1e-9), size=_DRAWN), generator.gamma(max(n2 - n1, 1e-9), size=_DRAWN)
        r1, r2 = drawn1 / p1, (drawn1 + more) / p2
        lows.append(float(np.quantile(_without_excess(r1, r2, p2 / p1), tail)))
        falls.append(float(np.quantile(r1 - r2, tail)))

    def scaled(value: float) -> float:
        value = max(0.0, value) * scale
        return value / (1 + mended * value / n)

    best = int(np.argmin(ends))
    high = min(float(n), ends[best] * scale)
    low = scaled(min(lows[best:]))
    count = min(max(low, scaled(points[best])), high)
    # A part of the planted is right, and of the others wrong: both draw the area towards one half.
    made_right = mended * count / n
    area = _area(np.sort(suspicion[planted]), np.sort(suspicion[~planted]))
    area = min(1.0, 0.5 + (area - 0.5) / max(1e-9, 1 - count / n - made_right))
    if easier or max(falls) > 0 or scaled(max(lows)) > high:
        return PlantedCount(0.0, 0.0, high, 0.0, area, "upper end")
    if area < LEAST_AREA:
        return PlantedCount(0.0, 0.0, float(n), 0.0, area, "overlap")
    cut = round(count / scale)
    found = float((places < np.flatnonzero(~ranked)[cut - 1]).mean()) / (1 - made_right) if cut else 1.0
    return PlantedCount(count, low, high, 1 - min(1.0, found), area)


@dataclasses.dataclass(frozen=True)
class Below:
    """How many examples are more suspect than nearly all planted ones.

    Attributes:
        threshold: Suspicion that 99 % of the planted have.
        total: How many of all examples, with the ends of an interval.
        by_group: Rows of the same, one per group.
    """

    threshold: float
    total: tuple[float, float, float]
    by_group: Float64[np.ndarray, "groups 3"]


def below_threshold(
    suspicion: Float64[np.ndarray, " examples"],
    planted: Bool[np.ndarray, " examples"],
    groups: Int[np.ndarray, " examples"],
    seed: int,
    level: float = 0.95,
) -> Below:
    """How many examples are at least as suspect as 99 % of the planted ones, overall and by group, scaled from those that were not planted to all.

    The interval is the range between quantiles over bootstrap samples of the planted and of the others.

    Args:
        suspicion: Larger is more suspect.
        planted: Which examples are planted, a random part of all.
        groups: Group of each, from 0.
        seed: Seed of the bootstrap.
        level: Wanted coverage, in (0, 1).

    Returns:
        The counts; of a group without others 0.

    Source: Pleiss et al. 2020, threshold samples; Efron 1979 (bootstrap). Departures: the interval.
    """
    generator = np.random.default_rng(seed)
    number = int(groups.max()) + 1
    sizes, others = np.bincount(groups, minlength=number), np.bincount(groups[~planted], minlength=number)
    scale = sizes / np.maximum(others, 1)
    values = [np.sort(suspicion[~planted & (groups == group)]) for group in range(number)]
    known = suspicion[planted]

    def counted(threshold) -> np.ndarray:
        return np.array([len(one) - np.searchsorted(one, threshold, side="left") for one in values])

    threshold = float(np.quantile(known, 1 - PERCENTILE))
    exact = counted(threshold) * scale
    drawn = np.quantile(generator.choice(known, (_RESAMPLED, len(known))), 1 - PERCENTILE, axis=1)
    parts = counted(drawn).T / np.maximum(others, 1)
    samples = generator.binomial(others, parts) * scale
    ends = [(1 - level) / 2, (1 + level) / 2]

    def around(value: float, found: np.ndarray) -> tuple[float, float, float]:
        low, high = np.quantile(found, ends)
        return float(value), float(min(value, low)), float(max(value, high))

    by_group = np.array([around(exact[group], samples[:, group]) for group in range(number)])
    return Below(threshold, around(exact.sum(), samples.sum(1)), by_group)


def _without_excess(r1, r2, ratio):
    """What r is without the part that grows from the first cut to the second."""
    return np.minimum(r2, r1 - (r2 - r1) / (ratio - 1))


def _most(found: int, k: int, m: int, rest: int, tail: float) -> int:
    """Largest number of wrong labels of which no more than `found` rank above the k-th of m planted ones with at least this chance."""
    from scipy.stats import betabinom

    low, high = found, rest
    while low < high:
        middle = (low + high + 1) // 2
        if betabinom.cdf(found, middle, k, m + 1 - k) >= tail:
            low = middle
        else:
            high = middle - 1
    return low


def _area(planted: np.ndarray, others: np.ndarray) -> float:
    """Chance that a planted label ranks before another one, ties counted half."""
    below = np.searchsorted(others, planted, side="left") + np.searchsorted(others, planted, side="right")
    return float(below.mean()) / 2 / len(others)
