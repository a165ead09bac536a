import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom, ttest_1samp
from sklearn.metrics import average_precision_score, roc_auc_score

from assay.maths.statistics import (
    clopper_pearson,
    holm,
    line,
    paired,
    paired_test,
    pairs_needed,
    share,
    student_interval,
    upper_spread,
    widened,
)

accuracies = st.floats(0, 1).map(lambda value: round(value, 4))


SEEDS = (3, 5, 10, 20)


def errors(draw, mean, deviation, shape):
    """Skewed test errors of that mean."""
    return mean * np.exp(deviation * draw.normal(size=shape) - deviation**2 / 2)


def rounded(draw, shape, tests):
    return np.round((0.9 + 0.004 * draw.normal(size=shape)) * tests) / tests


WORLDS = {
    "normal": lambda draw, shape: (0.9 + 0.006 * draw.normal(size=shape), 0.89 + 0.006 * draw.normal(size=shape), 0.01),
    "skewed": lambda draw, shape: (1 - errors(draw, 0.05, 0.6, shape), 1 - errors(draw, 0.06, 0.6, shape), 0.01),
    "skewed, spreads 2 to 1": lambda draw, shape: (1 - errors(draw, 0.05, 0.6, shape), 1 - errors(draw, 0.06, 0.3, shape), 0.01),
    "rounded to 1/100": lambda draw, shape: (rounded(draw, shape, 100), rounded(draw, shape, 100), 0.0),
    "rounded to 1/1000": lambda draw, shape: (rounded(draw, shape, 1000), rounded(draw, shape, 1000), 0.0),
    "counts of 50": lambda draw, shape: (draw.binomial(50, 0.97, shape) / 50, draw.binomial(50, 0.96, shape) / 50, 0.01),
    "counts of 360": lambda draw, shape: (draw.binomial(360, 0.975, shape) / 360, draw.binomial(360, 0.97, shape) / 360, 0.005),
}
"""Accuracies of two arms over seeds, and the true mean of their difference."""


def percentile_bootstrap(a, b, draw):
    """What the intervals once were."""
    drawn = draw.integers(0, len(a), (200, len(a)))
    return tuple(np.quantile((a - b)[drawn].mean(1), [0.025, 0.975]))


def covered(world, n, trials, interval=None):
    """Part of the intervals that hold the true mean, and part of the trials that have one."""
    draw = np.random.default_rng(n)
    a, b, true = WORLDS[world](draw, (trials, n))
    found = [paired(x, y).interval if interval is None else interval(x, y, draw) for x, y in zip(a, b, strict=True)]
    shown = [one for one in found if one is not None]
    return np.mean([low <= true <= high for low, high in shown]), len(shown) / trials


@pytest.mark.slow
@pytest.mark.parametrize("n", (3, 5, 10))
@pytest.mark.parametrize("world", ["normal", "skewed", "rounded to 1/100"])
def test_intervals_cover_what_they_say(world, n):
    part, shown = covered(world, n, 300)
    # Less three deviations of 300 draws, which the percentile bootstrap does not reach with few seeds.
    assert part > 0.94 - 3 * np.sqrt(0.94 * 0.06 / 300) and shown > 0.6


def test_the_bound_finds_intervals_that_do_not():
    assert covered("normal", 5, 300, percentile_bootstrap)[0] < 0.94 - 3 * np.sqrt(0.94 * 0.06 / 300)


@pytest.mark.slow
@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("world", WORLDS)
def test_the_whole_table_of_coverage(world, n):
    part, shown = covered(world, n, 2000)
    print(f"{world}, {n} seeds: covers {100 * part:.1f} %, shown for {100 * shown:.1f} %")
    assert part > 0.94 - 2 * np.sqrt(0.94 * 0.06 / 2000) and shown > 0.6


def test_skewed_differences_are_covered_as_the_docstring_says():
    draw = np.random.default_rng(0)
    for n in (3, 10):
        found = [student_interval(row) for row in draw.exponential(size=(400, n))]
        assert 0.85 < np.mean([low <= 1 <= high for low, high in found]) < 0.95


SHAPES = {
    "normal": (lambda draw, shape: draw.normal(size=shape), 0),
    "Beta(5, 1)": (lambda draw, shape: draw.beta(5, 1, shape), 5 / 6),
    "exponential": (lambda draw, shape: draw.exponential(size=shape), 1),
    "log-normal": (lambda draw, shape: np.exp(0.6 * draw.normal(size=shape)), np.exp(0.18)),
    "coarse": (lambda draw, shape: np.round(0.9 + 0.004 * draw.normal(size=shape), 2), 0.9),
    "counts": (lambda draw, shape: draw.binomial(50, 0.97, shape) / 50, 0.97),
    "two values": (lambda draw, shape: draw.integers(0, 2, shape), 0.5),
    "two humps": (lambda draw, shape: draw.normal(size=shape) + 5 * (draw.random(shape) < 0.3), 1.5),
}
"""Numbers of every shape, and their true mean."""


@pytest.mark.parametrize("n", SEEDS)
def test_the_widened_interval_covers_whatever_the_shape(n):
    draw, trials = np.random.default_rng(n), 20_000
    least = {}
    for name, (numbers, true) in SHAPES.items():
        rows = numbers(draw, (trials, n))
        spread = rows.std(1, ddof=1)
        shown = spread > 1e-12
        off = np.abs(rows.mean(1) - true)[shown]
        # All at once: the half-width of one row of deviation 1.
        low, high = student_interval(np.r_[-1, 1, np.zeros(n - 2)])
        student = (high - low) / 2 / np.std(np.r_[-1, 1, np.zeros(n - 2)], ddof=1)
        assert widened(n) == pytest.approx((1 + 4 / (n + 2)) * student)
        for what, half in (("student", student), ("widened", widened(n))):
            least[what, name] = np.mean(off <= half * spread[shown])
        assert least["widened", name] > 0.94 - 3 * np.sqrt(0.94 * 0.06 / trials), name
    # What the docstring says of Student's; the bound rings on it.
    assert least["student", "normal"] == pytest.approx(0.95, abs=0.006) and least["widened", "normal"] < 0.99
    assert 0.88 - 0.005 < least["student", "exponential"] < 0.92 + 0.005 and 0.9 < least["student", "Beta(5, 1)"] < 0.94


@pytest.mark.slow
@pytest.mark.parametrize("n", (3, 5, 8))
@pytest.mark.parametrize(("distance", "promised"), [(2.0, 0.94), (3.5, 0.94)])
def test_auc_and_average_precision_over_seeds_are_covered(n, distance, promised):
    """Of a score of 1,000 examples, 100 of them wrong labels, whose distance from the others differs from seed to seed too.

    At 3.5 deviations the AUC is .993, at the end of its range and skewed.
    """
    draw = np.random.default_rng(n)
    wrong = torch.arange(1000) < 100
    values = []
    for _ in range(3000):
        score = torch.from_numpy(draw.normal(size=1000) + np.where(wrong, distance + 0.1 * draw.normal(), 0))
        values.append((roc_auc_score(wrong, score), average_precision_score(wrong, score)))
    for measure in np.array(values).T:
        found = measure[: 3000 // n * n].reshape(-1, n)
        part = np.mean(np.abs(found.mean(1) - measure.mean()) <= widened(n) * found.std(1, ddof=1))
        print(f"AUC or AP of about {measure.mean():.3f}, {n} seeds: covers {100 * part:.1f} %")
        assert part > promised - 3 * np.sqrt(0.94 * 0.06 / len(found))


def test_interval_against_scipy():
    from scipy.stats import ttest_rel

    draw = np.random.default_rng(5)
    a, b = draw.normal(0.9, 0.01, 15), draw.normal(0.89, 0.01, 15)
    for level in (0.5, 0.95, 0.999):
        found = paired(a, b, level)
        assert found.interval == pytest.approx(tuple(ttest_rel(a, b).confidence_interval(level)), rel=1e-9)
        assert found.p == pytest.approx(ttest_rel(a, b).pvalue, rel=1e-9) and found.effect == pytest.approx((a - b).mean())


@settings(deadline=None)
@given(st.lists(st.tuples(accuracies, accuracies), min_size=3, max_size=12))
def test_the_interval_belongs_to_the_test_beside_it(pairs):
    a, b = zip(*pairs, strict=True)
    found = paired(a, b)
    assert (found.interval is None) == (found.test != "paired t")
    if found.interval is not None and abs(found.p - 0.05) > 1e-9:
        low, high = found.interval
        assert (low > 0 or high < 0) == (found.p < 0.05) and low < high
        assert low + high == pytest.approx(2 * found.effect, abs=1e-12)


def test_no_interval_pretends():
    assert student_interval([0.1, 0.3]) is None is student_interval([0.1])
    assert student_interval([0.1] * 9) is None is student_interval([0.0] * 5)
    # Equal but for the rounding of the accuracies.
    assert paired([0.9, 0.8, 0.7, 0.6, 0.5], [0.85, 0.75, 0.65, 0.55, 0.45]).interval is None
    assert paired([0.9, 0.8], [0.7, 0.8]).interval is None
    assert student_interval([0.1, 0.1, 0.2]) is not None


@pytest.mark.parametrize(
    ("row", "options", "word"),
    [
        ([0.1, 0.2, float("nan")], {}, "finite"),
        ([0.1, 0.2, float("inf")], {}, "finite"),
        ([0.1, 0.2, 0.3], {"level": 1.0}, "level"),
        ([0.1, 0.2, 0.3], {"level": 0.0}, "level"),
    ],
)
def test_interval_refuses(row, options, word):
    with pytest.raises(ValueError, match=word):
        student_interval(row, **options)
    with pytest.raises(ValueError, match=word):
        paired(row, [0.0] * 3, **options)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.3]) == [0.3] and holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.5))
def test_holm_is_the_step_down_procedure(ps, level):
    rejected, order = set(), np.argsort(ps, kind="stable")
    for k, place in enumerate(order):
        if ps[place] * (len(ps) - k) > level:
            break
        rejected.add(int(place))
    assert {place for place, p in enumerate(holm(ps)) if p <= level} == rejected
    assert all(p <= q <= 1 for p, q in zip(ps, holm(ps), strict=True))


def test_holm_keeps_the_chance_of_any_false_claim():
    draw = np.random.default_rng(0)
    # Twelve comparisons that share their treatment, so that they depend on each other.
    treated, baselines = draw.normal(size=(1000, 1, 5)), draw.normal(size=(1000, 12, 5))
    ps = ttest_1samp(treated - baselines, 0, axis=2).pvalue
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert np.mean([min(holm(row.tolist())) < 0.05 for row in ps]) < bound < np.mean([min(row) < 0.05 for row in ps])


def test_shares_of_the_level_by_hand():
    assert [share(place, {}) for place in (1, 2, 3)] == pytest.approx([1 / 2, 1 / 6, 1 / 12])
    # 0.01 is below 0.05 / 2 / 2 and 0.02 below 0.05 / 2, so that all of the first is rejected and passes on what it had.
    assert share(2, {1: [0.02, 0.01]}) == pytest.approx(1 / 2 + 1 / 6)
    assert share(2, {1: [0.03, 0.01]}) == share(2, {1: [0.02, 0.013]}) == pytest.approx(1 / 6)
    assert share(3, {1: [0.02, 0.01], 2: [0.03, 0.016]}) == pytest.approx(1 / 2 + 1 / 6 + 1 / 12)
    # What is missing, empty or yet to come passes nothing on.
    assert share(3, {1: [0.0]}) == share(3, {1: [0.0], 2: []}) == share(3, {3: [0.0], 4: [0.0]}) == pytest.approx(1 / 12)
    assert sum(share(place, {}) for place in range(1, 2000)) == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="ps must"):
        share(2, {1: [2.0]})


@pytest.mark.slow
@pytest.mark.parametrize("real", [(), (1, 2, 3), (2, 4, 6, 8, 10)])
def test_shares_keep_the_chance_of_any_false_claim_however_many_come(real):
    """As printed: each family is decided when it is tested, and the number of families is known to nobody."""
    draw, studies, families = np.random.default_rng(0), 2000, 10
    shift = np.array([3.0 * (one in real) for one in range(1, families + 1)])[:, None, None]
    arms = draw.normal(size=(studies, families, 1, 5)) - draw.normal(size=(studies, families, 2, 5)) + shift
    ps = ttest_1samp(arms, 0, axis=3).pvalue
    false = {"shares": 0, "Holm over what was asked so far": 0}
    for one in ps:
        wrong = {name: False for name in false}
        for place in range(1, families + 1):
            if place in real:
                continue
            spent = share(place, dict(enumerate(one[: place - 1].tolist(), 1)))
            wrong["shares"] |= min(holm(one[place - 1].tolist())) < 0.05 * spent
            wrong["Holm over what was asked so far"] |= min(holm(one[:place].ravel().tolist())[-2:]) < 0.05
        for name, is_ in wrong.items():
            false[name] += is_
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)
    print(f"real {real}: {', '.join(f'{name} {100 * count / studies:.1f} %' for name, count in false.items())}")
    assert false["shares"] / studies < bound < false["Holm over what was asked so far"] / studies


@pytest.mark.parametrize("row", [[0.1, 1.2], [-0.1], [float("nan")]])
def test_holm_refuses(row):
    with pytest.raises(ValueError, match="ps must"):
        holm(row)


@pytest.mark.parametrize(
    ("difference", "spread", "alpha"), [(0.5, 0.6, 0.05), (-1, 0.3, 0.05), (0.4, 1.0, 0.025), (2.0, 1.0, 0.05)]
)
def test_so_many_pairs_find_the_difference(difference, spread, alpha):
    n, draw = pairs_needed(difference, spread, alpha), np.random.default_rng(0)
    power = [
        np.mean(ttest_1samp(difference + spread * draw.normal(size=(4000, k)), 0, axis=1).pvalue < alpha)
        for k in ((n, n - 1) if n > 3 else (n,))
    ]
    # Within three deviations of 4,000 draws.
    assert power[0] > 0.8 - 0.02 and (n == 3 or power[1] < 0.8 + 0.02)


def test_the_number_of_pairs_at_its_ends():
    assert pairs_needed(5, 0.1) == 3 == pairs_needed(-5, 0.1) and pairs_needed(1e-3, 1) is None
    counts = [pairs_needed(difference, 1.0) for difference in np.geomspace(0.04, 50, 60)]
    assert counts == sorted(counts, reverse=True) and counts[0] > 4000
    # As the normal approximation has it, where there are many.
    assert pairs_needed(0.1, 1.0) == pytest.approx((1.96 + 0.8416) ** 2 / 0.1**2, rel=0.01)


@pytest.mark.parametrize("given", [(0, 1), (1, 0), (float("nan"), 1), (1, 1, 0.0), (1, 1, 0.05, 1.0)])
def test_the_number_of_pairs_refuses(given):
    with pytest.raises(ValueError):
        pairs_needed(*given)


def test_the_spread_is_at_most_so_much():
    draw = np.random.default_rng(0)
    held = [upper_spread(row.std(ddof=1), 5) >= 1 for row in draw.normal(size=(2000, 5))]
    assert np.mean(held) == pytest.approx(0.8, abs=0.03)
    with pytest.raises(ValueError, match="1 numbers have no spread"):
        upper_spread(1.0, 1)


@settings(deadline=None)
@given(st.lists(st.tuples(accuracies, accuracies), min_size=3, max_size=12))
def test_paired_test_against_scipy(pairs):
    from scipy.stats import ttest_rel

    a, b = (np.array(row) for row in zip(*pairs, strict=True))
    p, name = paired_test(a, b)
    if np.ptp(a - b) < 1e-9:
        assert name == "exact sign-flip permutation"
    else:
        assert name == "paired t"
        assert p == pytest.approx(ttest_rel(a, b).pvalue, rel=1e-6, abs=1e-12)
    assert paired_test(b, a) == (p, name)


def flips(differences):
    """p by trying every sign pattern."""
    row = np.array(differences)
    sums = np.array([np.dot(signs, row) for signs in itertools.product((1, -1), repeat=len(row))])
    return np.mean(np.abs(sums) >= abs(row.sum()) - 1e-12)


@pytest.mark.parametrize("row", [[0.1, 0.2], [-0.1, -0.3], [0.1, -0.2], [0.0, 0.2], [0.2] * 5, [-0.05] * 8, [0.0] * 4])
def test_sign_flips_against_all_patterns(row):
    a = 0.8 + np.array(row)
    assert paired_test(a, np.full(len(row), 0.8)) == (flips(row), "exact sign-flip permutation")


def test_differences_equal_up_to_rounding_have_no_spread():
    a, b = [0.9, 0.8, 0.7, 0.6, 0.5], [0.85, 0.75, 0.65, 0.55, 0.45]
    assert len({x - y for x, y in zip(a, b, strict=True)}) > 1
    assert paired_test(a, b) == (0.0625, "exact sign-flip permutation")
    assert paired_test([0.1 + 0.2, 0.5, 0.7], [0.3, 0.5, 0.7]) == (1.0, "exact sign-flip permutation")


def test_paired_t_holds_its_level():
    draw = np.random.default_rng(1)
    rejected = np.mean([paired_test(draw.normal(size=5), draw.normal(size=5))[0] < 0.05 for _ in range(1500)])
    assert abs(rejected - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 1500)


def test_paired_test_refuses():
    with pytest.raises(ValueError, match="not pairs"):
        paired_test([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="at least 2"):
        paired_test([0.1], [0.2])
    with pytest.raises(ValueError, match="b must be"):
        paired_test([0.1, 0.2], [0.1, float("nan")])


@settings(deadline=None)
@given(st.integers(3, 20), st.integers(0, 1000))
def test_line_against_numpy(n, seed):
    draw = np.random.default_rng(seed)
    x = draw.normal(3, 1, n)
    y = -2 * x + draw.normal(0, 1, n)
    slope, correlation = line(x, y)
    assert slope == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-9)
    assert correlation == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)


def test_line_by_hand_and_without_spread():
    assert line([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == (2.0, 1.0)
    assert line([0.0, 1.0, 2.0], [5.0, 3.0, 1.0]) == (-2.0, -1.0)
    assert all(np.isnan(line([0.1, 0.1, 0.1], [1.0, 2.0, 3.0])))
    slope, correlation = line([1.0, 2.0, 3.0], [0.1, 0.1, 0.1])
    assert slope == 0 and np.isnan(correlation)
    assert all(np.isnan(line([], [])))


def test_line_refuses():
    with pytest.raises(ValueError, match="not pairs"):
        line([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="x must be"):
        line([1.0, float("inf")], [1.0, 2.0])


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (41, 50), (7, 2000)])
def test_the_ends_of_the_exact_interval_are_where_the_tails_have_their_chance(hits, n):
    low, high = clopper_pearson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert low == 0 if hits == 0 else binom.sf(hits - 1, n, low) == pytest.approx(0.025, rel=1e-9)
    assert high == 1 if hits == n else binom.cdf(hits, n, high) == pytest.approx(0.025, rel=1e-9)


@pytest.mark.parametrize("n", [1, 5, 23])
def test_the_exact_interval_covers_every_proportion_with_and_without_putting_back(n):
    """By adding up all outcomes: no draw, no simulation."""
    ends = np.array([clopper_pearson(hits, n) for hits in range(n + 1)])
    for true in np.linspace(0, 1, 101):
        inside = (ends[:, 0] <= true) & (true <= ends[:, 1])
        assert binom.pmf(np.arange(n + 1), n, true)[inside].sum() >= 0.95 - 1e-12
    for wrong in range(61):
        inside = (ends[:, 0] <= wrong / 60) & (wrong / 60 <= ends[:, 1])
        assert hypergeom.pmf(np.arange(n + 1), 60, wrong, n)[inside].sum() >= 0.95 - 1e-12


@pytest.mark.parametrize(("hits", "n", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (0, 0, 0.95), (1, 2, 1.0)])
def test_what_is_no_proportion_has_no_interval(hits, n, level):
    with pytest.raises(ValueError, match=r"no proportion|outside 0\.\.1"):
        clopper_pearson(hits, n, level)
