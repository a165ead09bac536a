import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from assay.core.errors import Mismatch, UsageError
from assay.core.ids import Ids, dataset_fingerprint

NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=20)
TEXTS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6), unique=True, max_size=20)


@hypothesis.given(NUMBERS | TEXTS)
def test_ids_come_back_as_they_were_given(values):
    ids = Ids(values)
    assert list(ids) == values and len(ids) == len(values) and ids.numeric == (not values or isinstance(values[0], int))
    assert Ids(ids.values) == ids and Ids(np.array(values, dtype=object)) == ids


@hypothesis.given(NUMBERS | TEXTS, st.randoms(use_true_random=False))
def test_positions_ranks_and_take(values, shuffler):
    ids, other = Ids(values), values.copy()
    shuffler.shuffle(other)
    assert ids.take(ids.positions(Ids(other))) == Ids(other)
    assert [sorted(values)[rank] for rank in ids.ranks.tolist()] == values
    half = [value for place, value in enumerate(values) if place % 2]
    assert list(ids.take(torch.arange(len(values)) % 2 == 1)) == half
    assert [values[place] for place in ids.positions(Ids(half)).tolist()] == half


@hypothesis.given(NUMBERS | TEXTS, NUMBERS | TEXTS)
def test_fingerprints_tell_ids_apart(one, two):
    assert (Ids(one).fingerprint == Ids(two).fingerprint) == (one == two) == (Ids(one) == Ids(two))
    if one == two:
        assert hash(Ids(one)) == hash(Ids(two))


@hypothesis.given(
    st.lists(st.integers(), unique=True, min_size=2, max_size=20).filter(lambda v: all(abs(x) < 2**63 for x in v)), st.data()
)
def test_a_dataset_keeps_its_fingerprint_in_any_order(values, data):
    ids, labels = Ids(values), torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values))))
    order = torch.tensor(data.draw(st.permutations(range(len(values)))))
    base = dataset_fingerprint(ids, labels)
    assert dataset_fingerprint(ids.take(order), labels[order]) == base
    changed = labels.clone()
    changed[0] += 1
    assert dataset_fingerprint(ids, changed) != base
    assert Ids(values[::-1]).fingerprint != ids.fingerprint


def test_the_order_that_breaks_ties():
    assert Ids([10, -3, 2]).ranks.tolist() == [2, 0, 1]
    assert Ids(["10", "9", "a", "Z"]).ranks.tolist() == [0, 1, 3, 2]  # by code point, not by number


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 2, 1], "1 ids occur more than once: 1"),
        (["b", "a", "b", "a"], "2 ids occur more than once: a, b"),
        ([1.5, 2.0], "not 1 axes of float64"),
        ([True, False], "not 1 axes of bool"),
        (np.array([[1], [2]]), "not 2 axes of int64"),
        ([None, None], "not 1 axes of object"),
        ([1, "1"], "Ids mix strings such as '1' and others such as 1"),
        (["a", None], "Ids mix strings such as 'a' and others such as None"),
        (["a", "b\0"], r"Id 'b\\x00' holds a NUL or a broken character"),
        (["a\0b"], "holds a NUL"),
        (["caf\udce9.png"], "broken character"),
        ([2**63], "Id 9223372036854775808 does not fit 64 bits"),
        (np.array([1, 2**64 - 1], dtype=np.uint64), "Id 18446744073709551615 does not fit 64 bits"),
        ([2**64], "not 1 axes of object"),
    ],
)
def test_what_is_no_id_is_refused(values, words):
    with pytest.raises(UsageError, match=words):
        # As an array, because the run-time type checker of the tests looks into lists and is faster.
        Ids(values if isinstance(values, np.ndarray) else np.array(values, dtype=object))


def test_lists_and_tensors():
    assert Ids([3, 1]) == Ids(torch.tensor([3, 1])) == Ids(range(3, 0, -2)) == Ids(np.array([3, 1], dtype=np.uint8))
    assert Ids(["b", "a"]) == Ids(iter("ba")) == Ids(np.array(["b", "a"]))
    with pytest.raises(UsageError, match="Ids mix"):
        Ids([1, "1"])


def test_ids_are_immutable_and_of_their_own():
    given = np.array([1, 2, 3])
    ids = Ids(given)
    given[0] = 9
    assert list(ids) == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        ids.values[0] = 9


def test_numbers_are_no_texts():
    assert Ids([1]) != Ids(["1"]) and Ids([]) == Ids(np.array([], dtype="U3"))
    with pytest.raises(Mismatch, match="1 are not ids of the run, whose ids look like"):
        Ids(["1", "2"]).positions(Ids([1]), "the run")


def test_an_id_that_is_not_there_is_named():
    with pytest.raises(Mismatch, match=r"2 ids are not in the run: 8, 9. Its ids look like Ids\(1, 2, 3\)"):
        Ids([1, 2, 3]).positions(Ids([3, 8, 9]), "the run")
    with pytest.raises(Mismatch, match="not ids of this set"):
        Ids([]).positions(Ids([1]))
    assert Ids(["a"]).positions(Ids([])).tolist() == []


def test_many_ids_are_shown_in_short():
    assert repr(Ids(range(100))) == "Ids(0, 1, 2, 3 and 96 more)" and repr(Ids([])) == "Ids()"


@hypothesis.given(NUMBERS | TEXTS)
def test_keys_do_not_depend_on_the_order(values):
    keys = Ids(values).keys
    assert keys.dtype == np.uint64 and len(set(keys.tolist())) == len(values)
    assert np.array_equal(Ids(values[::-1]).keys, keys[::-1])


@hypothesis.given(NUMBERS.filter(len) | TEXTS.filter(len), st.data())
def test_ids_read_like_a_list_of_them(values, data):
    ids, place = Ids(values), data.draw(st.integers(-len(values), len(values) - 1))
    assert ids[place] == values[place] == ids[np.int64(place)] == ids[torch.tensor(place)] and type(ids[place]) is type(
        values[place]
    )
    part = data.draw(st.slices(len(values)))
    assert list(ids[part]) == values[part] and isinstance(ids[part], Ids)
    places = data.draw(st.lists(st.integers(0, len(values) - 1), unique=True))
    mask = [at in places for at in range(len(values))]
    expected = [values[at] for at in places]
    assert (
        list(ids[places])
        == list(ids[np.array(places, np.int64)])
        == list(ids[torch.tensor(places, dtype=torch.int64)])
        == expected
    )
    assert list(ids[mask]) == list(ids[torch.tensor(mask)]) == [value for value, taken in zip(values, mask, strict=True) if taken]
    assert values[place] in ids and object() not in ids and True not in ids and None not in ids
    for beyond in (len(values), -len(values) - 1):
        with pytest.raises(IndexError):
            ids[beyond]


@hypothesis.given(NUMBERS, st.integers(-(2**63), 2**63 - 1))
def test_ids_go_into_arrays_and_tensors(values, other):
    ids = Ids(values)
    assert (
        np.asarray(ids).dtype == np.int64 and np.asarray(ids).tolist() == values and np.array(ids, np.float64).dtype == np.float64
    )
    assert torch.tensor(ids, dtype=torch.int64).tolist() == torch.as_tensor(np.array(ids)).tolist() == values
    assert (other in ids) == (other in values) and str(other) not in ids
    texts = Ids([str(value) for value in values] or ["x"])
    assert np.asarray(texts).dtype.kind == "U" and 5 not in texts
