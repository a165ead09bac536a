import numpy as np
import pytest
from PIL import Image

from assay.core.errors import UsageError
from assay.data.folder import Folder


def picture(path, shade, size=(6, 5), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), shade, np.uint8)).convert(mode).save(path)


def classes(root, count=3):
    for shade, name in enumerate(("cat", "dog")):
        for number in range(count):
            picture(root / name / f"{number}.png", 100 * shade + number)


def test_train_and_test_folders(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "test", 1)
    picture(tmp_path / "train/dog/deep/9.png", 109)
    (tmp_path / "train/.DS_Store").touch()
    (tmp_path / "train/cat/.hidden").touch()
    split = Folder(str(tmp_path)).load()
    assert list(split.train.ids) == [
        *(f"train/cat/{i}.png" for i in range(3)),
        *(f"train/dog/{i}.png" for i in range(3)),
        "train/dog/deep/9.png",
    ]
    assert split.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1] and split.train.class_names == ("cat", "dog")
    assert split.train.inputs.shape == (7, 3, 6, 5)
    assert split.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102, 109]
    assert list(split.test.ids) == ["test/cat/0.png", "test/dog/0.png"] and split.test.mean == split.train.mean
    assert split.train.mean == pytest.approx([(0 + 1 + 2 + 100 + 101 + 102 + 109) / 7 / 255] * 3)


def test_one_root_is_split_by_a_fraction(tmp_path):
    classes(tmp_path, 8)
    split = Folder(str(tmp_path), test=0.25, seed=1).load()
    assert split.train.labels.bincount().tolist() == [6, 6] and split.test.labels.bincount().tolist() == [2, 2]
    assert not set(split.train.ids) & set(split.test.ids)
    assert list(Folder(str(tmp_path), test=0.25, seed=1).load().test.ids) == list(split.test.ids)
    assert list(Folder(str(tmp_path), test=0.25, seed=2).load().test.ids) != list(split.test.ids)


def test_grey_and_size(tmp_path):
    classes(tmp_path, 4)
    picture(tmp_path / "cat/0.png", 7, size=(9, 4), mode="L")
    split = Folder(str(tmp_path), test=0.25, size=4, colours="grey").load()
    assert split.train.shape == (1, 4, 4)


def test_images_of_different_size_are_named(tmp_path):
    classes(tmp_path)
    picture(tmp_path / "dog/1.png", 0, size=(7, 5))
    with pytest.raises(UsageError, match=r"cat/0\.png is 6 x 5 pixels, .*dog/1\.png is 7 x 5\. Give size="):
        Folder(str(tmp_path), test=0.3).load()


def test_an_unreadable_image_is_named(tmp_path):
    classes(tmp_path)
    (tmp_path / "dog/notes.txt").write_text("not an image")
    with pytest.raises(UsageError, match=r"dog/notes\.txt cannot be read as an image"):
        Folder(str(tmp_path), test=0.3).load()


def test_layouts_that_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match="is absent"):
        Folder(str(tmp_path / "none")).load()
    with pytest.raises(UsageError, match="holds 0 class folders"):
        Folder(str(tmp_path), test=0.2).load()
    classes(tmp_path)
    with pytest.raises(UsageError, match="no folders train and test"):
        Folder(str(tmp_path)).load()
    (tmp_path / "list.csv").touch()
    with pytest.raises(UsageError, match=r"holds list\.csv beside the class folders"):
        Folder(str(tmp_path), test=0.2).load()
    with pytest.raises(UsageError, match="size=0 is below 1"):
        Folder(str(tmp_path), size=0)


def test_parts_that_do_not_fit(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "test")
    with pytest.raises(UsageError, match="split into train and test already"):
        Folder(str(tmp_path), test=0.2).load()
    picture(tmp_path / "test/emu/0.png", 0)
    with pytest.raises(UsageError, match=r"has the classes emu, which .*train lacks"):
        Folder(str(tmp_path)).load()
    (tmp_path / "train/emu").mkdir()
    with pytest.raises(UsageError, match=r"train/emu holds no image"):
        Folder(str(tmp_path)).load()


def test_a_test_part_may_lack_a_class(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "test")
    picture(tmp_path / "train/ant/0.png", 0)
    split = Folder(str(tmp_path)).load()
    assert split.test.class_names == ("ant", "cat", "dog") and split.test.labels.unique().tolist() == [1, 2]
