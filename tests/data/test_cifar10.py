import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from assay.core.errors import UnknownName, UsageError
from assay.data.cifar10 import CIFAR10

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ROWS = np.random.default_rng(0).integers(0, 256, (12, 3072)).astype(np.uint8)


# The official archive, as Python 2 wrote it


def text(value):
    """A Python 2 `str`."""
    return b"T" + struct.pack("<I", len(value)) + value


def number(value):
    return b"J" + struct.pack("<i", value)


def old_array(rows):
    """What Python 2 and NumPy 1 wrote for a uint8 matrix."""
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
    shape = b"(" + number(len(rows)) + number(rows.shape[1]) + b"t"
    return empty + b"(" + number(1) + shape + dtype + b"\x89" + text(rows.tobytes()) + b"tb"


def old_batch(rows, labels):
    body = text(b"data") + old_array(rows) + text(b"labels") + b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + body + b"u."


def old_meta(names=tuple(NAMES)):
    return b"\x80\x02}(" + text(b"label_names") + b"](" + b"".join(text(name.encode()) for name in names) + b"eu."


def bodies(**other):
    made = {f"data_batch_{i + 1}": old_batch(ROWS[2 * i : 2 * i + 2], [i, i + 1]) for i in range(5)}
    return made | {"test_batch": old_batch(ROWS[10:], [9, 8]), "batches.meta": old_meta()} | other


def unpacked(folder, made):
    folder.mkdir(parents=True)
    for name, body in made.items():
        (folder / name).write_bytes(body)
    return folder


def packed(path, made):
    with tarfile.open(path, "w:gz") as tar:
        for name, body in made.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return path


@pytest.mark.parametrize("layout", ["folder", "above the folder", "archive", "above the archive"])
def test_the_official_archive(tmp_path, layout):
    if "folder" in layout:
        path = unpacked(tmp_path / "cifar-10-batches-py", bodies())
    else:
        path = packed(tmp_path / "cifar-10-python.tar.gz", bodies(**{"readme.html": b"hello"}))
    split = CIFAR10(str(path.parent if "above" in layout else path)).load()
    assert np.array_equal(split.train.inputs.numpy().reshape(10, 3072), ROWS[:10])
    assert split.train.labels.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5] and split.test.labels.tolist() == [9, 8]
    assert list(split.train.ids) == list(range(10)) and list(split.test.ids) == [10, 11]
    assert split.train.class_names == tuple(NAMES) and split.true_labels is None
    assert split.train.mean == pytest.approx((ROWS[:10].reshape(10, 3, -1) / 255).mean((0, 2)).tolist())


def test_an_archive_pickled_again_by_python_3(tmp_path):
    for protocol in (2, 4, 5):
        again = pickle.dumps({"data": ROWS[:2], "labels": [7, 6]}, protocol=protocol)
        folder = unpacked(tmp_path / str(protocol), bodies(data_batch_1=again))
        split = CIFAR10(str(folder), limit=2).load()
        assert split.train.labels.tolist() == [7, 6]
        assert np.array_equal(split.train.inputs.numpy().reshape(2, 3072), ROWS[:2])
        assert list(split.test.ids) == [10, 11]


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Evaluation(Command):
    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({self.path!r})",)


@pytest.mark.parametrize("attack", [Command, Evaluation])
def test_a_pickle_cannot_run_code(tmp_path, attack):
    made = tmp_path / "made"
    folder = unpacked(tmp_path / "cifar", bodies(data_batch_3=pickle.dumps(attack(str(made)))))
    with pytest.raises(UsageError, match=r"data_batch_3 is not a pickle of CIFAR-10 \(it asks for"):
        CIFAR10(str(folder)).load()
    assert not made.exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data_batch_2": b"\x80\x02}(."}, "data_batch_2 is not a pickle"),
        ({"data_batch_2": b""}, "data_batch_2 is not a pickle"),
        ({"data_batch_2": pickle.dumps([1])}, "data_batch_2 holds a list"),
        ({"data_batch_2": old_batch(ROWS[:2, :3000], [0, 1])}, "data_batch_2: `data` is not a uint8 array of rows"),
        ({"data_batch_2": old_batch(ROWS[:2], [0, 10])}, r"data_batch_2: 1 labels are outside 0\.\.9; row 1"),
        ({"data_batch_2": old_batch(ROWS[:2], [0])}, "give each one label"),
        ({"batches.meta": old_meta(NAMES[::-1])}, "instead of those of CIFAR-10"),
    ],
)
def test_damaged_batches_are_named(tmp_path, other, words):
    with pytest.raises(UsageError, match=words):
        CIFAR10(str(unpacked(tmp_path / "cifar", bodies(**other)))).load()


def test_incomplete_or_broken_archives(tmp_path):
    made = bodies()
    del made["data_batch_4"]
    with pytest.raises(UsageError, match="lacks data_batch_4"):
        CIFAR10(str(unpacked(tmp_path / "cifar", made))).load()
    whole = packed(tmp_path / "whole.tar.gz", bodies()).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.tar.gz").write_bytes(b"hello")
    for name in ("cut", "other"):
        with pytest.raises(UsageError, match=rf"{name}\.tar\.gz cannot be read as the CIFAR-10 archive"):
            CIFAR10(str(tmp_path / f"{name}.tar.gz")).load()
    with pytest.raises(UsageError, match="is absent"):
        CIFAR10(str(tmp_path / "none")).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is no CIFAR-10"):
        CIFAR10(str(tmp_path / "empty")).load()


def test_the_archive_has_one_label_column(tmp_path):
    with pytest.raises(UnknownName, match=r"No label column of .* is named 'worse_label'"):
        CIFAR10(str(unpacked(tmp_path / "cifar", bodies())), labels="worse_label").load()


# Parquet


def encoded(row, size=(32, 32)):
    buffer = io.BytesIO()
    Image.fromarray(row.reshape(3, *size).transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, rows, labels, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(row), "path": None} for row in rows]
    parquet.write_table(pa.table({"img": images, "label": labels, **columns}), path)


def pair(folder):
    write(folder / "train.parquet", ROWS[:8], [0, 1, 2, 3] * 2, worse_label=[0, 1, 2, 4] * 2, remark=["x"] * 8)
    write(folder / "test.parquet", ROWS[8:], [5, 6, 7, 8])
    return str(folder)


def test_parquet_with_true_labels(tmp_path):
    split = CIFAR10(pair(tmp_path)).load()
    assert np.array_equal(split.train.inputs.numpy().reshape(8, 3072), ROWS[:8])
    assert np.array_equal(split.test.inputs.numpy().reshape(4, 3072), ROWS[8:])
    assert split.train.labels.tolist() == [0, 1, 2, 3] * 2 and split.true_labels is None
    assert list(split.test.ids) == [8, 9, 10, 11]


def test_parquet_with_human_labels(tmp_path):
    split = CIFAR10(pair(tmp_path), labels="worse_label", limit=4).load()
    assert split.train.labels.tolist() == [0, 1, 2, 4] and split.true_labels.tolist() == [0, 1, 2, 3]
    assert list(split.train.ids) == [0, 1, 2, 3] and list(split.test.ids) == [8, 9, 10, 11]
    assert split.test.labels.tolist() == [5, 6, 7, 8]
    assert split.train.mean == pytest.approx((ROWS[:4].reshape(4, 3, -1) / 255).mean((0, 2)).tolist())


def test_hugging_face_shards(tmp_path):
    write(tmp_path / "plain_text/train-00000-of-00002.parquet", ROWS[:5], [0, 1, 2, 3, 4])
    write(tmp_path / "plain_text/train-00001-of-00002.parquet", ROWS[5:8], [5, 6, 7])
    write(tmp_path / "plain_text/test-00000-of-00001.parquet", ROWS[8:], [5, 6, 7, 8])
    for limit, length in ((None, 8), (6, 6), (3, 3)):
        split = CIFAR10(str(tmp_path), limit=limit).load()
        assert split.train.labels.tolist() == list(range(length)) and list(split.test.ids) == [8, 9, 10, 11]
        assert np.array_equal(split.train.inputs.numpy().reshape(length, 3072), ROWS[:length])
    (tmp_path / "plain_text/train-00000-of-00002.parquet").unlink()
    with pytest.raises(UsageError, match="holds 1 of the 2 train shards"):
        CIFAR10(str(tmp_path)).load()


def test_label_columns_that_cannot_be_used(tmp_path):
    path = pair(tmp_path)
    with pytest.raises(UnknownName, match=r"named 'worse_lable'\. Did you mean worse_label"):
        CIFAR10(path, labels="worse_lable").load()
    with pytest.raises(UsageError, match=r"column 'remark' holds string, no class numbers\. Columns that do: label, worse_label"):
        CIFAR10(path, labels="remark").load()
    with pytest.raises(UsageError, match=r"limit=9 is outside 2\.\.8"):
        CIFAR10(path, limit=9).load()


def test_labels_missing_or_out_of_range_name_their_row(tmp_path):
    pair(tmp_path)
    write(tmp_path / "train.parquet", ROWS[:3], pa.array([0, None, 1], pa.int64()))
    with pytest.raises(UsageError, match=r"train\.parquet, column 'label': 1 labels are missing or NaN; row 1"):
        CIFAR10(str(tmp_path)).load()
    write(tmp_path / "train.parquet", ROWS[:3], [0, 1, 10])
    with pytest.raises(UsageError, match=r"outside 0\.\.9; row 2 \(the first is 10\)"):
        CIFAR10(str(tmp_path)).load()


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"bytes": b"no image", "path": None}, r"train\.parquet, row 1: the image cannot be read"),
        ({"bytes": None, "path": "cat.png"}, r"row 1: `img` holds no image bytes"),
        ({"bytes": encoded(ROWS[0][: 3 * 30 * 31], (30, 31)), "path": None}, "row 1: the image is 30 x 31 pixels"),
    ],
)
def test_images_that_cannot_be_used_name_their_row(tmp_path, cell, words):
    pair(tmp_path)
    cells = [{"bytes": encoded(ROWS[0]), "path": None}, cell]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet.write_table(pa.table({"img": pa.array(cells, kind), "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=words):
        CIFAR10(str(tmp_path)).load()


def test_broken_or_incomplete_parquet(tmp_path):
    pair(tmp_path)
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[:100])
    with pytest.raises(UsageError, match=r"train\.parquet cannot be read as Parquet"):
        CIFAR10(str(tmp_path)).load()
    (tmp_path / "train.parquet").write_bytes(whole)
    (tmp_path / "test.parquet").unlink()
    with pytest.raises(UsageError, match=r"but no test\.parquet"):
        CIFAR10(str(tmp_path)).load()
    unpacked(tmp_path / "cifar-10-batches-py", bodies())
    with pytest.raises(UsageError, match=r"holds both cifar-10-batches-py and train\.parquet"):
        CIFAR10(str(tmp_path)).load()
