import numpy as np
import pytest
from scipy.stats import betabinom

from assay.maths.planted_counts import below_threshold, count_by_planted

SHAPES = {
    "normal": lambda draw, n: draw.normal(size=n),
    "tail of suspects": lambda draw, n: (draw.gamma(3, size=n) - 3) / 3**0.5,
    "tail of clear ones": lambda draw, n: (3 - draw.gamma(3, size=n)) / 3**0.5,
    "heavy": lambda draw, n: draw.standard_t(5, size=n) / (5 / 3) ** 0.5,
}


def made(draw, n, rate, planted, gap, shape="normal", mended=0.0, shift=0.0):
    """Suspicion, which are planted, and how many labels were wrong before: wrong ones lie `gap` above right ones, planted ones `shift` more."""
    wrong = draw.random(n) < rate
    flipped = np.zeros(n, dtype=bool)
    flipped[draw.choice(n, planted, replace=False)] = True
    bad = (wrong | flipped) & ~(wrong & flipped & (draw.random(n) < mended))
    values = SHAPES[shape](draw, n) + gap * bad + shift * flipped
    return values, flipped, int(wrong.sum())


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4])
def test_the_count_is_near_what_is_wrong_and_its_interval_holds_it(rate):
    values, flipped, wrong = made(np.random.default_rng(0), 6000, rate, 300, 4.0, mended=1 / 9)
    found = count_by_planted(values, flipped, 0, mended=1 / 9)
    assert found.holds == "count" and found.seen and found.low <= wrong <= found.high
    assert abs(found.count - wrong) < 0.15 * wrong and found.area > 0.97 and abs(found.right - 0.1) < 0.05


def test_where_nothing_is_wrong_nothing_is_counted():
    for shape in SHAPES:
        values, flipped, _ = made(np.random.default_rng(1), 1500, 0.0, 60, 4.0, shape)
        found = count_by_planted(values, flipped, 0)
        assert not found.seen and found.high < 40, shape


def test_the_upper_end_is_that_of_ranks_alone():
    # Ten planted ones at the top, with three others before the ninth of them: nothing is nearer to 3 than what makes 3 improbable there.
    values, flipped = np.arange(1010.0)[::-1].copy(), np.zeros(1010, dtype=bool)
    flipped[[0, 1, 2, 3, 4, 5, 6, 7, 11, 12]] = True
    found = count_by_planted(values, flipped, 0)
    tail = 0.025 / 6
    ends = [max(w for w in range(above, 400) if betabinom.cdf(above, w, k, 11 - k) >= tail) for k, above in ((8, 0), (9, 3))]
    assert found.high == pytest.approx(min(ends) * 1.01)


def test_planted_labels_that_became_right_are_allowed_for():
    values, flipped, wrong = made(np.random.default_rng(0), 6000, 0.2, 400, 5.0, mended=1.0)
    plain, allowed = count_by_planted(values, flipped, 0), count_by_planted(values, flipped, 0, mended=1.0)
    assert plain.count > 1.15 * wrong and abs(allowed.count - wrong) < 0.1 * wrong and allowed.area > plain.area


def test_wrong_labels_that_rank_before_planted_ones_leave_the_upper_end_only():
    values, flipped, wrong = made(np.random.default_rng(0), 4000, 0.2, 200, 4.0, shift=-2.0)
    found = count_by_planted(values, flipped, 0)
    assert (found.holds, found.count, found.low) == ("upper end", 0, 0) and wrong <= found.high < 4000
    same = count_by_planted(*made(np.random.default_rng(0), 4000, 0.2, 200, 4.0)[:2], 0, easier=True)
    assert same.holds == "upper end" and same.low == 0


def test_a_score_that_hardly_tells_right_from_wrong_counts_nothing():
    values, flipped, _ = made(np.random.default_rng(0), 4000, 0.2, 200, 0.7)
    found = count_by_planted(values, flipped, 0)
    assert (found.holds, found.low, found.high) == ("overlap", 0, 4000) and not found.seen


def test_ties_are_broken_at_random_and_the_seed_says_how():
    values, flipped, wrong = made(np.random.default_rng(2), 3000, 0.1, 200, 4.0)
    found = count_by_planted(values.round(), flipped, 0)
    assert found.low <= wrong <= found.high and found == count_by_planted(values.round(), flipped, 0)
    assert count_by_planted(np.zeros(3000), flipped, 0).holds == "overlap"


@pytest.mark.parametrize("planted", [[], [0, 1, 2], list(range(95))])
def test_too_few_are_refused(planted):
    flipped = np.zeros(100, dtype=bool)
    flipped[planted] = True
    with pytest.raises(ValueError, match="at least 10"):
        count_by_planted(np.arange(100.0), flipped, 0)
    with pytest.raises(ValueError, match="a number"):
        count_by_planted(np.full(100, np.nan), np.arange(100) < 50, 0)


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says():
    draw, hits, uppers, cases = np.random.default_rng(0), dict.fromkeys(SHAPES, 0), 0, 0
    for n, planted in ((1500, 45), (6000, 120)):
        for rate in (0.0, 0.02, 0.1, 0.4):
            for shape in SHAPES:
                for gap in (1.6, 2.5, 4.0):
                    for seed in range(8):
                        values, flipped, wrong = made(draw, n, rate, planted, gap, shape, mended=1 / 9)
                        found = count_by_planted(values, flipped, seed, mended=1 / 9)
                        hits[shape] += found.low < wrong + 0.5 and wrong <= found.high
                        uppers, cases = uppers + (wrong <= found.high), cases + 1
    assert uppers / cases >= 0.975
    assert all(count / (cases / len(SHAPES)) >= 0.95 for count in hits.values()), hits


def test_aums_threshold_counts_what_is_below_nearly_all_threshold_examples():
    draw = np.random.default_rng(0)
    values, planted, groups = draw.normal(size=2000), np.arange(2000) % 10 == 0, np.arange(2000) % 3
    values[planted] += 3
    values[1:2000:20] += 4
    found = below_threshold(values, planted, groups, 0)
    assert found.threshold == pytest.approx(np.quantile(values[planted], 0.01))
    rest = values[~planted] >= found.threshold
    assert found.total[0] == pytest.approx(rest.sum() * 10 / 9, rel=0.01) and found.total[1] < found.total[0] < found.total[2]
    assert found.by_group[:, 0].sum() == pytest.approx(found.total[0])
    assert found.by_group[1, 0] == pytest.approx((values[~planted & (groups == 1)] >= found.threshold).sum() * 10 / 9, rel=0.01)


def test_the_threshold_of_a_group_without_others_is_no_division():
    groups, planted = np.array([0] * 20 + [1] * 10), np.array([False] * 20 + [True] * 10)
    found = below_threshold(np.arange(30.0), planted, groups, 0)
    assert found.by_group[1].tolist() == [0, 0, 0] and found.total[0] == 0


@pytest.mark.slow
def test_the_interval_of_aums_threshold_covers_as_often_as_it_says():
    # What is below the true percentile of planted ones, in samples of a distribution that is known.
    draw, hits = np.random.default_rng(0), 0
    for seed in range(200):
        values, planted = draw.exponential(size=3000), np.arange(3000) % 8 == 0
        found = below_threshold(values, planted, np.zeros(3000, dtype=np.int64), seed)
        hits += found.total[1] <= 3000 * 0.99 <= found.total[2]
    assert hits >= 0.9 * 200
