"""20 Newsgroups as scikit-learn keeps it, as tf-idf of words."""

import dataclasses
import pathlib
import random
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from ..core.errors import MOST_WORDS, UnknownName, UsageError, reading
from ..core.ids import Ids
from . import labels as given
from .dataset import AbstractDataset
from .examples import Examples, Split
from .files import existing, first_rows, had_at
from .opcodes import content_of

CACHE = "20news-bydate_py3.pkz"
SITE = (
    "sklearn.datasets.fetch_20newsgroups() fetches it into ~/scikit_learn_data, from https://ndownloader.figshare.com/files/5975967 "
    "(20news-bydate.tar.gz, SHA-256 8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610)."
)
MOST_UNPACKED = 2**29
"""Bytes of the largest cache that is read when it is unpacked; scikit-learn's has 36 million."""
MOST_NUMBERS = 2**29
"""Numbers of the largest table of words that is made."""
PARTS = ("headers", "footers", "quotes")
SHOWN = 300
"""Letters of a text that are kept for people to read."""


@dataclasses.dataclass(frozen=True)
class Newsgroups(AbstractDataset):
    """Ids are rows of the cached training part; the numbers of the test rows continue from there.

    An input is the tf-idf of the words of a text (smoothed, of length 1), by the words and frequencies of the training rows taken; English stop words are
    left out.

    Attributes:
        path: scikit-learn's folder of data (`~/scikit_learn_data`), or the file 20news-bydate_py3.pkz in it.
        groups: Names of the groups to tell apart, joined by `+`; None for all 20.
        remove: What is cut off the texts, joined by `+`: headers, footers, quotes; or none.
        features: Largest number of words, the most frequent ones; None for all that `min_df` and `max_df` leave.
        min_df: Least fraction of the training texts in which a word stands.
        max_df: Largest such fraction.
        limit: Number of training rows to use, from the first one on.
    """

    path: str
    groups: str | None = None
    remove: str = "headers+footers+quotes"
    features: int | None = 2000
    min_df: float = 0.001
    max_df: float = 0.2
    limit: int | None = None
    name: ClassVar[str] = "newsgroups"
    summary: ClassVar[str] = "20 Newsgroups from scikit-learn's cache, as tf-idf; groups=comp.graphics+sci.med takes some of them"

    def __post_init__(self):
        if self.remove != "none" and (unknown := [part for part in self.remove.split("+") if part not in PARTS]):
            raise UnknownName("part of a text that can be removed", unknown[0], [*PARTS, "none"])
        if self.features is not None and self.features < 1:
            raise UsageError(f"features={self.features} is below 1; it is the largest number of words.")
        if not 0 <= self.min_df < self.max_df <= 1:
            raise UsageError(
                f"min_df={self.min_df} and max_df={self.max_df} are no range within 0..1; they are fractions of the texts."
            )

    def load(self) -> Split:
        """Read the cache and count the words."""
        path = _file(self.path)
        with had_at(SITE):
            return self._read(path)

    def _read(self, path: pathlib.Path) -> Split:
        parts = _cache(path)
        (texts, labels, names), (test_texts, test_labels, test_names) = (_part(parts, part, path) for part in ("train", "test"))
        if names != test_names:
            raise UsageError(f"{path}: the training part has other groups than the test part. Fetch it again.")
        rows, test_rows = (np.arange(len(part)) for part in (texts, test_texts))
        if self.groups is not None:
            asked = self.groups.split("+")
            for group in asked:
                if group not in names:
                    raise UnknownName(f"group of {path}", group, names)
            numbers = [names.index(group) for group in sorted(set(asked))]
            rows, test_rows = rows[np.isin(labels, numbers)], test_rows[np.isin(test_labels, numbers)]
            labels, test_labels = (np.searchsorted(numbers, part) for part in (labels, test_labels))
            kept_names = tuple(sorted(set(asked)))
        else:
            kept_names = tuple(names)
        rows = rows[: first_rows(self.limit, len(rows), str(path))]
        cut = _cutting(self.remove)
        bodies, test_bodies = [cut(texts[row]) for row in rows], [cut(test_texts[row]) for row in test_rows]
        inputs, test_inputs = self._counted(bodies, test_bodies, path)
        empty = int((inputs == 0).all(1).sum())
        notes = (
            (f"{path}: {empty:,} of {len(rows):,} training texts hold none of the words and are rows of zeros.",) if empty else ()
        )
        train, test = (
            Examples(
                Ids(ids),
                values,
                torch.from_numpy(given_labels),
                kept_names,
                rows=tuple((" ".join(body.split())[:SHOWN],) for body in shown),
                columns=("text",),
            )
            for ids, values, given_labels, shown in (
                (rows, inputs, labels[rows], bodies),
                (len(texts) + test_rows, test_inputs, test_labels[test_rows], test_bodies),
            )
        )
        return Split(train, test, notes=notes)

    def _counted(self, texts: list[str], test_texts: list[str], path: pathlib.Path) -> tuple[torch.Tensor, torch.Tensor]:
        # Importing scikit-learn draws from Python's own generator, which is the user's.
        before = random.getstate()
        from sklearn.feature_extraction.text import TfidfVectorizer

        random.setstate(before)
        vectorizer = TfidfVectorizer(
            stop_words="english", min_df=self.min_df, max_df=self.max_df, max_features=self.features, dtype=np.float32
        )
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise UsageError(
                f"{path}: no words are left of {len(texts):,} texts with min_df={self.min_df} and max_df={self.max_df} ({error}). Give a wider range."
            ) from error
        if (size := (len(texts) + len(test_texts)) * counts.shape[1]) > MOST_NUMBERS:
            raise UsageError(
                f"{path}: {counts.shape[1]:,} words of {len(texts) + len(test_texts):,} texts take {4 * size / 1e9:.1f} GB. Give features=, or a larger min_df."
            )
        return tuple(torch.from_numpy(part.toarray()) for part in (counts, vectorizer.transform(test_texts)))  # type: ignore[return-value]


def _file(path: str) -> pathlib.Path:
    found = existing(path, f"Give the folder of {CACHE}. {SITE}")
    file = found / CACHE if found.is_dir() else found
    if not file.is_file():
        raise UsageError(f"{file} is absent. {SITE}")
    return file


def _cache(path: pathlib.Path) -> dict[Any, Any]:
    """What scikit-learn pickled and packed; nothing in it is run."""
    with reading(path, UsageError, "Fetch it again."):
        try:
            body = zlib.decompressobj().decompress(path.read_bytes(), MOST_UNPACKED)
            content = content_of(body, bunches=True)
        except Exception as error:  # a damaged pickle may raise almost anything
            words = " ".join(str(error).split())[:MOST_WORDS]
            raise UsageError(
                f"{path} cannot be read as scikit-learn's cache of 20 Newsgroups ({words}). Fetch it again."
            ) from error
    return content if isinstance(content, dict) else {}


def _part(cache: dict[Any, Any], part: str, path: pathlib.Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Texts, class numbers and names of the groups."""
    held = cache.get(part)
    texts, labels, names = (held.get(key) if isinstance(held, dict) else None for key in ("data", "target", "target_names"))
    for what, value in (("texts", texts), ("names of groups", names)):
        if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
            raise UsageError(f"{path}: the part {part!r} holds no list of {what}. Fetch it again.")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        raise UsageError(f"{path}: the part {part!r} holds no array of class numbers. Fetch it again.")
    origin = given.Origin(f"{path}, {part}", range(len(texts)))  # type: ignore[arg-type]
    return texts, given.encode(given.checked(labels, origin), names, origin).numpy(), names  # type: ignore[arg-type,return-value]


def _cutting(remove: str) -> Callable[[str], str]:
    """What cuts a text, by scikit-learn's own rules."""
    before = random.getstate()
    from sklearn.datasets import _twenty_newsgroups as rules

    random.setstate(before)
    steps = {
        "headers": rules.strip_newsgroup_header,
        "footers": rules.strip_newsgroup_footer,
        "quotes": rules.strip_newsgroup_quoting,
    }
    chosen = [step for part, step in steps.items() if part in remove.split("+")]

    def cut(text: str) -> str:
        for step in chosen:
            text = step(text)
        return text

    return cut
