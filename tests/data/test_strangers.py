"""Datasets that somebody sent: what a file claims of its size, pickles that were made to do harm, pictures without end."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import time
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from assay import data
from assay.cli.app import run_app
from assay.core.errors import RunError, UsageError
from assay.core.ids import Ids
from assay.core.npy import read_npy
from assay.data.arrays import Arrays, rows_by_id
from assay.data.cifar10 import CIFAR10
from assay.data.folder import Folder
from assay.data.mnist import read_idx
from assay.data.opcodes import content_of
from assay.data.pictures import pixels
from assay.data.table import Table
from assay.experiments.plan import settings_in
from assay.runs.npy import import_npy
from data.test_cifar10 import ROWS, bodies, number, old_batch, packed, text, unpacked

SECONDS = 20
"""Of CPU time, within which everything is refused."""


@pytest.fixture(autouse=True)
def soon():
    begun = time.process_time()
    yield
    assert time.process_time() - begun < SECONDS


# Pickles


def typed(code, state=b""):
    """A type of numbers as a pickle names it, with a state."""
    return b"cnumpy\ndtype\n(" + text(code) + number(0) + number(1) + b"tR" + state


def array(kind, shape, body):
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
    return empty + b"(" + number(1) + b"(" + b"".join(map(number, shape)) + b"t" + kind + b"\x89" + text(body) + b"tb"


def batch_with(value):
    return b"\x80\x02}(" + text(b"data") + value + text(b"labels") + b"](" + number(0) + number(1) + b"eu."


NESTED = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(45))
"""A tuple of twice the same tuple of twice the same tuple ..."""
FORGED = {
    "an object type": batch_with(array(typed(b"O8"), (1, 3072), b"\x41" * 24576)),
    "a type with fields": batch_with(array(typed(b"V8", b"(" + number(3) + text(b"|") + b"N" + b"(" + text(b"a") + b"t" + b"}" + number(8) + number(1) + number(27) + b"tb"), (1, 3072), b"\0" * 24576)),
    "a type with a subarray": batch_with(array(typed(b"V8", b"(" + number(3) + text(b"|") + b"(" + typed(b"u1") + number(10**9) + b"t" + b"NN" + number(8) + number(1) + number(0) + b"tb"), (2, 3072), b"\0" * 6144)),
    "a date": batch_with(array(typed(b"M8"), (2, 3072), b"\0" * 49152)),
    "a billion objects": batch_with(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(10**9) + b"t" + text(b"O") + b"tR"),
    "a billion in no bytes": batch_with(array(typed(b"u1"), (10**9, 3072), b"")),
    "below 0": batch_with(array(typed(b"u1"), (-1, 3072), b"")),
    "a type that is a list": batch_with(array(b"]", (2, 3072), b"\0" * 6144)),
    "an array of an array": batch_with(array(typed(b"u1"), (2, 3072), b"\0" * 6144) + b"N" + b"b"),
    "another class": batch_with(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(" + number(0) + b"t" + text(b"b") + b"tR"),
    "a key that nests": b"\x80\x02}(" + NESTED + number(1) + b"u.",
    "a list in itself": b"\x80\x02]q\0h\0a.",
    "a mark": b"\x80\x02(.",
    "nothing": b"\x80\x02.",
    "many opcodes": b"\x80\x02](" + b"N" * 1_100_000 + b"e.",
    "a value that was never kept": b"\x80\x02h\x05.",
    "a persistent id": b"\x80\x02Pname\n.",
    "a number of a million digits": b"\x80\x02}(" + text(b"data") + b"I" + b"9" * 10**6 + b"\nu.",
    "a long number": b"\x80\x02}(" + text(b"labels") + b"](" + b"\x8b" + struct.pack("<i", 10**5) + b"\x7f" * 10**5 + b"eu.",
    "protocol 0 and a global": b"cos\nsystem\n(S'true'\ntR.",
    "a forged stack": b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93.",
    "an instance": b"(ios\nsystem\n.",
    "an extension": b"\x80\x02\x82\x01.",
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_a_forged_pickle_is_one_sentence(tmp_path, case, name):
    with pytest.raises(UsageError, match=rf"{name}.*(is not a pickle|holds a|is not a|names the classes)") as caught:
        CIFAR10(str(unpacked(tmp_path / "cifar", bodies(**{name: FORGED[case]})))).load()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "label",
    [10**4000, 2**70, -(2**70), 1.5, float("nan"), True, None, "cat", b"cat", [1], {"a": 1}],
    ids=lambda value: str(value)[:9],
)
def test_labels_of_any_kind_are_one_sentence(tmp_path, label):
    body = pickle.dumps(
        {b"data": ROWS[:2], b"labels": ["x" if isinstance(label, int) and abs(label) > 2**64 else 0, label]}, protocol=2
    )
    with pytest.raises(UsageError, match="data_batch_2") as caught:
        CIFAR10(str(unpacked(tmp_path / "cifar", bodies(data_batch_2=body)))).load()
    assert len(str(caught.value)) < 1000


def test_classes_that_nest_without_end_are_not_written_out(tmp_path):
    body = b"\x80\x02}(" + text(b"label_names") + b"](" + NESTED + b"eu."
    with pytest.raises(UsageError, match="names the classes by no texts instead of"):
        CIFAR10(str(unpacked(tmp_path / "cifar", bodies(**{"batches.meta": body})))).load()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["u1", "<i4", ">i2", "<f8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_pickle_writes_of_plain_things_is_read_as_pickle_reads_it(protocol, kind, order):
    rows = (
        np.asfortranarray(np.arange(12).reshape(3, 4).astype(kind)) if order == "F" else np.arange(12).reshape(3, 4).astype(kind)
    )
    whole = {"data": rows, "labels": [0, 1, -(2**40), 2**70], "names": ("a", b"b", None, True, 1.5), "empty": [[], {}, ()]}
    back = content_of(pickle.dumps(whole, protocol=protocol))
    assert np.array_equal(back.pop("data"), rows) and back == {key: value for key, value in whole.items() if key != "data"}


def test_a_whole_batch_of_the_real_size_is_read(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (10_000, 3072)).astype(np.uint8)
    names = [b"picture_%06d.png" % place for place in range(10_000)]
    body = pickle.dumps({b"data": rows, b"labels": [place % 10 for place in range(10_000)], b"filenames": names}, protocol=2)
    back = content_of(body)
    assert np.array_equal(back[b"data"], rows) and back[b"filenames"] == names


# Archives


def tar_of(path, members):
    with tarfile.open(path, "w:gz", compresslevel=9) as tar:
        for name, size in members:
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, Zeros(size))
    return path


class Zeros(io.RawIOBase):
    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = min(self.left, size if size >= 0 else self.left)
        self.left -= size
        return bytes(size)


@pytest.mark.slow
def test_an_archive_of_zeros_is_left_early(tmp_path):
    path = tar_of(tmp_path / "a.tar.gz", [("readme", 3 * 2**30)])
    with pytest.raises(UsageError, match="cannot be read as the CIFAR-10 archive"):
        CIFAR10(str(path)).load()
    path = tar_of(tmp_path / "b.tar.gz", [("cifar-10-batches-py/data_batch_1", 200 * 2**20)])
    with pytest.raises(UsageError, match="data_batch_1 has 209,715,200 bytes, which no batch of CIFAR-10 has"):
        CIFAR10(str(path)).load()


def test_a_head_of_a_gigabyte_is_not_read(tmp_path):
    member = tarfile.TarInfo("././@PaxHeader")
    member.type, member.size = tarfile.XHDTYPE, 2**30
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(2**20))
    with pytest.raises(UsageError, match="cannot be read as the CIFAR-10 archive"):
        CIFAR10(str(tmp_path / "a.tar.gz")).load()


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", ""])
def test_an_archive_may_be_compressed_in_any_way(tmp_path, ending):
    path = packed(tmp_path / "a.tar.gz", bodies())
    body = gzip.decompress(path.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(body)) as old, tarfile.open(tmp_path / "other", f"w:{ending}") as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
    assert np.array_equal(CIFAR10(str(tmp_path / "other")).load().train.inputs.numpy().reshape(10, 3072), ROWS[:10])


def test_members_that_are_no_files_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("data_batch_1")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UsageError, match="lacks data_batch_1"):
        CIFAR10(str(tmp_path / "a.tar")).load()


# Arrays


def head_of(shape, kind="<f8", version=(1, 0)):
    head = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", len(head)) + head


HEADS = {
    "8 TB": head_of((10**12,)),
    "beyond all": head_of((10**30,)),
    "below 0": head_of((-1,)),
    "objects": head_of((1,), "|O") + pickle.dumps([1]),
    "fields": head_of((1,), [("a", "<f8")]) + bytes(8),
    "wide texts": head_of((10**6,), "<U1000000"),
    "too short": head_of((3,)) + bytes(8),
    "too long": head_of((1,)) + bytes(9),
    "no shape": b"\x93NUMPY\x01\x00" + struct.pack("<H", 10) + b"{}       \n",
    "nested": b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + b"(" * 59_999 + b"\n",
    "a long head": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{}",
    "another version": b"\x93NUMPY\x09\x00" + bytes(100),
    "nothing": b"",
}


@pytest.mark.parametrize("case", HEADS)
def test_an_npy_file_that_claims_what_it_has_not_is_one_sentence(tmp_path, case):
    path = tmp_path / "rows.npy"
    path.write_bytes(HEADS[case])
    with pytest.raises(UsageError, match=r"rows\.npy"):
        rows_by_id(path, Ids([0]))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("inputs.npy", HEADS[case])
        archive.writestr("labels.npy", HEADS[case])
    with pytest.raises(UsageError, match=r"a\.npz"):
        Arrays(str(tmp_path / "a.npz"), test=0.5).load()
    (tmp_path / "npy").mkdir()
    for name in ("0_Output.npy", "0_Index.npy"):
        (tmp_path / "npy" / name).write_bytes(HEADS[case])
    with pytest.raises((RunError, UsageError), match=r"0_Output\.npy"):
        import_npy(tmp_path / "npy", np_labels(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def np_labels():
    import torch

    return torch.tensor([0, 1])


@pytest.mark.parametrize(
    "made",
    [
        np.arange(6).reshape(2, 3),
        np.float32(2.5),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
        np.asfortranarray(np.ones((2, 3), ">i2")),
    ],
    ids=str,
)
def test_an_npy_file_is_read_as_numpy_reads_it(tmp_path, made):
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array(file, np.asanyarray(made), version)
        with (tmp_path / "a.npy").open("rb") as file:
            back = read_npy(file, (tmp_path / "a.npy").stat().st_size)
        assert back.dtype == np.asanyarray(made).dtype and np.array_equal(back, made) and back.shape == np.shape(made)


@pytest.mark.slow
def test_an_npz_file_that_unpacks_without_end_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("inputs.npy", "w", force_zip64=True) as file,
    ):
        file.write(head_of((400 * 2**20,), "|u1"))
        for _ in range(400):
            file.write(bytes(2**20))
    with pytest.raises(UsageError, match=r"inputs claims 419,430,\d+ bytes in [\d,]+; save it without compression"):
        Arrays(str(tmp_path / "a.npz"), test=0.5).load()


@pytest.mark.slow
def test_an_idx_file_that_unpacks_without_end_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb") as file:
        file.write(bytes((0, 0, 8, 3)) + struct.pack(">III", 400, 1024, 1024))
        for _ in range(400):
            file.write(bytes(2**20))
    with pytest.raises(UsageError, match="holds more than 268,435,456 bytes, which its size cannot mean"):
        read_idx(path, 3)


# Tables


def test_a_table_of_many_rows_in_few_bytes_is_refused(tmp_path):
    part = pa.table({"x": np.zeros(10**6), "label": pa.array(np.zeros(10**6)).cast(pa.string())})
    with pq.ParquetWriter(tmp_path / "a.parquet", part.schema, compression="zstd") as writer:
        for _ in range(30):
            writer.write_table(part, row_group_size=10**6)
    with pytest.raises(UsageError, match=r"claims 30,000,000 rows of 2 columns in [\d,]+ bytes"):
        Table(str(tmp_path / "a.parquet"), label="label").load()


@pytest.mark.slow
def test_a_long_text_in_every_row_takes_its_memory_once(tmp_path):
    n = 20_000
    places = pa.array(np.arange(n, dtype=np.int32) % 2)
    texts = pa.DictionaryArray.from_arrays(places, pa.array(["a" * 10**5, "b"]))
    pq.write_table(pa.table({"x": texts, "label": np.arange(n) % 3}), tmp_path / "a.parquet")
    split = Table(str(tmp_path / "a.parquet"), label="label").load()
    assert split.train.inputs.shape[1] == 2
    with pytest.raises(UsageError, match="the label of row 0 has 100,000 letters, where 1,000 are the most"):
        Table(str(tmp_path / "a.parquet"), label="x").load()
    with pytest.raises(UsageError, match=r"An id of 100,000 letters makes 20,000 ids of as many"):
        Ids([f"{place}" for place in range(n - 1)] + ["a" * 10**5])


def test_cifar_shards_that_claim_many_images_are_refused(tmp_path):
    image = pa.array([{"bytes": b"x", "path": None}] * 1000, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    part = pa.table({"img": image, "label": np.zeros(1000, np.int64)})
    for name in ("train", "test"):
        with pq.ParquetWriter(tmp_path / f"{name}.parquet", part.schema, compression="zstd") as writer:
            for _ in range(100):
                writer.write_table(part)
    with pytest.raises(UsageError, match=r"claims 100,000 images in [\d,]+ bytes, which cannot be"):
        CIFAR10(str(tmp_path)).load()


# Pictures


def png_of(width, height):
    """A PNG whose head says so; its content is not there."""
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 13_300, 60_000, 2**31 - 1])
def test_pictures_without_end_are_refused_by_their_head(side):
    with pytest.raises(UsageError, match=r"the picture is larger than 89,478,485 pixels|cannot be read as an image"):
        pixels(png_of(side, side), "the picture")


def test_no_other_program_is_started_for_a_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n10 10 moveto\nshowpage\n%%EOF\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_args, **_kwargs: pytest.fail("Ghostscript was started"))
    with pytest.raises(UsageError, match="cannot be read as an image"):
        pixels(path, "the picture")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "ICO", "PCX", "SGI"])
def test_the_formats_that_pillow_reads_by_itself_are_read(kind):
    body = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 100, 50)).save(body, kind)
    assert pixels(body.getvalue(), "the picture").shape == (3, 16, 16)


def test_many_pictures_that_take_far_more_memory_than_their_files_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        body = io.BytesIO()
        Image.new("RGB", (2000, 2000)).save(body, "PNG")
        for place in range(50):
            (tmp_path / name / f"{place}.png").write_bytes(body.getvalue())
    with pytest.raises(
        UsageError, match=r"100 pictures of the first one's size take 1\.2 GB in memory, their files .* Give size="
    ):
        Folder(str(tmp_path), test=0.5).load()


# Names, pipes, rights and texts


FILES = [
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "svhn",
    "newsgroups",
    "imagenet",
    "tiny_imagenet",
    "folder",
    "arrays",
    "adult",
]


@pytest.mark.parametrize("spec", [*(f"{name}:path={{}}" for name in FILES), "table:path={},label=x"])
@pytest.mark.parametrize("name", ["a" * 300, "~nobody-of-that-name/x", "x\0y", "pipe"])
def test_places_that_cannot_be_are_one_sentence(tmp_path, spec, name):
    os.mkfifo(tmp_path / "pipe")
    place = name if name.startswith("~") else tmp_path / name
    with pytest.raises(UsageError):
        data.parse(spec.format(place)).load()


@pytest.mark.parametrize("body", [b"a = " + b"[" * 100_000, b"a." * 100_000 + b"b = 1", b"\xff", b"[a\n"])
def test_a_plan_that_is_no_toml_is_one_sentence(tmp_path, body, capsys):
    (tmp_path / "plan.toml").write_bytes(body)
    with pytest.raises(UsageError, match=r"plan\.toml"):
        settings_in(tmp_path / "plan.toml")
    assert run_app(["record", str(tmp_path / "run"), "--plan", str(tmp_path / "plan.toml")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_pipe_for_a_plan_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "plan.toml")
    with pytest.raises(UsageError, match="no regular file"):
        settings_in(tmp_path / "plan.toml")


def test_the_old_batch_is_what_the_other_tests_forge():
    assert content_of(old_batch(ROWS[:1], [3]))[b"labels"] == [3]


@pytest.mark.parametrize("what", ["array", "text"])
def test_a_pickle_that_makes_many_of_the_same_bytes_is_refused(what):
    size = 2**16
    plain = b"c%s\n%s\n"
    kind = plain % (b"numpy", b"dtype") + b"(\x8c\x02u1tR"
    array = (
        plain % (b"numpy.core.numeric", b"_frombuffer") + b"(h\x01" + kind + b"J" + struct.pack("<i", size) + b"\x85\x8c\x01CtR"
    )
    encoded = plain % (b"_codecs", b"encode") + b"(h\x01\x8c\x06latin1tR"
    letter, made = (b"B", array) if what == "array" else (b"X", encoded)
    begin = b"\x80\x04]" + letter + struct.pack("<I", size) + b"a" * size + b"q\x01a"
    assert len(content_of(begin + made + b"a.")) == 2
    with pytest.raises(ValueError, match="several of the same bytes"):
        content_of(begin + (made + b"a") * 3 + b".")
