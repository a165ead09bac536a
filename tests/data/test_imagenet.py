import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from assay.core.errors import UsageError
from assay.data.disk_images import DiskImages, ImageFiles
from assay.data.imagenet import ImageNet
from assay.data.tiny_imagenet import TinyImageNet

NAMES = ("n01440764", "n01443537", "n02084071")


def jpeg(path, shade, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((size[1], size[0], 3), shade, np.uint8)
    picture[:, size[0] // 2 :] += 40
    Image.fromarray(picture).save(path, "JPEG", quality=95)


def training_part(root, below=""):
    for number, name in enumerate(NAMES[:2]):
        for place in range(3):
            jpeg(
                root / "train" / name / below / f"{name}_{place}.JPEG",
                100 * number + 10 * place,
                (64, 64) if below else (30 + place, 20),
            )


@pytest.fixture
def decoded(monkeypatch):
    met, one = [], ImageFiles.one
    monkeypatch.setattr(ImageFiles, "one", lambda files, place: met.append(files.paths[place]) or one(files, place))
    return met


def check(split, decoded, root, test_ids, side):
    assert list(split.train.ids)[:2] == [f"train/{NAMES[0]}/{NAMES[0]}_0.JPEG", f"train/{NAMES[0]}/{NAMES[0]}_1.JPEG"]
    assert split.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and split.train.class_names == NAMES[:2]
    assert list(split.test.ids) == test_ids
    assert isinstance(split.train.inputs, DiskImages) and split.train.shape == (3, side, side) and not decoded
    images = split.train.inputs[torch.tensor([4, 1])]
    assert [int(image[:, :, :3].float().mean().round()) // 10 for image in images] == [11, 1] and len(decoded) == 2
    content = split.train.content
    assert len(decoded) == 2
    return content


def test_class_folders(tmp_path, decoded):
    training_part(tmp_path)
    for name in NAMES[:2]:
        jpeg(tmp_path / "val" / name / "ILSVRC2012_val_00000001.JPEG", 50)
    split = ImageNet(str(tmp_path), size=14).load()
    before = check(split, decoded, tmp_path, [f"val/{name}/ILSVRC2012_val_00000001.JPEG" for name in NAMES[:2]], 14)
    assert split.train.mean == (0.485, 0.456, 0.406)
    jpeg(tmp_path / "train" / NAMES[1] / f"{NAMES[1]}_2.JPEG", 9)
    assert ImageNet(str(tmp_path), size=14).load().train.content != before
    (tmp_path / "train" / NAMES[1] / f"{NAMES[1]}_2.JPEG").write_bytes(b"no image")
    damaged = ImageNet(str(tmp_path), size=14).load()
    with pytest.raises(UsageError, match=rf"{NAMES[1]}_2\.JPEG cannot be read as an image"):
        damaged.train.inputs[torch.tensor([5])]
    jpeg(tmp_path / "val" / NAMES[2] / "1.JPEG", 0)
    with pytest.raises(UsageError, match=f"has the classes {NAMES[2]}, which"):
        ImageNet(str(tmp_path)).load()


def test_the_validation_part_as_it_comes_with_the_development_kit(tmp_path, decoded):
    training_part(tmp_path)
    for number in range(1, 5):
        jpeg(tmp_path / "val" / f"ILSVRC2012_val_{number:08}.JPEG", 10 * number)
    with pytest.raises(UsageError, match=r"no development kit says.*MD5 fa75699e90414af021442c21a62c3abf"):
        ImageNet(str(tmp_path)).load()
    kit = tmp_path / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    synsets = np.array([(7, NAMES[0], "tench"), (3, NAMES[1], "goldfish"), (5, NAMES[2], "dog")], kind)
    savemat(kit / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("3\n5\n7\n3\n")
    split = ImageNet(str(tmp_path), size=14).load()
    check(split, decoded, tmp_path, [f"val/ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 3, 4)], 14)
    assert split.test.labels.tolist() == [1, 0, 1]
    for body, words in (("3\n5\n7\n", "00000004.JPEG is beyond the 3 classes"), ("3\n5\n7\n4\n", "no list of class numbers")):
        truth.write_text(body)
        with pytest.raises(UsageError, match=words):
            ImageNet(str(tmp_path)).load()
    (kit / "meta.mat").write_bytes(b"hello")
    with pytest.raises(UsageError, match=r"meta\.mat names no classes"):
        ImageNet(str(tmp_path)).load()


@pytest.mark.parametrize("size", [(70, 50), (50, 70), (50, 50)])
def test_the_middle_is_cut_out_as_torchvision_does(size):
    from assay.data.pictures import pixels

    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))
    file = io.BytesIO()
    drawn.save(file, "PNG")
    found = pixels(file.getvalue(), "it", size=28, cut=True)
    # Resize(32), which truncates the longer side, and CenterCrop(28).
    longer = 32 * max(size) // min(size)
    scaled = np.asarray(
        drawn.resize((longer if size[0] > size[1] else 32, longer if size[1] > size[0] else 32), Image.Resampling.BILINEAR)
    )
    top, left = (round((side - 28) / 2) for side in scaled.shape[:2])
    assert np.array_equal(found.transpose(1, 2, 0), scaled[top : top + 28, left : left + 28])


@pytest.mark.parametrize("sorted_", [False, True])
def test_tiny_imagenet(tmp_path, decoded, sorted_):
    root = tmp_path / "tiny-imagenet-200"
    training_part(root, "images")
    for number in range(3):
        place = f"val/{NAMES[number % 2]}" if sorted_ else "val/images"
        jpeg(root / place / f"val_{number}.JPEG", 50 * number, (64, 64))
    if not sorted_:
        lines = [f"val_{number}.JPEG\t{NAMES[number % 2]}\t0\t32\t44\t62\n" for number in (1, 0, 2)]
        (root / "val/val_annotations.txt").write_text("".join(lines))
    split = TinyImageNet(str(tmp_path)).load()
    assert len(decoded) == 6 and split.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    pictures = split.train.inputs.numpy() / 255
    assert split.train.mean == pytest.approx(pictures.mean((0, 2, 3)).tolist()) and split.test.mean == split.train.mean
    expected = {"val_0.JPEG": 0, "val_1.JPEG": 1, "val_2.JPEG": 0}
    assert {one.split("/")[-1]: label for one, label in zip(split.test.ids, split.test.labels.tolist(), strict=True)} == expected
    assert all((root / one).is_file() for one in (*split.train.ids, *split.test.ids))
    assert [int(image[:, :, :9].float().mean().round()) for image in split.test.inputs[torch.arange(3)]] == [
        50 * int(one.split("_")[-1][0]) for one in split.test.ids
    ]


def test_tiny_imagenet_names_what_is_wrong(tmp_path):
    with pytest.raises(UsageError, match=r"no folder train.*MD5 90528d7ca1a48142e341f4ef8d21d0de"):
        TinyImageNet(str(tmp_path)).load()
    with pytest.raises(UsageError, match=r"is absent.*cs231n"):
        TinyImageNet(str(tmp_path / "none")).load()
    training_part(tmp_path, "images")
    (tmp_path / "val/images").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"val_annotations\.txt is absent"):
        TinyImageNet(str(tmp_path)).load()
    for line in (f"val_0.JPEG {NAMES[0]}", "val_0.JPEG\tn99999999\t1", f"../val_0.JPEG\t{NAMES[0]}\t1"):
        (tmp_path / "val/val_annotations.txt").write_text(line)
        with pytest.raises(UsageError, match="line 1, names no file and class"):
            TinyImageNet(str(tmp_path)).load()
    with pytest.raises(UsageError, match=r"ImageNet is at https://image-net\.org"):
        ImageNet(str(tmp_path / "none")).load()
