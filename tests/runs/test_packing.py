import collections

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import RunError, UsageError
from assay.runs.packing import pack, unpack

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.lists(st.integers(0, 9), max_size=3).map(lambda values: torch.tensor(values, dtype=torch.float64))
)
KEYS = st.sampled_from(["a", "b", "a/b", "0", "", "tensor", "items"]) | st.integers(0, 1)
STATES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and [*one] == [*other] and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(["model", "optimizer", "a/b"]), STATES, max_size=3))
def test_any_state_comes_back(state):
    assert same(unpack(*pack(state)), state)


def test_paths_do_not_collide():
    state = {"x": {"a": {"b": torch.zeros(1)}, "a/b": torch.ones(1), "0": torch.ones(2), 0: torch.ones(3)}}
    assert same(unpack(*pack(state)), state)


def test_tensors_are_copies_that_share_nothing():
    tied = torch.zeros(3, requires_grad=True)
    tensors, _ = pack({"model": collections.OrderedDict(one=tied, two=tied)})
    assert len({tensor.data_ptr() for tensor in tensors.values()} | {tied.data_ptr()}) == 3
    assert not any(tensor.requires_grad for tensor in tensors.values())


@pytest.mark.parametrize("thing", [object(), {1, 2}, torch.float32, lambda: None, {(1, 2): 3}, {None: 1}, {True: 1}, b"x"])
def test_what_would_need_pickle_is_refused_by_its_path(thing):
    with pytest.raises(UsageError, match=r"^also scheduler/state/0 of the checkpoint"):
        pack({"also scheduler": {"state": [thing]}})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": {"tensor": "b"}}', '{"a": 3}', '{"a": {"items": [[1]]}}', '{"a": {}}'])
def test_a_text_that_does_not_fit_is_damage(text):
    with pytest.raises(RunError, match="A checkpoint is damaged"):
        unpack({}, text)
