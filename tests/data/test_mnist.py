import gzip
import struct

import numpy as np
import pytest

from assay.core.errors import UsageError
from assay.data.fashion_mnist import FashionMNIST
from assay.data.mnist import MNIST

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 6)).astype(np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2], np.uint8)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, *, zipped=False, **wrong):
    bodies = {
        "train-images-idx3-ubyte": idx(IMAGES),
        "train-labels-idx1-ubyte": idx(LABELS),
        "t10k-images-idx3-ubyte": idx(IMAGES[:3]),
        "t10k-labels-idx1-ubyte": idx(LABELS[:3]),
    }
    bodies |= {name.replace("_", "-"): body for name, body in wrong.items()}
    for name, body in bodies.items():
        path = folder / (name + ".gz" if zipped else name)
        path.write_bytes(gzip.compress(body) if zipped else body)
    return MNIST(str(folder))


@pytest.mark.parametrize("zipped", [False, True])
def test_the_four_files(tmp_path, zipped):
    split = write(tmp_path, zipped=zipped).load()
    assert np.array_equal(split.train.inputs.numpy()[:, 0], IMAGES) and split.train.labels.tolist() == LABELS.tolist()
    assert list(split.train.ids) == list(range(7)) and list(split.test.ids) == [7, 8, 9]
    assert split.test.labels.tolist() == [3, 1, 4] and split.test.class_names == tuple("0123456789")
    assert split.train.mean == split.test.mean == (pytest.approx(IMAGES.mean() / 255),)
    assert split.train.std == (pytest.approx(IMAGES.std() / 255),)


def test_limit_takes_the_first_rows_and_leaves_the_test_ids(tmp_path):
    write(tmp_path)
    split = MNIST(str(tmp_path), limit=4).load()
    assert list(split.train.ids) == [0, 1, 2, 3] and list(split.test.ids) == [7, 8, 9]
    assert split.train.mean == (pytest.approx(IMAGES[:4].mean() / 255),)
    with pytest.raises(UsageError, match=r"limit=8 is outside 2\.\.7"):
        MNIST(str(tmp_path), limit=8).load()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"train_images_idx3_ubyte": idx(LABELS)}, "train-images-idx3-ubyte begins with 00000801 instead of 00000803"),
        ({"train_images_idx3_ubyte": b""}, "begins with nothing"),
        ({"train_images_idx3_ubyte": idx(IMAGES)[:9]}, "ends after 9 bytes, inside its head of 16"),
        ({"train_images_idx3_ubyte": idx(IMAGES)[:-1]}, r"has 225 bytes, but its head \(7, 5, 6\) announces 226"),
        ({"train_labels_idx1_ubyte": idx(LABELS) + b"x"}, "train-labels-idx1-ubyte has 16 bytes"),
        ({"train_labels_idx1_ubyte": idx(LABELS[:5])}, "holds 7 images, but .*train-labels-idx1-ubyte 5 labels"),
        ({"train_labels_idx1_ubyte": idx(LABELS + 3)}, r"1 labels are outside 0\.\.9; row 5 \(the first is 12\)"),
        ({"train_labels_idx1_ubyte": idx(np.full(7, 3, np.uint8))}, "All 7 training examples have the label '3'"),
        ({"t10k_images_idx3_ubyte": idx(IMAGES[:3, :4])}, r"training images are \(5, 6\), test images \(4, 6\)"),
    ],
)
def test_damage_is_named(tmp_path, wrong, words):
    with pytest.raises(UsageError, match=words):
        write(tmp_path, **wrong).load()


def test_broken_gzip(tmp_path):
    dataset = write(tmp_path, zipped=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for body in (whole[:-9], b"no gzip", whole[:30] + b"\0\0\0\0" + whole[34:]):
        file.write_bytes(body)
        with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
            dataset.load()


def test_absent_files(tmp_path):
    with pytest.raises(UsageError, match="holds neither train-images-idx3-ubyte nor"):
        MNIST(str(tmp_path)).load()
    with pytest.raises(UsageError, match="is absent"):
        MNIST(str(tmp_path / "none")).load()


def test_permuted_pixels_are_one_order_for_all_images(tmp_path):
    write(tmp_path)
    plain, shuffled, again, other = (MNIST(str(tmp_path), permute=seed).load() for seed in (None, 3, 3, 4))
    before, after = (split.train.inputs.flatten(1) for split in (plain, shuffled))
    order = [int((before == column[:, None]).all(0).nonzero()[0]) for column in after.T]
    assert sorted(order) == list(range(30)) != order
    assert np.array_equal(shuffled.test.inputs.flatten(1), plain.test.inputs.flatten(1)[:, order])
    assert np.array_equal(again.train.inputs, shuffled.train.inputs) and not np.array_equal(
        other.train.inputs, shuffled.train.inputs
    )
    assert shuffled.train.mean == plain.train.mean and shuffled.train.labels.tolist() == plain.train.labels.tolist()


def test_fashion_mnist_names_its_classes_and_where_it_is(tmp_path):
    write(tmp_path)
    split = FashionMNIST(str(tmp_path), limit=5).load()
    assert [split.train.class_names[label] for label in split.train.labels] == ["Dress", "Trouser", "Coat", "Trouser", "Sandal"]
    assert np.array_equal(split.train.inputs.numpy()[:, 0], IMAGES[:5])
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        UsageError, match=r"fashion-mnist.*t10k-labels-idx1-ubyte\.gz is one \(MD5 bb300cfdad3c16e7a12a480ee83cd310\)"
    ):
        FashionMNIST(str(tmp_path)).load()
    with pytest.raises(UsageError, match=r"MD5 ec29112dd5afa0611ce80d1b7f02629c"):
        MNIST(str(tmp_path)).load()
