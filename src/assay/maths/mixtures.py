"""Mixtures of normal distributions on a line, fitted to counts in bins, and what part of them lies beyond zero, with an interval."""

import dataclasses

import numpy as np
from jaxtyping import Float64, Int

BINS = 96
"""Bins of a fit; finer ones change no count of the simulations by more than its rounding."""
MOST_COMPONENTS = 5
FEWEST_PER_COMPONENT = 10
"""Values that each component of a mixture must have on average: through fewer a narrow one goes as well as a wide."""
VERY_STRONG = 10.0
"""Difference of BIC from which on evidence for one more component is very strong (Kass and Raftery 1995)."""
RESAMPLED = 100
"""Bootstrap samples."""
_STEPS, _WARM_STEPS = 200, 40
"""Most steps of EM: of a first fit, and of one that starts from the fit to the whole."""
_NARROWEST = 0.02
"""Least deviation of a component, in deviations of all values."""


@dataclasses.dataclass(frozen=True)
class Beyond:
    """The part of a mixture whose components are centred above zero.

    Attributes:
        count: How many of the values belong to it.
        low: Lower end of the interval.
        high: Upper end.
        chances: For each value, the chance that it belongs to it, in 0..1; it does not fall with the value.
        by_group: Rows of (count, low, high), one per group.
        components: How many components the mixture has.
        clear: Whether the parts are told apart.
    """

    count: float
    low: float
    high: float
    chances: Float64[np.ndarray, " values"]
    by_group: Float64[np.ndarray, "groups 3"]
    components: int
    clear: bool


def beyond_zero(
    values: Float64[np.ndarray, " values"], groups: Int[np.ndarray, " values"], seed: int, level: float = 0.95
) -> Beyond:
    """How many of the values belong to components of a normal mixture that are centred above zero, overall and by group.

    The mixture has as few components as BIC allows: one more is taken only where evidence for it is very strong and there are at least ten values for
    each. A value's chance is the share of those
    components in the density there, made monotone (isotonic regression), and the count is the sum of the chances. The interval is the range between
    quantiles of the count over bootstrap samples, each with its own number of components, and is widened at either side by the overlap: the
    number of values that would be counted wrongly if each were counted by whether its chance is above one half. Where no component is centred above
    zero, the count is 0 and the upper end is at least the number of values above zero, and at least 3. Where the values that are centred below zero are
    fewer than half, or their mean is within a standard deviation of zero, the parts are not told apart: every chance is 0, and the interval goes from 0 to
    the number of values above zero.

    Args:
        values: Finite numbers.
        groups: Group of each, from 0.
        seed: Seed of the bootstrap.
        level: Wanted coverage, in (0, 1).

    Returns:
        The count with its interval.

    Raises:
        ValueError: No values, or one that is not finite.

    Source: Dempster, Laird and Rubin 1977 (EM); Schwarz 1978 (BIC); Efron 1979 (bootstrap). Departures: the rule of very strong evidence, the monotone
    chances, and the widening by the overlap, which is found by simulation.
    """
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("values must be finite numbers, at least one.")
    # Squares of the values themselves may overflow.
    values = values / (np.abs(values).max() or 1.0)
    n, number = len(values), int(groups.max()) + 1
    edges = _edges(values)
    centers, place = (edges[1:] + edges[:-1]) / 2, np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)
    table = np.zeros((number, BINS))
    np.add.at(table, (groups, place), 1)
    counts = table.sum(0)
    most = min(MOST_COMPONENTS, max(1, n // FEWEST_PER_COMPONENT))
    fits = [_best(counts[None], centers, k) for k in range(1, most + 1)]
    chosen = int(_fewest(np.stack([_bic(fit, counts[None], centers) for fit in fits]))[0])
    chances, clear = _chances(fits[chosen], centers, counts[None])[0], _clear(fits[chosen])
    if not clear:
        chances = np.zeros(BINS)
    overlap = np.minimum(chances, 1 - chances)
    near = fits[max(0, chosen - 1) : chosen + 2]
    generator = np.random.default_rng(seed)
    samples = generator.multinomial(n, (table / n).ravel(), RESAMPLED).reshape(RESAMPLED, number, BINS).astype(np.float64)
    drawn = samples.sum(1)
    again = [_refined(fit, drawn, centers) for fit in near]
    taken = _fewest(np.stack([_bic(fit, drawn, centers) for fit in again]))
    shares = np.stack([_chances(fit, centers, drawn) for fit in again])[taken, np.arange(RESAMPLED)]
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    exact = table @ chances

    def around(count: float, found: np.ndarray, slack: float, above: float, size: float) -> tuple[float, float, float]:
        low, high = np.quantile(found, ends) if clear else (0.0, 0.0)
        low, high = min(count, low) - slack, max(count, high) + slack
        if chances.max() == 0:
            high = max(high, above, 3.0)
        return count, max(0.0, low), min(size, high)

    beyond = centers > 0
    by_group = [
        around(exact[g], (samples[:, g] * shares).sum(1), table[g] @ overlap, table[g] @ beyond, table[g].sum())
        for g in range(number)
    ]
    total = around(exact.sum(), (drawn * shares).sum(1), counts @ overlap, counts @ beyond, float(n))
    return Beyond(*total, chances[place], np.array(by_group), chosen + 1, clear)


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Mixtures fitted to several rows of counts, (rows, components) each."""

    weights: np.ndarray
    means: np.ndarray
    spreads: np.ndarray

    def densities(self, centers: np.ndarray) -> np.ndarray:
        """(rows, bins, components)."""
        z = (centers[:, None] - self.means[:, None]) / self.spreads[:, None]
        return self.weights[:, None] / self.spreads[:, None] * np.exp(-0.5 * z * z) + 1e-300


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    room = 1e-6
    return np.linspace(low - room, high + room, BINS + 1)


def _moments(counts: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = counts.sum(1)
    mean = counts @ centers / n
    return mean, np.sqrt(np.maximum((counts * (centers - mean[:, None]) ** 2).sum(1) / n, (centers[1] - centers[0]) ** 2 / 12))


def _refined(fit: _Fit, counts: np.ndarray, centers: np.ndarray, most: int = _WARM_STEPS) -> _Fit:
    """The fit after steps of EM on these rows of counts, each from the same start."""
    rows, floor = len(counts), _NARROWEST * _moments(counts, centers)[1][:, None]
    weights, means, spreads = (np.broadcast_to(part, (rows, part.shape[1])) for part in (fit.weights, fit.means, fit.spreads))
    fit, before = _Fit(weights, means, spreads), np.full(rows, -np.inf)
    for _ in range(most):
        density = fit.densities(centers)
        total = density.sum(2)
        likelihood = (counts * np.log(total)).sum(1)
        if (likelihood - before < 1e-6 * counts.sum(1)).all():
            break
        before = likelihood
        parts = (counts / total)[:, :, None] * density
        mass = parts.sum(1) + 1e-12
        means = (parts * centers[:, None]).sum(1) / mass
        squares = (parts * (centers[:, None] - means[:, None]) ** 2).sum(1) / mass
        fit = _Fit(mass / counts.sum(1, keepdims=True), means, np.sqrt(squares + floor**2))
    return fit


def _best(counts: np.ndarray, centers: np.ndarray, components: int) -> _Fit:
    """The fit of most likelihood to one row of counts, from several starts: quantiles, and a last component at some place above zero."""
    spread, along = _moments(counts, centers)[1][0], np.cumsum(counts[0]) / counts.sum()

    def quantiles(k: int) -> np.ndarray:
        return np.interp((np.arange(k) + 0.5) / k, along, centers)

    even = np.full(components, 1 / components)
    starts = [(even, quantiles(components))]
    top = centers[counts[0] > 0].max()
    if components > 1 and top > 0:
        weights = np.append(np.full(components - 1, 0.9 / (components - 1)), 0.1)
        starts += [(weights, np.append(quantiles(components - 1), part * top)) for part in (0.25, 0.5, 0.75)]
    fits = [
        _refined(_Fit(weights[None], means[None], np.full((1, components), spread / components)), counts, centers, _STEPS)
        for weights, means in starts
    ]
    return max(fits, key=lambda fit: float(_likelihood(fit, counts, centers)[0]))


def _likelihood(fit: _Fit, counts: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return (counts * np.log(fit.densities(centers).sum(2))).sum(1)


def _bic(fit: _Fit, counts: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return (3 * fit.weights.shape[1] - 1) * np.log(counts.sum(1)) - 2 * _likelihood(fit, counts, centers)


def _fewest(bics: np.ndarray) -> np.ndarray:
    """The first of the rows of (components, rows) that is not worse than the best by more than very strong evidence."""
    return (bics <= bics.min(0) + VERY_STRONG).argmax(0)


def _clear(fit: _Fit) -> bool:
    """Whether most of a fit of one row is centred below zero, and by more than its deviation."""
    below = fit.weights * (fit.means <= 0)
    share = float(below.sum())
    if share < 0.5:
        return False
    mean = float((below * fit.means).sum()) / share
    variance = float((below * (fit.spreads**2 + (fit.means - mean) ** 2)).sum()) / share
    return mean < -(variance**0.5)


def _chances(fit: _Fit, centers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of the components centred above zero in the density of each bin, made monotone; (rows, bins)."""
    from scipy.optimize import isotonic_regression

    density = fit.densities(centers)
    shares = (density * (fit.means > 0)[:, None]).sum(2) / density.sum(2)
    # A bin without values has next to no say.
    return np.stack([isotonic_regression(row, weights=count + 1e-9).x for row, count in zip(shares, counts, strict=True)])
