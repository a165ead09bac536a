import numpy as np
import pytest

from assay.maths.mixtures import BINS, beyond_zero
from reference.mixtures import em


def mixed(right, wrong, seed, gap=5.0):
    """Values of right labels about -gap / 2, then of wrong ones about gap / 2."""
    draw = np.random.default_rng(seed)
    return np.concatenate([draw.normal(-gap / 2, 1, right), draw.normal(gap / 2, 0.8, wrong)])


def counted(values, groups=None, seed=0):
    return beyond_zero(values, np.zeros(len(values), dtype=np.int64) if groups is None else groups, seed)


def test_the_count_is_that_of_em_value_by_value():
    values = mixed(270, 30, 0)
    weights, means, _ = em(values.tolist(), [0.5, 0.5], [-1.0, 1.0], [1.0, 1.0], 30)
    found = counted(values)
    assert means[0] < 0 < means[1] and found.components == 2
    assert found.count == pytest.approx(300 * weights[1], abs=0.3)


def test_one_group_alone_is_no_wrong_label_though_some_cross_zero():
    draw = np.random.default_rng(1)
    for values in (draw.normal(-3, 1, 500), draw.gamma(3, 1, 500) - 9):
        found = counted(values)
        assert found.count == 0 == found.low and found.high >= max(3, (values > 0).sum()) and (found.chances == 0).all()


def test_a_handful_of_values_is_no_mixture():
    draw = np.random.default_rng(0)
    for size in (2, 3, 4, 6, 9, 15):
        found = [counted(-draw.normal(2, 1, size)) for _ in range(12)]
        assert all(one.count == 0 == one.low for one in found)


def test_chances_rise_with_the_value_and_add_up_to_the_counts():
    values, groups = mixed(400, 60, 2, gap=4.0), np.arange(460) % 3
    found = counted(values, groups)
    assert (np.diff(found.chances[values.argsort()]) >= 0).all() and 0 <= found.chances.min() <= found.chances.max() <= 1
    assert found.count == pytest.approx(found.chances.sum()) == found.by_group[:, 0].sum()
    assert found.by_group[:, 0] == pytest.approx([found.chances[groups == g].sum() for g in range(3)])
    assert (found.by_group[:, 1] <= found.by_group[:, 0]).all() and (found.by_group[:, 0] <= found.by_group[:, 2]).all()


def test_the_unit_of_the_values_does_not_matter():
    values = mixed(300, 40, 3)
    one, other = counted(values), counted(1000 * values)
    assert other.count == pytest.approx(one.count) and other.high == pytest.approx(one.high, rel=1e-6)


def test_the_interval_covers_the_number_of_wrong_labels():
    misses = 0
    for seed in range(4):
        wrong = (0, 12, 60, 150)[seed]
        values = mixed(300 - wrong, wrong, [seed, 7], gap=4.5)
        found = counted(values, seed=seed)
        misses += not found.low <= wrong <= found.high
    assert misses == 0


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says():
    draw, hits, cases = np.random.default_rng(0), 0, 0
    shapes = {
        "normal": lambda n: draw.normal(size=n),
        "tail of suspects": lambda n: (draw.gamma(3, size=n) - 3) / 3**0.5,
        "tail of clear ones": lambda n: (3 - draw.gamma(3, size=n)) / 3**0.5,
        "heavy": lambda n: draw.standard_t(5, size=n) / (5 / 3) ** 0.5,
    }
    for n in (400, 1500):
        for rate in (0.0, 0.02, 0.1, 0.4):
            for shape in shapes.values():
                for gap in (4.0, 6.0):
                    for seed in range(4):
                        wrong = draw.binomial(n, rate)
                        values = np.concatenate([shape(n - wrong) - gap / 2, shape(wrong) + gap / 2])
                        found = counted(values, seed=seed)
                        hits, cases = hits + (found.low <= wrong <= found.high), cases + 1
    assert hits / cases >= 0.95


@pytest.mark.parametrize("values", [[0.0], [2.0, 2.0], [-1.0] * 5, [-1e300, 1e300], [1e-300, -1e-300]])
def test_few_and_equal_values_have_a_count(values):
    found = counted(np.array(values))
    assert 0 <= found.low <= found.count <= found.high <= len(values) and np.isfinite(found.chances).all()


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, 0.0]])
def test_what_is_no_number_is_refused(values):
    with pytest.raises(ValueError, match="finite"):
        counted(np.array(values))


def test_the_same_seed_gives_the_same_interval():
    values = mixed(200, 30, 5)
    one, again, other = (counted(values, seed=seed) for seed in (3, 3, 4))
    assert (one.low, one.high) == (again.low, again.high) != (other.low, other.high) and BINS > 50
