import numpy as np
import pytest
import torch

from assay.core.errors import UnknownName, UsageError
from assay.core.ids import Ids
from assay.data.arrays import Arrays, examples_from_arrays

ROWS = np.arange(12.0).reshape(4, 3)
LABELS = np.array([0, 1, 2, 1])


def test_rows_become_float32():
    for inputs in (ROWS, ROWS.astype(np.uint8), torch.from_numpy(ROWS), ROWS.tolist()):
        examples = examples_from_arrays(inputs, LABELS)
        assert examples.inputs.dtype == torch.float32 and examples.inputs.tolist() == ROWS.tolist()
        assert list(examples.ids) == [0, 1, 2, 3] and examples.class_names == ("0", "1", "2")


def test_uint8_images_stay_and_grey_ones_get_a_channel():
    images = np.arange(4 * 3 * 5 * 6, dtype=np.uint8).reshape(4, 3, 5, 6)
    examples = examples_from_arrays(images, ["a", "b", "a", "b"], ids="wxyz")
    assert examples.inputs.dtype == torch.uint8 and np.array_equal(examples.inputs.numpy(), images)
    assert list(examples.ids) == list("wxyz") and examples.class_names == ("a", "b")
    assert examples_from_arrays(images[:, 0], LABELS).shape == (1, 5, 6)


def test_nothing_is_shared_with_the_caller():
    rows, labels = ROWS.astype(np.float32), LABELS.copy()
    images = np.zeros((4, 1, 2, 2), np.uint8)
    examples, pictures = examples_from_arrays(rows, labels), examples_from_arrays(images, labels)
    rows[:], labels[:], images[:] = 9, 0, 9
    assert examples.inputs[0].tolist() == [0, 1, 2] and examples.labels.tolist() == [0, 1, 2, 1]
    assert int(pictures.inputs.sum()) == 0


def test_class_names_and_normalisation_are_kept():
    names = ("ant", "bee", "cat", "dog")
    examples = examples_from_arrays(ROWS, LABELS, Ids([5, 6, 7, 8]), class_names=names, mean=[1, 2, 3], std=[2, 2, 2])
    assert examples.class_names == names and examples.classes == 4
    assert examples.prepared(examples.inputs)[1].tolist() == [1, 1, 1]
    assert examples_from_arrays(ROWS[:2], [2, 2], class_names=names).labels.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("inputs", "labels", "options", "words"),
    [
        (ROWS, [0, 1, None, 1], {"ids": "wxyz"}, "1 labels are missing or NaN; id y"),
        (ROWS, [0, 1, float("nan"), 1], {}, "missing or NaN; id 2"),
        (ROWS, [0, 1, 5, 1], {"class_names": ["a", "b"]}, r"outside 0\.\.1; id 2"),
        (ROWS, [0, 1, -1, 1], {}, r"outside 0\.\.1; id 2"),
        (ROWS, [1, 1, 1, 1], {}, "all 4 labels are 1"),
        (ROWS, [0, 1], {}, r"labels of shape \(2,\) for 4 examples"),
        (ROWS, LABELS, {"ids": [1, 2]}, "2 ids for 4 inputs"),
        (ROWS, LABELS, {"ids": [1, 2, 2, 3]}, "occur more than once: 2"),
        (ROWS, LABELS, {"class_names": ["a"]}, "two or more different"),
        (ROWS, LABELS, {"class_names": ["a", "b", "a"]}, "two or more different"),
        (ROWS, LABELS, {"mean": [0, 0, 0]}, "mean and std go together"),
        (ROWS, LABELS, {"mean": [0], "std": [1]}, "1 numbers for mean or std, but inputs have 3"),
        (np.where(ROWS == 7, np.nan, ROWS), LABELS, {"ids": "wxyz"}, "1 examples are NaN, infinite or too large .*; ids y"),
        (ROWS * 1e300, LABELS, {}, "3 examples are NaN|4 examples are NaN"),
        (ROWS.astype(str), LABELS, {}, "give numbers"),
        (ROWS.astype(complex), LABELS, {}, "give numbers"),
        (ROWS[:, 0], LABELS, {}, r"inputs have shape \(4,\).*, or texts"),
        ([[1], [1, 2]], [0, 1], {}, "inputs are rows of different lengths; give all examples one shape"),
        (ROWS[:0], [], {}, r"inputs have shape \(0, 3\)"),
        (np.zeros((4, 32, 32, 3), np.uint8), LABELS, {}, "channels came last"),
    ],
)
def test_what_cannot_be_used_is_named(inputs, labels, options, words):
    with pytest.raises(UsageError, match=words):
        examples_from_arrays(inputs, labels, **options)


def saved(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return str(path / "a.npz")


def test_a_file_with_its_own_test_part(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 2, 2)).astype(np.uint8)
    path = saved(
        tmp_path,
        inputs=images,
        labels=LABELS,
        ids=np.array(["a", "b", "c", "d"]),
        true_labels=np.array([0, 1, 2, 3]),
        class_names=np.array(["p", "q", "r", "s"]),
        test_inputs=images[:2],
        test_labels=np.array([3, 3]),
    )
    split = Arrays(path).load()
    assert list(split.train.ids) == list("abcd") and list(split.test.ids) == [4, 5]
    assert split.true_labels.tolist() == [0, 1, 2, 3] and split.test.class_names == ("p", "q", "r", "s")
    assert split.train.mean == split.test.mean == (pytest.approx(images.mean() / 255),)


def test_a_file_that_is_split_by_a_fraction(tmp_path):
    labels, truth = np.arange(40) % 2, np.arange(40) % 3
    path = saved(tmp_path, inputs=np.arange(80.0).reshape(40, 2), labels=labels, true_labels=truth)
    split = Arrays(path, test=0.25, standardise=True).load()
    assert len(split.test) == 10 and split.train.classes == 3
    at = split.train.ids.values
    assert split.train.labels.tolist() == labels[at].tolist() and split.true_labels.tolist() == truth[at].tolist()
    prepared = split.train.prepared(split.train.inputs)
    assert torch.allclose(prepared.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(prepared.std(0, correction=0), torch.ones(2), atol=1e-6)
    assert Arrays(path, test=0.25).load().train.mean is None


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({}, {}, "lacks the array inputs and labels"),
        ({"inputs": ROWS}, {}, "lacks the array labels"),
        ({"inputs": ROWS, "labels": LABELS}, {}, "has no test_inputs"),
        ({"inputs": ROWS, "labels": LABELS, "test_inputs": ROWS, "test_labels": LABELS}, {"test": 0.2}, "its own test part"),
        ({"inputs": ROWS, "labels": LABELS, "test_inputs": ROWS}, {}, "go together"),
        ({"inputs": ROWS, "labels": LABELS, "test_ids": LABELS}, {"test": 0.5}, "go together"),
        (
            {"inputs": ROWS, "labels": LABELS, "true_labels": np.array(list("abab"))},
            {"test": 0.5},
            "all be numbers or all be texts",
        ),
        ({"inputs": ROWS, "labels": LABELS, "ids": np.array([1, 1, 2, 3])}, {"test": 0.5}, r"a\.npz, ids: 1 ids occur more"),
        ({"inputs": np.array(list("abcd")), "labels": LABELS}, {"test": 0.5}, r"a\.npz: inputs are <U1; give numbers"),
        ({"inputs": ROWS, "labels": LABELS + 0.5}, {"test": 0.5}, r"a\.npz, labels: 4 of 4 labels are no whole numbers"),
        ({"inputs": ROWS, "labels": LABELS[:3]}, {"test": 0.5}, "give each one label"),
        ({"inputs": ROWS, "labels": np.int64(3)}, {"test": 0.5}, "labels is a single value"),
        ({"inputs": ROWS, "labels": np.array([0, 1, None, 1], object)}, {"test": 0.5}, r"cannot be read as \.npz"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, arrays, options, words):
    with pytest.raises(UsageError, match=words):
        Arrays(saved(tmp_path, **arrays), **options).load()


def test_an_unknown_array_is_not_passed_over(tmp_path):
    with pytest.raises(UnknownName, match=r"named 'lables'\. Did you mean labels"):
        Arrays(saved(tmp_path, inputs=ROWS, lables=LABELS)).load()


def test_files_of_another_kind(tmp_path):
    saved(tmp_path, inputs=ROWS, labels=LABELS)
    whole = (tmp_path / "a.npz").read_bytes()
    for body in (b"", b"hello", whole[:-30], whole[:200]):
        (tmp_path / "b.npz").write_bytes(body)
        with pytest.raises(UsageError, match=r"b\.npz cannot be read as \.npz"):
            Arrays(str(tmp_path / "b.npz"), test=0.5).load()
    np.save(tmp_path / "c.npy", ROWS)
    with pytest.raises(UsageError, match="holds a single array"):
        Arrays(str(tmp_path / "c.npy"), test=0.5).load()
