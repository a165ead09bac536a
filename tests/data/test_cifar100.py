import pickle

import numpy as np
import pytest

from assay.core.errors import UnknownName, UsageError
from assay.data.cifar100 import CIFAR100, COARSE, FINE
from data.test_cifar10 import ROWS, number, old_array, packed, text, unpacked, write


def old_batch(rows, fine, coarse):
    """A part as Python 2 wrote it."""
    lists = b"".join(
        text(key) + b"](" + b"".join(map(number, labels)) + b"e"
        for key, labels in ((b"fine_labels", fine), (b"coarse_labels", coarse))
    )
    names = text(b"filenames") + b"](" + text(b"bos_taurus_s_000507.png") + b"e"
    return b"\x80\x02}(" + names + text(b"data") + old_array(rows) + lists + b"u."


def bodies(**other):
    meta = {"fine_label_names": FINE.split(), "coarse_label_names": COARSE.split()}
    made = {"train": old_batch(ROWS[:4], [0, 99, 5, 0], [4, 13, 6, 4]), "test": old_batch(ROWS[4:6], [19, 1], [11, 1])}
    return made | {"meta": pickle.dumps(meta, protocol=2)} | other


@pytest.mark.parametrize("layout", ["folder", "archive"])
@pytest.mark.parametrize(
    ("classes", "labels", "test_labels", "count"), [("fine", [0, 99, 5, 0], [19, 1], 100), ("coarse", [4, 13, 6, 4], [11, 1], 20)]
)
def test_the_official_archive(tmp_path, layout, classes, labels, test_labels, count):
    path = (unpacked if layout == "folder" else packed)(
        tmp_path / ("cifar-100-python" if layout == "folder" else "cifar-100-python.tar.gz"), bodies()
    )
    for where in (path, tmp_path):
        split = CIFAR100(str(where), classes).load()
        assert np.array_equal(split.train.inputs.numpy().reshape(4, 3072), ROWS[:4])
        assert split.train.labels.tolist() == labels and split.test.labels.tolist() == test_labels
        assert len(split.train.class_names) == count and list(split.test.ids) == [4, 5] and split.true_labels is None
    assert CIFAR100(str(path), "coarse").load().train.class_names[1] == "fish"


def test_parquet_with_labels_of_people(tmp_path):
    write(tmp_path / "train.parquet", ROWS[:3], [0, 0, 0], fine_label=[0, 99, 5], coarse_label=[4, 13, 6], noisy_label=[0, 98, 5])
    write(tmp_path / "test.parquet", ROWS[3:5], [0, 0], fine_label=[19, 1], coarse_label=[11, 1])
    split = CIFAR100(str(tmp_path), labels="noisy_label").load()
    assert (
        split.train.labels.tolist() == [0, 98, 5]
        and split.true_labels.tolist() == [0, 99, 5]
        and split.test.labels.tolist() == [19, 1]
    )
    assert CIFAR100(str(tmp_path), "coarse").load().train.labels.tolist() == [4, 13, 6]


def test_damage_and_absence_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"is absent\. .*cifar-100-python\.tar\.gz \(MD5 eb9058c3a382ffc7106e4002c42a8d85\)"):
        CIFAR100(str(tmp_path / "none")).load()
    with pytest.raises(UsageError, match="is no CIFAR-100: it holds neither cifar-100-python, "):
        CIFAR100(str(tmp_path)).load()
    with pytest.raises(UsageError, match="classes='rough' is neither"):
        CIFAR100(str(tmp_path), "rough")
    folder = unpacked(tmp_path / "cifar", bodies(test=old_batch(ROWS[4:6], [19, 100], [0, 1])))
    with pytest.raises(UsageError, match=r"test: 1 labels are outside 0\.\.99; row 1"):
        CIFAR100(str(folder)).load()
    with pytest.raises(UnknownName, match="label column"):
        CIFAR100(str(folder), labels="noisy_label").load()
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": COARSE.split()}))
    with pytest.raises(UsageError, match="instead of those of CIFAR-100"):
        CIFAR100(str(folder)).load()
