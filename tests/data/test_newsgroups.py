import codecs
import os
import pickle

import numpy as np
import pytest
from sklearn.datasets import fetch_20newsgroups
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils import Bunch

from assay.core.errors import UnknownName, UsageError
from assay.data.newsgroups import CACHE, Newsgroups

NAMES = ["alt.atheism", "comp.graphics", "sci.med"]
WORDS = [
    "doctor",
    "medicine",
    "pixel",
    "render",
    "shader",
    "god",
    "belief",
    "reason",
    "patient",
    "colour",
    "image",
    "faith",
    "dose",
    "camera",
]


def texts(count, seed):
    drawn = np.random.default_rng(seed)
    return [
        f"From: someone{i}@example.com\nSubject: {WORDS[i % 14]}\n\n> quoted {WORDS[(i + 1) % 14]}\nBob wrote:\n"
        + " ".join(drawn.choice(WORDS, 6))
        + "\nmore of it\n--\nsignature écrite\n"
        for i in range(count)
    ]


def cache(folder, **wrong):
    """What scikit-learn writes after it has fetched the archive."""
    parts = {}
    for part, count in (("train", 30), ("test", 12)):
        parts[part] = Bunch(
            data=texts(count, len(part)),
            filenames=np.array([f"/home/someone/20news-bydate-{part}/{NAMES[i % 3]}/{i}" for i in range(count)]),
            target_names=list(NAMES),
            target=np.arange(count) % 3,
            DESCR=None,
        )
    parts["train"] |= wrong
    (folder / CACHE).write_bytes(codecs.encode(pickle.dumps(parts), "zlib_codec"))
    return str(folder)


@pytest.mark.parametrize("remove", ["headers+footers+quotes", "headers", "none"])
def test_the_cache_as_scikit_learn_reads_it(tmp_path, remove):
    path = cache(tmp_path)
    split = Newsgroups(path, "sci.med+alt.atheism", remove, features=8, min_df=0.0, max_df=0.9).load()
    cut = () if remove == "none" else tuple(remove.split("+"))
    options = {
        "data_home": path,
        "download_if_missing": False,
        "remove": cut,
        "categories": ["alt.atheism", "sci.med"],
        "shuffle": False,
    }
    train, test = (fetch_20newsgroups(subset=part, **options) for part in ("train", "test"))
    counts = TfidfVectorizer(stop_words="english", max_features=8, min_df=0.0, max_df=0.9, dtype=np.float32)
    assert np.array_equal(split.train.inputs.numpy(), counts.fit_transform(train.data).toarray())
    assert np.array_equal(split.test.inputs.numpy(), counts.transform(test.data).toarray())
    assert split.train.labels.tolist() == train.target.tolist() and split.test.labels.tolist() == test.target.tolist()
    assert list(split.train.class_names) == train.target_names == ["alt.atheism", "sci.med"]
    assert list(split.train.ids) == [row for row in range(30) if row % 3 != 1]
    assert list(split.test.ids) == [30 + row for row in range(12) if row % 3 != 1]
    assert split.train.inputs.dtype.is_floating_point and split.train.columns == ("text",) and "dose" in str(split.train.rows)


def test_all_groups_the_file_itself_and_a_limit(tmp_path):
    cache(tmp_path)
    split = Newsgroups(str(tmp_path / CACHE), limit=9, min_df=0.0, max_df=1.0).load()
    assert len(split.train) == 9 and split.train.class_names == tuple(NAMES) and split.train.labels.tolist() == [0, 1, 2] * 3


def test_texts_without_words_are_told(tmp_path):
    bodies = texts(30, 5)
    bodies[3] = "From: nobody\n\n"
    split = Newsgroups(cache(tmp_path, data=bodies), min_df=0.0, max_df=1.0).load()
    assert "1 of 30 training texts hold none of the words" in split.notes[0] and not bool(split.train.inputs[3].any())


class Command:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"data": ["one", 2] * 15}, "'train' holds no list of texts"),
        ({"target": np.arange(30)}, r"27 labels are outside 0\.\.2; row 3"),
        ({"target": np.arange(29) % 3}, "give each one label"),
        ({"target_names": NAMES[::-1]}, "other groups than the test part"),
        ({"DESCR": Command()}, r"cannot be read .*it asks for posix.mkdir"),
        ({"filenames": np.array([None])}, "type of numbers that is not spelled out"),
    ],
)
def test_damage_is_named_and_nothing_is_run(tmp_path, monkeypatch, wrong, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        Newsgroups(cache(tmp_path, **wrong)).load()
    assert not (tmp_path / "made").exists()


def test_what_cannot_be_read_or_asked(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"20news-bydate_py3\.pkz is absent\. sklearn\.datasets\.fetch_20newsgroups\(\) fetches .*SHA-256 8f1b2514",
    ):
        Newsgroups(str(tmp_path)).load()
    (tmp_path / CACHE).write_bytes(b"hello")
    with pytest.raises(UsageError, match="Fetch it again"):
        Newsgroups(str(tmp_path)).load()
    path = cache(tmp_path)
    with pytest.raises(UnknownName, match=r"Did you mean sci\.med"):
        Newsgroups(path, "sci.mad").load()
    with pytest.raises(UnknownName, match="Did you mean footers"):
        Newsgroups(path, remove="footer")
    with pytest.raises(UsageError, match="no range within"):
        Newsgroups(path, min_df=0.5)
    with pytest.raises(UsageError, match="no words are left of 30 texts"):
        Newsgroups(path, max_df=0.01, min_df=0.009).load()
