"""Statistics of a few paired retrainings: an interval, a p, its correction for many claims, and how many seeds are needed."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Num
from scipy.special import betaincinv, stdtrit
from torch import Tensor

FEWEST = 3
"""Pairs below which nothing is called significant and no interval is given: two show one difference between their differences."""

_ROUNDING = 1e-12
"""Differences that agree to this part of the measured numbers differ by rounding only."""

Number = float | int
Row = Sequence[float] | Num[np.ndarray, " seeds"] | Num[Tensor, " seeds"]


def student_interval(row: Row, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean, (low, high): mean -+ t * deviation / sqrt(n), or None where it would mislead.

    None for fewer than three numbers, and for numbers that are all equal up to rounding: an interval of width 0 would say
    that the mean is known exactly. Simulated at level 0.95 for 3, 5, 10 and 20 numbers it covers the true mean in 94 to 97 % of cases for
    normal numbers, for differences of skewed accuracies (log-normal errors, of equal and of unequal spread), for counts out of
    50 and of 360 test examples, and in 94 to 100 % for accuracies rounded to whole percents. Where the numbers themselves
    are skewed it covers less: 90 to 94 % of Beta(5, 1), 88 to 92 % of exponential ones, 87 to 94 % where three in ten belong to another
    group. A test of normality does not help: a sample that misses the long tail looks normal. For numbers without a paired test use
    `widened`.

    Args:
        row: Independent numbers in any unit, such as one difference in accuracy per seed.
        level: Wanted coverage, in (0, 1).

    Returns:
        Both ends in the unit of the numbers, low below high; None where there is no interval to give.

    Raises:
        ValueError: A number that is not finite, or a level outside its range.

    Source: Student 1908. Departures: none.
    """
    numbers = _finite(row, "row")
    _check_level(level)
    if len(numbers) < FEWEST or _flat(numbers, np.abs(numbers).max()):
        return None
    from scipy.stats import ttest_1samp

    low, high = ttest_1samp(numbers, 0).confidence_interval(level)
    return float(low), float(high)


def widened(n: int, level: float = 0.95) -> float:
    """Half the width of an interval of the mean of n numbers that may be skewed, such as an AUC near 1, in standard deviations.

    (1 + 4 / (n + 2)) * t / sqrt(n): that of Student's interval, t / sqrt(n), times a factor. Simulated at level 0.95 for 2 to 40 numbers it covers
    the true mean in 97 to 99 % of cases for normal numbers, 96 % for Beta(5, 1), at least 94 % for exponential and for two-humped ones (seven to three,
    five deviations apart), 90 to 94 % for log-normal ones of deviation 1. At level 0.9 and 0.99 it covers 91 and 98 % of exponential ones.

    Args:
        n: How many numbers, at least 2.
        level: Wanted coverage, in (0, 1).

    Returns:
        A factor above 0: times the standard deviation of the numbers (with n - 1) it is half the width in their unit.

    Source: Student 1908. Departures: the factor, which is found by simulation.
    """
    return (1 + 4 / (n + 2)) * float(stdtrit(n - 1, (1 + level) / 2)) / n**0.5


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion, from the number of hits in a sample.

    Its lower end is the proportion at which so many hits or more have the chance (1 - level) / 2, its upper end the one at which so many or fewer
    have it. It covers the true proportion in at least `level` of samples, whatever it is, drawn independently or without putting back from a
    population of any size, whose hits scatter less.

    Args:
        hits: How many of the sample are hits, 0 to n.
        n: Size of the sample, at least 1, chosen without looking at it.
        level: Wanted coverage, in (0, 1).

    Returns:
        (low, high), fractions in [0, 1].

    Raises:
        ValueError: A number outside its range.

    Source: Clopper and Pearson 1934. Departures: none.
    """
    _check_level(level)
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits in a sample of {n} are no proportion; give 0 to n hits of n >= 1.")
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    return low, 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))


@dataclasses.dataclass(frozen=True)
class Paired:
    """A paired comparison: the test and the interval that belongs to it.

    Attributes:
        effect: Mean difference, in the unit of the numbers.
        interval: Student's interval of it; None with fewer than three pairs, or where all differences are equal.
        p: Two-sided p that the mean difference is 0, in (0, 1].
        test: Name of the test that gave p.
        n: How many pairs.
    """

    effect: float
    interval: tuple[float, float] | None
    p: float
    test: str
    n: int


def paired(a: Row, b: Row, level: float = 0.95) -> Paired:
    """Mean of a - b with its Student interval and the p of the paired test.

    Where the t-test applies the interval leaves out 0 exactly where p < 1 - level.

    Args:
        a: One number per pair.
        b: The other number of each pair, in the same order.
        level: Wanted coverage of the interval, in (0, 1).

    Returns:
        Effect and interval in the unit of the numbers, p in (0, 1].

    Raises:
        ValueError: As `paired_test`, or a level outside its range.
    """
    _check_level(level)
    p, test = paired_test(a, b)
    one, other = _finite(a, "a"), _finite(b, "b")
    differences = one - other
    flat = _flat(differences, max(np.abs(one).max(), np.abs(other).max()))
    return Paired(float(differences.mean()), None if flat else student_interval(differences, level), p, test, len(differences))


def paired_test(a: Row, b: Row) -> tuple[float, str]:
    """Two-sided p that the mean of a - b is 0, and the name of the test that gave it.

    The paired t-test. Where it cannot be used, the exact sign-flip permutation test on the mean: with two pairs (one degree of
    freedom), and where all differences are equal up to rounding (no spread, t would be infinite). The smallest p of that test for n pairs is
    2 / 2^n, so that five equal differences give 0.0625. No difference at all gives p = 1.

    Args:
        a: One number per pair.
        b: The other number of each pair, in the same order.

    Returns:
        p in (0, 1], and `paired t` or `exact sign-flip permutation`.

    Raises:
        ValueError: Unequal lengths, fewer than two pairs, or a number that is not finite.

    Source: Student 1908; Fisher 1935 for the sign-flip test. Departures: none.
    """
    one, other = _finite(a, "a"), _finite(b, "b")
    if one.shape != other.shape:
        raise ValueError(f"{len(one)} and {len(other)} numbers are not pairs; give one of each per pair.")
    n = len(one)
    if n < 2:
        raise ValueError(f"{n} pairs cannot tell a difference from chance; give at least 2.")
    differences = one - other
    size = max(np.abs(one).max(), np.abs(other).max())
    if _flat(differences, size):
        # All signs alike, both ways, are the only 2 of 2^n flips whose mean is as far from 0.
        return (1.0 if np.abs(differences).max() <= _ROUNDING * size else 2.0 ** (1 - n)), "exact sign-flip permutation"
    if n == 2:
        return (0.5 if differences.prod() > 0 else 1.0), "exact sign-flip permutation"
    from scipy.stats import ttest_rel

    return float(ttest_rel(one, other).pvalue), "paired t"


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order given: a claim is rejected at a level if its corrected p is below it.

    The k-th smallest (from 0, of m) is multiplied by m - k, and no corrected p is below that of a smaller p. The chance that any true null
    hypothesis has a corrected p of at most x is at most x, however the tests depend on each other.

    Args:
        ps: One p per claim, in [0, 1].

    Returns:
        One corrected p per claim, in [0, 1] and not below the uncorrected one.

    Raises:
        ValueError: A p outside its range.

    Source: Holm 1979. Departures: none.
    """
    row = _finite(ps, "ps")
    if len(row) and not 0 <= row.min() <= row.max() <= 1:
        raise ValueError(f"ps must lie in 0..1, not {ps!r}.")
    order = np.argsort(row, kind="stable")
    corrected = np.empty(len(row))
    corrected[order] = np.maximum.accumulate((len(row) - np.arange(len(row))) * row[order])
    return np.minimum(corrected, 1.0).tolist()


def share(place: int, earlier: Mapping[int, Sequence[float]], alpha: float = 0.05) -> float:
    """Part of the level that the next of a sequence of families of hypotheses may spend, without knowing how many will come.

    The k-th may spend 1 / (k (k + 1)), with sum 1 over all k, plus the share of the family just before it if all hypotheses of that one were
    rejected (Holm's correction among them). Each is decided when it is tested, and no later one changes it. The chance that any true
    null hypothesis is ever rejected is at most alpha, however many families there will be and however the tests depend on each other: a family
    that holds a true one passes something on only with the error already made.

    Args:
        place: Which family this is, from 1.
        earlier: The p-values of the earlier families, by place. A missing family passes nothing on.
        alpha: The level of all families together.

    Returns:
        The share, in (0, 1]. A hypothesis of the family is rejected if its Holm-corrected p divided by the share is below alpha.

    Raises:
        ValueError: A p outside its range.

    Source: Tian and Ramdas 2021, Online control of the familywise error rate (the online fallback procedure). Departures: a family in the
    place of one hypothesis.
    """
    shares: dict[int, float] = {}
    for one in sorted(earlier):
        own = 1 / (one * (one + 1)) + shares.get(one - 1, 0.0)
        if one < place and max(holm(earlier[one]), default=1.0) < alpha * own:
            shares[one] = own
    return 1 / (place * (place + 1)) + shares.get(place - 1, 0.0)


MOST_PAIRS = 10_000
"""More are not looked for: a difference that takes more is none that retraining finds."""


def pairs_needed(difference: Number, spread: Number, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """How many pairs a two-sided paired t-test needs to find a difference with a given power, if differences are normal.

    Args:
        difference: The mean difference to be found, not 0, in any unit.
        spread: Standard deviation of the differences, above 0, in the same unit.
        alpha: Level of the test, in (0, 1).
        power: Wanted chance that the difference is found, in (0, 1).

    Returns:
        The smallest number, at least 3; None where it is above 10,000.

    Raises:
        ValueError: A number outside its range.
    """
    if not (np.isfinite(difference) and difference != 0 and np.isfinite(spread) and spread > 0):
        raise ValueError(
            f"difference={difference} and spread={spread} must be finite, the spread above 0 and the difference not 0."
        )
    for name, value in (("alpha", alpha), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value} is outside 0..1, both ends excluded.")
    low, high = FEWEST, MOST_PAIRS
    if _power(high, difference / spread, alpha) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, difference / spread, alpha) >= power else (middle + 1, high)
    return low


def _power(n: int, effect: float, alpha: float) -> float:
    """Chance that a paired t-test of n pairs rejects at a mean of so many standard deviations."""
    from scipy.stats import nct, norm, t

    bound, shift = float(t.ppf(1 - alpha / 2, n - 1)), abs(effect) * n**0.5
    # Beyond, where scipy's noncentral t may answer NaN, the power is 1 to ten digits but for a few pairs, whose bound is far out.
    if shift > 10 and n > 10:
        return float(norm.sf(bound - shift))
    return float(nct.sf(bound, n - 1, shift)) + (float(nct.cdf(-bound, n - 1, shift)) if shift < 5 else 0.0)


def upper_spread(spread: Number, n: int, level: float = 0.8) -> float:
    """Upper confidence bound, at confidence `level`, of a standard deviation that was estimated from n normal numbers.

    Returns:
        In the unit of `spread`.

    Raises:
        ValueError: Fewer than two numbers, or a level outside its range.
    """
    _check_level(level)
    if n < 2:
        raise ValueError(f"{n} numbers have no spread; give at least 2.")
    from scipy.stats import chi2

    return float(spread * np.sqrt((n - 1) / chi2.ppf(1 - level, n - 1)))


def line(x: Row, y: Row) -> tuple[float, float]:
    """Slope of the least-squares line of y on x, and Pearson's correlation of the two.

    The slope is in units of y per unit of x; the correlation is in [-1, 1]. Both are NaN where x has no spread, the correlation where y
    has none.

    Args:
        x: One number per pair.
        y: The other number of each pair, in the same order.

    Returns:
        (slope, correlation).

    Raises:
        ValueError: Unequal lengths, or a number that is not finite.

    Source: Galton 1886; Pearson 1895. Departures: none.
    """
    one, other = _finite(x, "x"), _finite(y, "y")
    if one.shape != other.shape:
        raise ValueError(f"{len(one)} and {len(other)} numbers are not pairs; give one of each per pair.")
    # Asked of the numbers themselves: with the mean taken off, rounding looks like spread.
    if not len(one) or np.ptp(one) == 0:
        return float("nan"), float("nan")
    if np.ptp(other) == 0:
        return 0.0, float("nan")
    from scipy.stats import linregress

    found = linregress(one, other)
    return float(found.slope), float(found.rvalue)


def _flat(differences: np.ndarray, size: float) -> bool:
    """Whether all are equal up to the rounding of numbers of that size."""
    return bool(np.ptp(differences) <= _ROUNDING * size)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level} is outside 0..1, both ends excluded.")


def _finite(numbers: Row, name: str) -> np.ndarray:
    row = np.asarray(numbers, dtype=np.float64)
    if row.ndim != 1 or not np.isfinite(row).all():
        raise ValueError(f"{name} must be one row of finite numbers, not {numbers!r}.")
    return row
