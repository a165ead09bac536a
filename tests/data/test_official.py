"""Sets that are published as files say where these are to be had and their checksum: where the folder is absent, a file in it, and where one is damaged."""

import re

import pytest

from assay import data
from assay.core.errors import UsageError

OWN = {"arrays", "digits", "folder", "table"}
"""What reads the user's own files, or none."""
NOISE = b"\x00\x01 damaged \xff\xfe"
CHECKSUMS = {
    "adult": ("5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",),
    "cifar10": ("c58f30108f718f92721af3b95e74349a",),
    "cifar100": ("eb9058c3a382ffc7106e4002c42a8d85",),
    "fashion_mnist": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d",),
    "imagenet": ("1d675b47d978889d74fa0da5fadfb00e", "29b22e2961454d5413ddabcf34fc5622"),
    "mnist": ("f68b3c2dcbeaaa9fbdd348bbdeb94873",),
    "newsgroups": ("8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610",),
    "stl10": ("91f7769df0f17e558f3565bffb0c7dfb",),
    "svhn": ("e26dedcc434d2e4c54c9b2d4a06d8373",),
    "tiny_imagenet": ("90528d7ca1a48142e341f4ef8d21d0de",),
}
IDX = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
CLASSES = [f"train/n0000000{number}/one.JPEG" for number in (1, 2)]
DAMAGED = {
    "adult": ["adult.data", "adult.test"],
    "cifar10": ["cifar-10-python.tar.gz"],
    "cifar100": ["cifar-100-python.tar.gz"],
    "fashion_mnist": IDX,
    "imagenet": [
        *CLASSES,
        "val/ILSVRC2012_val_00000001.JPEG",
        *(f"ILSVRC2012_devkit_t12/data/{name}" for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")),
    ],
    "mnist": [f"{name}.gz" for name in IDX],
    "newsgroups": ["20news-bydate_py3.pkz"],
    "stl10": ["class_names.txt", *(f"{part}_{what}.bin" for part in ("train", "test") for what in "Xy")],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
    "tiny_imagenet": [*CLASSES, "val/val_annotations.txt"],
}


def refusal(name, path):
    with pytest.raises(UsageError) as said:
        data.parse(f"{name}:path={path}").load()
    return str(said.value)


def test_every_published_set_is_looked_at():
    assert CHECKSUMS.keys() == DAMAGED.keys() == data.catalogue().keys() - OWN


@pytest.mark.parametrize("name", sorted(CHECKSUMS))
def test_what_is_absent_or_damaged_says_where_it_is_to_be_had_and_its_checksum(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(NOISE)
    for place in DAMAGED[name]:
        (tmp_path / "damaged" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "damaged" / place).write_bytes(NOISE)
    for path in ("none", tmp_path / "none", tmp_path / "empty", tmp_path / "file", tmp_path / "damaged"):
        words = refusal(name, path)
        assert all(one in words for one in CHECKSUMS[name]), words
        assert words.startswith(str(path)) and len(re.findall("https?://", words)) == 1 and words.endswith("."), words
