import numpy as np
import pytest
from scipy.io import savemat

from assay.core.errors import UsageError
from assay.data.svhn import SVHN

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 7)).astype(np.uint8)
LABELS = np.array([[1], [9], [10], [2], [2], [10], [5]], np.uint8)


def write(folder, **wrong):
    for name, count in (("train", 7), ("test", 3)):
        content = {"X": IMAGES[..., :count], "y": LABELS[:count]} | (wrong if name == "train" else {})
        savemat(folder / f"{name}_32x32.mat", content, do_compression=True)
    return SVHN(str(folder))


def test_the_two_files(tmp_path):
    split = write(tmp_path).load()
    assert split.train.inputs.shape == (7, 3, 32, 32) and split.train.inputs.is_contiguous()
    assert np.array_equal(split.train.inputs[4].numpy(), IMAGES[..., 4].transpose(2, 0, 1))
    assert split.train.labels.tolist() == [1, 9, 0, 2, 2, 0, 5] and split.test.labels.tolist() == [1, 9, 0]
    assert list(split.train.ids) == list(range(7)) and list(split.test.ids) == [7, 8, 9]
    assert split.train.mean == pytest.approx((IMAGES / 255).mean((0, 1, 3)).tolist())
    few = SVHN(str(tmp_path), limit=4).load()
    assert len(few.train) == 4 and list(few.test.ids) == [7, 8, 9]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"X": IMAGES[:16]}, "X is no array of 32 x 32 x 3 x rows bytes"),
        ({"X": IMAGES.astype(float)}, "X is no array"),
        ({"y": LABELS[:5]}, "y is no whole number for each of 7 images"),
        ({"y": LABELS + 1}, r"2 labels are outside 1\.\.10; rows 2, 5"),
        ({"y": LABELS * 0}, r"7 labels are outside"),
    ],
)
def test_damage_is_named(tmp_path, wrong, words):
    with pytest.raises(UsageError, match=rf"train_32x32\.mat: {words}"):
        write(tmp_path, **wrong).load()


def test_absent_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match=r"train_32x32\.mat is absent\. http.*MD5 e26dedcc434d2e4c54c9b2d4a06d8373"):
        SVHN(str(tmp_path)).load()
    with pytest.raises(UsageError, match=r"is absent.*The files are at http"):
        SVHN(str(tmp_path / "none")).load()
    dataset = write(tmp_path)
    whole = (tmp_path / "train_32x32.mat").read_bytes()
    for body in (b"", b"hello", whole[: len(whole) // 2]):
        (tmp_path / "train_32x32.mat").write_bytes(body)
        with pytest.raises(UsageError, match=r"train_32x32\.mat cannot be read as a MATLAB file"):
            dataset.load()
