import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.data.splitting import held_out, subset


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.floats(0.1, 0.9), st.integers(0, 5))
def test_every_class_gives_its_share_and_keeps_one(labels, fraction, seed):
    numbers, ids = torch.tensor(labels), Ids(range(len(labels)))
    try:
        mask = held_out(ids, numbers, fraction, seed)
    except UsageError:
        assert all(fraction * labels.count(c) < 1 or labels.count(c) == 1 for c in set(labels))
        return
    for label in set(labels):
        size, taken = labels.count(label), int(mask[numbers == label].sum())
        assert taken < size
        assert abs(taken - fraction * size) <= 1
    if all(labels.count(label) * (1 - fraction) >= 2 for label in set(labels)):
        assert int(mask.sum()) == round(fraction * len(labels))


def test_the_draw_goes_by_id_and_by_seed():
    ids, labels = Ids([f"e{i}" for i in range(100)]), torch.arange(100) % 3
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    mask = held_out(ids, labels, 0.3, 1)
    assert torch.equal(held_out(ids.take(order), labels[order], 0.3, 1), mask[order])
    assert not torch.equal(held_out(ids, labels, 0.3, 2), mask)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_fractions_outside_are_refused(fraction):
    with pytest.raises(UsageError, match=r"is outside 0\.\.1"):
        held_out(Ids([0, 1]), torch.tensor([0, 1]), fraction, 0)


def test_an_empty_test_part_is_refused():
    with pytest.raises(UsageError, match="leaves the test part empty"):
        held_out(Ids([0, 1, 2]), torch.tensor([0, 1, 0]), 0.1, 0)
    with pytest.raises(UsageError, match="each of the 2 examples has a class of its own"):
        held_out(Ids([0, 1]), torch.tensor([0, 1]), 0.5, 0)


@given(st.integers(0, 5), st.lists(st.integers(0, 3), min_size=4, max_size=60))
@settings(max_examples=40, deadline=None)
def test_subsets_nest_and_have_their_share_of_every_class(seed, classes):
    labels = torch.tensor(classes)
    ids = Ids(range(100, 100 + len(classes)))
    before = torch.zeros(len(classes), dtype=torch.bool)
    for fraction in (0.1, 0.29, 0.3, 0.7, 1.0):
        taken = subset(ids, labels, fraction, seed)
        assert bool((before <= taken).all())
        for label in set(classes):
            size = classes.count(label)
            # In whole numbers: hundredths of the size.
            assert int((labels[taken] == label).sum()) == max(1, size * round(100 * fraction) // 100)
        before = taken
    assert bool(before.all())
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(subset(ids.take(order), labels[order], 0.3, seed), subset(ids, labels, 0.3, seed)[order])


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_subset_of_nothing_or_of_more_than_all_is_refused(fraction):
    with pytest.raises(UsageError, match=r"is outside 0\.\.1, 0 excluded"):
        subset(Ids(range(4)), torch.tensor([0, 1, 0, 1]), fraction, 0)
