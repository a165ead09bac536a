import numpy as np
import pytest

from assay import data
from assay.core.errors import UsageError
from assay.data.stl10 import STL10

NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 96, 96)).astype(np.uint8)
"""Rows, channels, height, width."""
LABELS = np.array([3, 1, 4, 1, 5, 10, 2], np.uint8)


def write(folder, **changed):
    """The five files in the official format: each channel of an image column by column, labels from 1 on."""
    columns = b"".join(bytes(image[channel, :, column]) for image in IMAGES for channel in range(3) for column in range(96))
    bodies = {
        "train_X": columns,
        "train_y": LABELS.tobytes(),
        "test_X": columns[: 2 * 27648],
        "test_y": LABELS[:2].tobytes(),
        "class_names": "\n".join(NAMES).encode() + b"\n",
    } | changed
    for name, body in bodies.items():
        if body is not None:
            (folder / f"{name}.{'txt' if name == 'class_names' else 'bin'}").write_bytes(body)
    return STL10(str(folder))


def test_the_five_files(tmp_path):
    split = write(tmp_path).load()
    assert np.array_equal(split.train.inputs.numpy(), IMAGES) and split.train.labels.tolist() == [2, 0, 3, 0, 4, 9, 1]
    assert np.array_equal(split.test.inputs.numpy(), IMAGES[:2]) and split.test.labels.tolist() == [2, 0]
    assert list(split.train.ids) == list(range(7)) and list(split.test.ids) == [7, 8]
    assert split.train.class_names == split.test.class_names == NAMES and split.true_labels is None
    assert split.train.mean == split.test.mean == pytest.approx((IMAGES / 255).mean((0, 2, 3)))
    assert split.train.std == pytest.approx((IMAGES / 255).std((0, 2, 3)))


def test_images_are_mapped_and_the_files_are_never_written(tmp_path):
    split = write(tmp_path).load()
    path = tmp_path / "test_X.bin"
    with path.open("r+b") as file:
        file.write(b"\x07")
    # What is not in memory yet is what the file says now.
    assert split.test.inputs[0, 0, 0, 0] == 7
    before = path.read_bytes()
    split.test.inputs[0, 0, 0, 1] = 99
    assert path.read_bytes() == before


def test_the_folder_that_holds_them_and_the_first_rows(tmp_path):
    inner = tmp_path / "stl10_binary"
    inner.mkdir()
    write(inner)
    dataset = data.parse(f"stl10:path={tmp_path},limit=4")
    split = dataset.load()
    assert list(split.train.ids) == [0, 1, 2, 3] and list(split.test.ids) == [7, 8]
    assert split.train.mean == pytest.approx((IMAGES[:4] / 255).mean((0, 2, 3)))
    assert dataset.title == f"stl10:path={tmp_path},limit=4"
    with pytest.raises(UsageError, match=r"limit=8 is outside 2\.\.7"):
        STL10(str(tmp_path), limit=8).load()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"train_X": None},
            r"holds no train_X.bin. Give the folder of the unpacked files. STL-10 is at https://cs.stanford.edu/~acoates/stl10: stl10_binary.tar.gz \(MD5 91f7769df0f1",
        ),
        ({"train_y": None}, "holds no train_y.bin"),
        ({"test_X": None}, "holds no test_X.bin"),
        ({"test_y": None}, "holds no test_y.bin"),
        ({"class_names": None}, "holds no class_names.txt"),
        ({"train_X": b"\0" * 27647}, "train_X.bin has 27,647 bytes, which is no number of images of 3 x 96 x 96"),
        ({"test_X": b""}, "test_X.bin has 0 bytes"),
        ({"train_y": LABELS[:6].tobytes()}, "train_X.bin holds 7 images, but .*train_y.bin 6 labels. Fetch the pair again"),
        ({"train_y": bytes([3, 1, 0, 1, 5, 11, 2])}, r"train_y.bin: 2 labels are outside 1..10; rows 2, 5"),
        ({"class_names": b"one\ntwo\n"}, "class_names.txt names 2 classes instead of 10"),
        ({"class_names": b"\xff\n"}, "class_names.txt is no text"),
    ],
)
def test_damage_is_named(tmp_path, changed, words):
    with pytest.raises(UsageError, match=words):
        write(tmp_path, **changed).load()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="is absent"):
        STL10(str(tmp_path / "nowhere")).load()
