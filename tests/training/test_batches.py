import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.training import Recipe
from assay.training.batches import batches, order, sizes


@given(st.integers(1, 500), st.integers(1, 70))
def test_sizes_cover_what_they_promise(examples, batch):
    keep, even = sizes(examples, batch, "keep"), sizes(examples, batch, "even")
    assert sum(keep) == sum(even) == examples
    assert len(keep) == len(even) == -(-examples // batch)
    assert set(keep[:-1]) <= {batch} and 1 <= keep[-1] <= batch
    assert max(even) - min(even) <= 1 and max(even) <= batch
    if examples >= batch:
        drop = sizes(examples, batch, "drop")
        assert set(drop) == {batch} and 0 <= examples - sum(drop) < batch


def test_no_step_is_an_error():
    with pytest.raises(UsageError, match="do not fill one batch of 4"):
        sizes(3, 4, "drop")
    with pytest.raises(UsageError, match="no examples"):
        sizes(0, 4, "keep")


def test_the_order_goes_with_the_ids_and_changes_by_epoch_and_seed():
    ids = Ids([f"file{i}" for i in range(20)])
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    by_id = [ids.values[i] for i in order(ids.keys, 3, 1)]
    moved = ids.take(shuffled)
    assert [moved.values[i] for i in order(moved.keys, 3, 1)] == by_id
    assert len({tuple(order(ids.keys, seed, epoch).tolist()) for seed in (3, 4) for epoch in (0, 1)}) == 4


def test_batches_cut_the_order():
    keys = Ids(range(10)).keys
    for last_batch, cut in (("keep", [4, 4, 2]), ("drop", [4, 4]), ("even", [4, 3, 3])):
        parts = batches(keys, Recipe(epochs=1, lr=0.1, batch=4, last_batch=last_batch), 0)
        assert [len(part) for part in parts] == cut
        assert torch.equal(torch.cat(parts), order(keys, 0, 0)[: sum(cut)])
