import numpy as np
import torch

from assay.maths.games import agreement, bootstrap, label_probs, out_of_bag_means, out_of_bag_sums


def test_a_bootstrap_sample_has_as_many_draws_as_players_and_is_a_function_of_its_arguments():
    counts = torch.stack([bootstrap(50, 3, bag) for bag in range(400)])
    assert bool((counts.sum(1) == 50).all()) and counts.dtype == torch.int64
    assert torch.equal(bootstrap(50, 3, 7), counts[7]) and not torch.equal(bootstrap(50, 4, 7), counts[7])
    # The share of players left out is (1 - 1/n)^n, every player's alike; a player's counts have variance 1 - 1/n.
    out = (counts == 0).double().mean(0)
    assert abs(float(out.mean()) - (1 - 1 / 50) ** 50) < 0.01
    assert bool((out - (1 - 1 / 50) ** 50).abs().max() < 5 * (0.24 / 400) ** 0.5)
    assert abs(float(counts.double().var(0).mean()) - (1 - 1 / 50)) < 0.05


def test_agreement_shares_a_vote_among_ties():
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    labels = torch.tensor([1, 2, 1, 0])
    assert agreement(probs, labels).tolist() == [0.5, 1.0, 0.0, 1 / 3]
    assert agreement(probs.expand(2, 4, 3), labels).shape == (2, 4)
    assert label_probs(probs, labels).tolist() == [0.5, 0.5, 0.3, 1 / 3]


def test_means_over_groups_are_those_over_bags_and_their_error_is_that_of_a_ratio():
    draw = np.random.default_rng(0)
    truth, off = 0.3, []
    for _ in range(600):
        terms = torch.from_numpy((draw.random((40, 1)) < truth).astype(np.float64))
        outside = torch.from_numpy(draw.random((40, 1)) < 0.37)
        parts = [out_of_bag_sums(terms[group::10], outside[group::10]) for group in range(10)]
        means, groups = out_of_bag_means(torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts]))
        torch.testing.assert_close(means, terms[outside][None].mean(1))
        torch.testing.assert_close(groups.mean(0), means)
        off.append((float(means) - truth, float(groups.var(0) / 10)))
    apart, errors = np.array(off).T
    # A term only counts where it is outside, so that the mean is right; its error is, over many, what it says.
    assert abs(apart.mean()) < 4 * apart.std() / 600**0.5
    assert 0.85 < errors.mean() / apart.var() < 1.15


def test_an_example_in_every_bag_has_no_mean():
    means, groups = out_of_bag_means(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))
    assert bool(means.isnan().all()) and bool(groups.isnan().all())
