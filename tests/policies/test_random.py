import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.needs import Need
from assay.core.selection import choose
from assay.policies.random import Random, interleaved
from policies.worlds import run, scores

VARIANTS = [{}, {"stratified": True}]
REFUSED = ["keep=-0.1,seed=0", "seed=0.5,keep=0.3"]


def test_every_example_has_the_same_chance():
    made = scores(torch.zeros(20))
    times = sum(choose(Random(0.3, seed), made).kept.double() for seed in range(600))
    expected, spread = 600 * 0.3, np.sqrt(600 * 0.3 * 0.7)
    assert float(((times - expected) / spread).abs().max()) < 4.5
    assert float(((times - expected) / spread).square().mean()) < 2.5


def test_dropping_an_example_leaves_the_others_in_their_order():
    whole, part = scores(torch.zeros(50)), scores(torch.zeros(49), ids=[i for i in range(50) if i != 17])
    kept = set(choose(Random(0.5, 1), whole).kept_ids)
    again = set(choose(Random(25 / 49, 1), part).kept_ids)
    assert kept - {17} <= again


def test_unstratified_runs_without_a_recording_and_says_why():
    decision = choose(Random(0.5, 4), scores(torch.zeros(4)))
    assert set(decision.reasons) == {"drawn at random, seed 4", "not drawn at random, seed 4"}


def test_only_strata_need_the_labels():
    assert Random(0.5, 4).reads == frozenset() and Random(0.5, 4) == Random(0.5, 4)
    assert Random(0.5, 4, stratified=True).reads == {Need.LABELS}


def test_stratified_keeps_the_balance():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    made = scores(torch.zeros(100))
    for seed in range(5):
        kept = choose(Random(0.5, seed, stratified=True), made, run(made.ids, labels=labels)).kept
        assert torch.bincount(labels[kept]).tolist() == [30, 15, 5]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_every_beginning_is_in_proportion(given_labels):
    labels = torch.tensor(given_labels)
    counts = torch.bincount(labels, minlength=4)
    order = interleaved(labels)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for end in range(len(labels) + 1):
        share = end * counts / len(labels)
        taken = torch.bincount(labels[order[:end]], minlength=4)
        assert float((taken - share).abs().max()) < 2
