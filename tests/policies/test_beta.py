import math

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.policies.beta import EDGE, Beta, beta_shape, beta_weights
from policies.worlds import golden, run, scores

VARIANTS = [{}, {"c_d": 11.0, "anchors": 1}, {"by_class": True}]
REFUSED = ["anchors=0,keep=0.3,seed=0", "c_d=0,keep=0.3,seed=0"]

KEYS = [key for key in golden() if key.startswith("beta_ab_")]
WEIGHTS = [key for key in golden() if key.startswith("beta_w_")]


def parts(key):
    c_d, pruned = key.split("_")[2:]
    return float(c_d[2:]), float(pruned[1:])


@pytest.mark.parametrize("key", KEYS)
def test_golden_shape(key):
    c_d, pruned = parts(key)
    alpha, beta = beta_shape(float(golden()["beta_anchor_mean"]), 1 - pruned, c_d)
    assert [alpha, beta] == pytest.approx(golden()[key].tolist(), abs=1e-10)


@pytest.mark.parametrize("key", WEIGHTS)
def test_golden_weights(key):
    c_d, pruned = parts(key)
    weights = beta_weights(golden()["beta_pred_mean"], golden()["dual"], 1 - pruned, c_d)
    torch.testing.assert_close(weights, golden()[key], atol=1e-10, rtol=0)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)


def test_against_the_density_of_scipy():
    from scipy.stats import beta as density

    draw = np.random.default_rng(0)
    probs, values = draw.uniform(size=30), draw.uniform(size=30)
    alpha, beta = beta_shape(probs[np.argsort(-values)[:3]].mean(), 0.4, 2.0, 8.0)
    expected = density.pdf(probs, alpha, beta) * values
    weights = beta_weights(torch.from_numpy(probs), torch.from_numpy(values), 0.4, 2.0, c_0=8.0, anchors=3)
    np.testing.assert_allclose(weights.numpy(), expected / expected.sum(), rtol=1e-10)


def test_edges():
    probs, ones = torch.linspace(0, 1, 12, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
    for keep in (0.0, 1e-9, 0.5, 1.0):
        weights = beta_weights(probs, ones, keep, 4.0)
        assert bool(weights.isfinite().all()) and float(weights.sum()) == pytest.approx(1)
    # At keep = 0, beta is 0: the density is infinite at 1, which is why probabilities keep off the edge.
    assert int(beta_weights(probs, ones, 0.0, 4.0).argmax()) == 11
    within = beta_weights(torch.cat([torch.tensor([0.0, EDGE], dtype=torch.float64), probs[2:]]), ones, 0.5, 4.0)
    assert float(within[0]) == float(within[1]) > 0


def test_a_factor_of_the_scores_cancels():
    probs = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for factor in (10.0, 1e-200, 1e200):
        torch.testing.assert_close(beta_weights(probs, factor * values, 0.3, 4.0), beta_weights(probs, values, 0.3, 4.0))


def test_zero_scores():
    probs = torch.full((12,), 0.3, dtype=torch.float64)
    values = torch.tensor([0.0] * 8 + [1.0] * 4, dtype=torch.float64)
    assert beta_weights(probs, values, 0.5, 4.0).tolist() == pytest.approx([0] * 8 + [0.25] * 4)
    assert beta_weights(probs, 0 * values, 0.5, 4.0).tolist() == pytest.approx([1 / 12] * 12)


def decide(policy, values, probs, ids=None, **options):
    made = scores(values, ids=ids, **options)
    return choose(policy, made, run(made.ids, target_probs=torch.from_numpy(np.array(probs, dtype=float))))


def test_zero_scores_are_drawn_last_and_by_the_density_alone():
    values = [0.0] * 8 + [1.0] * 4
    probs = [[0.01] * 4 + [0.4] * 4 + [0.4] * 4]
    for seed in range(20):
        kept = set(decide(Beta(0.5, seed), values, probs).kept_ids)
        assert {8, 9, 10, 11} <= kept and len(kept) == 6
        assert not kept & {0, 1, 2, 3}  # the density is 1e-5 of the others'
        assert set(decide(Beta(0.25, seed), values, probs).kept_ids) < {8, 9, 10, 11}


def sequential(weights, picks):
    """Chance of each set under one draw after another without replacement."""
    import itertools

    chances = {}
    for order in itertools.permutations(range(len(weights)), picks):
        chance, left = 1.0, 1.0
        for one in order:
            chance *= weights[one] / left
            left -= weights[one]
        chances[frozenset(order)] = chances.get(frozenset(order), 0.0) + chance
    return chances


@pytest.mark.slow
def test_the_draw_is_one_after_another_by_weight():
    probs, values = [0.2, 0.3, 0.5, 0.6], [0.2, 1.0, 0.6, 0.4]
    weights = beta_weights(torch.tensor(probs).double(), torch.tensor(values).double(), 0.5, 4.0, anchors=2).tolist()
    expected, draws = sequential(weights, 2), 1500
    seen = dict.fromkeys(expected, 0)
    for seed in range(draws):
        seen[frozenset(decide(Beta(0.5, seed, anchors=2), values, [probs]).kept_ids)] += 1
    chi_square = sum((seen[pair] - draws * chance) ** 2 / (draws * chance) for pair, chance in expected.items())
    assert sum(expected.values()) == pytest.approx(1)
    assert chi_square < 20.5  # 5 degrees of freedom: passed by chance in 99.9 % of cases


def test_the_mean_is_over_the_epochs_that_the_score_read():
    draw = np.random.default_rng(3)
    values, early = draw.uniform(size=40), draw.uniform(size=(2, 40))
    late = np.full((3, 40), 0.5)
    both = np.concatenate([early, late])
    first = decide(Beta(0.5, 0), values, both, epochs=2)
    assert torch.equal(first.kept, decide(Beta(0.5, 0), values, early).kept)
    assert not torch.equal(first.kept, decide(Beta(0.5, 0), values, both).kept)


def test_anchors_at_a_tie_are_taken_by_id():
    values, ids = [1.0] * 12, list(range(12))
    probs = np.linspace(0.05, 0.95, 12)
    order = np.random.default_rng(0).permutation(12)
    one = decide(Beta(0.5, 0, anchors=3), values, [probs], ids)
    two = decide(Beta(0.5, 0, anchors=3), values, [probs[order]], [ids[i] for i in order])
    assert set(one.kept_ids) == set(two.kept_ids)


@pytest.mark.parametrize("bad", [{"c_d": 0.0}, {"c_d": math.nan}, {"c_d": math.inf}, {"c_0": -1.0}, {"c_0": 0.0}, {"anchors": 0}])
def test_options_outside_their_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Beta(**{"keep": 0.5, "seed": 0, **bad})


def test_what_cannot_be_weighted_is_refused():
    half = torch.full((12,), 0.5, dtype=torch.float64)
    with pytest.raises(UsageError, match=r"anchors in 1\.\.5"):
        beta_weights(half[:5], half[:5], 0.5, 4.0)
    with pytest.raises(UsageError, match=r"outside 0\.\.1; positions 0"):
        beta_weights(half.index_fill(0, torch.tensor([0]), 1.1), half, 0.5, 4.0)
    with pytest.raises(UsageError, match="negative or not finite; positions 3"):
        beta_weights(half, half.index_fill(0, torch.tensor([3]), -0.1), 0.5, 4.0)
    with pytest.raises(UsageError, match="keep"):
        beta_weights(half, half, 1.5, 4.0)


def test_negative_scores_are_named_by_id():
    ids = ["cat", "ant", "bee", "dog"]
    held = run(ids, target_probs=torch.full((3, 4), 0.5, dtype=torch.float64))
    with pytest.raises(UsageError, match=r"2 values of made are negative; ids ant, cat\."):
        choose(Beta(keep=0.5, seed=0, anchors=2), scores([-1.0, -2.0, 0.5, 0.1], ids=ids), held)
