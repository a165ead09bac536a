import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.data.labels import Origin, checked, class_names, encode


def origin(values):
    return Origin("some.csv", [10 + i for i in range(len(values))], "line")


@pytest.mark.parametrize(
    "values",
    [[0, 2, 1], np.array([0, 2, 1], np.uint8), torch.tensor([0, 2, 1]), np.array([0, np.int32(2), 1], object)],
    ids=["list", "uint8", "tensor", "object"],
)
def test_numbers_of_any_container(values):
    read = checked(values, origin(values))
    assert read.dtype == np.int64 and read.tolist() == [0, 2, 1]
    assert encode(read, class_names("x", read), origin(values)).tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    "values",
    [
        [False, True, True],
        [np.False_, True, np.True_],
        np.array([False, True, True]),
        torch.tensor([False, True, True]),
        [0.0, 1.0, 1.0],
        [0.0, np.float32(1), 1.0],
        np.array([0, 1, 1], np.float16),
        torch.tensor([0.0, 1.0, 1.0]),
    ],
)
def test_false_and_true_and_whole_fractions_are_classes(values):
    read = checked(values, origin(values))
    assert read.dtype == np.int64 and read.tolist() == [0, 1, 1]
    assert class_names("x", read) == ("0", "1")


def test_texts_are_numbered_in_sorted_order():
    read = checked(["dog", "cat", "dog"], origin("123"))
    assert class_names("x", read) == ("cat", "dog")
    assert encode(read, ("cat", "dog"), origin("123")).tolist() == [1, 0, 1]


def test_texts_that_are_numbers_are_sorted_as_numbers():
    assert class_names("x", np.array(["10", "9", "-1", "10"])) == ("-1", "9", "10")


def test_numbers_without_an_example_are_classes_too():
    assert class_names("x", np.array([0, 3])) == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, None, 1, None], r"2 labels are missing or NaN; line 11, 13"),
        ([0, float("nan"), 1], r"missing or NaN; line 11"),
        (["a", "", "b"], r"missing or NaN; line 11"),
        (np.array([0.0, np.nan]), r"missing or NaN; line 11"),
        (
            np.array([0.0, 1.5, 2.25]),
            r"2 of 3 labels are no whole numbers \(the first is 1\.5, line 11\), as the numbers of a regression are",
        ),
        ([0.5, 1.0], r"1 of 2 labels are no whole numbers \(the first is 0\.5, line 10\)"),
        (np.array([0.0, np.inf]), "line 11 is inf"),
        (np.array([0.0, 1e300]), r"line 11 is 1e\+300"),
        (np.array([0j, 1]), "labels are complex128"),
        ([True, 1], "line 11 is 1"),
        ([1, True], "line 11 is True"),
        ([1.0, 0], "line 11 is 0"),
        ([0, "a"], "line 11 is 'a'"),
        (["a", 0], "line 11 is 0"),
        ([0, 1.5], "line 11 is 1.5"),
        (np.array([[0], [1]]), "give each one label"),
        (np.array([0, 2**63], np.uint64), "line 11 is no 64-bit number"),
        ([0, 2**70], "line 11 is no 64-bit number"),
    ],
)
def test_labels_that_cannot_be_read_name_their_place(values, words):
    with pytest.raises(UsageError, match=words):
        checked(values, origin(values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "there is no label"),
        ([3, 3, 3], "all 3 labels are 3"),
        (list(range(50)), "look like measurements or ids"),
        ([0, 2014], "go up to 2014, but only 2 numbers occur"),
    ],
)
def test_labels_that_are_no_classes(values, words):
    with pytest.raises(UsageError, match=words):
        class_names("some.csv", np.array(values))


@pytest.mark.parametrize(
    ("values", "names", "words"),
    [
        (np.array([0, 2, -1]), ("a", "b"), r"2 labels are outside 0\.\.1; line 11, 12 \(the first is 2\)"),
        (np.array([-2, -1]), class_names("x", np.array([-2, -1])), r"2 labels are outside 0\.\.1"),
        (np.array(["a", "c"]), ("a", "b"), r"not among the classes a, b; line 11 \(the first is 'c'\)"),
    ],
)
def test_labels_outside_the_classes_name_their_place(values, names, words):
    with pytest.raises(UsageError, match=words):
        encode(values, names, origin(values))
