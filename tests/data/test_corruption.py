import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.data.corruption import plant
from assay.data.examples import Examples


def examples(n=60, classes=4, texts=False):
    ids = Ids([f"e{i}" for i in range(n)] if texts else range(n))
    return Examples(ids, torch.zeros(n, 1), torch.arange(n) % classes, tuple(str(c) for c in range(classes)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(2, 12), st.floats(0, 1), st.integers(0, 9), st.sampled_from(["uniform", "pair"]))
def test_exactly_as_many_as_asked_and_none_to_itself(n, classes, rate, seed, kind):
    clean = examples(n, classes)
    planted = plant(clean, kind, rate, seed)
    assert planted.count == round(rate * n)
    assert torch.equal(planted.true_labels, clean.labels)
    assert torch.equal(planted.mask, planted.examples.labels != clean.labels)
    assert planted.examples.ids == clean.ids and planted.examples.inputs is clean.inputs
    if kind == "pair":
        assert torch.equal(planted.examples.labels, torch.where(planted.mask, (clean.labels + 1) % classes, clean.labels))


MATRIX = [[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.7, 0.0], [0.0, 0.0, 0.4, 0.6]]
KINDS = [("uniform", {"rate": 0.3}), ("pair", {"rate": 0.3}), ("class", {"matrix": MATRIX})]


@pytest.mark.parametrize(("kind", "how"), KINDS, ids=[kind for kind, _ in KINDS])
def test_the_order_of_the_examples_does_not_matter(kind, how):
    clean = examples(texts=True)
    order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(0))
    one, other = plant(clean, kind, seed=5, **how), plant(clean.take(order), kind, seed=5, **how)
    assert torch.equal(other.examples.labels, one.examples.labels[order]) and torch.equal(other.mask, one.mask[order])
    assert other.examples.fingerprint == one.examples.fingerprint != clean.fingerprint


@pytest.mark.parametrize(("kind", "how"), KINDS, ids=[kind for kind, _ in KINDS])
def test_the_seed_decides(kind, how):
    labels = [plant(examples(), kind, seed=seed, **how).examples.labels for seed in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])


def test_a_larger_rate_flips_the_same_and_more():
    few, many = plant(examples(), rate=0.1, seed=2), plant(examples(), rate=0.5, seed=2)
    assert not bool((few.mask & ~many.mask).any())
    assert torch.equal(few.examples.labels[few.mask], many.examples.labels[few.mask])


def test_uniform_flips_reach_every_other_class_equally():
    n, classes = 40000, 4
    planted = plant(examples(n, classes), rate=0.5, seed=0)
    table = torch.zeros(classes, classes)
    for true in range(classes):
        table[true] = planted.examples.labels[planted.true_labels == true].bincount(minlength=classes) / (n / classes)
    expected = torch.full((classes, classes), 0.5 / 3).fill_diagonal_(0.5)
    assert float((table - expected).abs().max()) < 0.02


def test_class_flips_follow_the_matrix():
    n = 40000
    planted = plant(examples(n), "class", seed=0, matrix=MATRIX)
    for true, row in enumerate(MATRIX):
        seen = planted.examples.labels[planted.true_labels == true].bincount(minlength=4) / (n / 4)
        assert float((seen - torch.tensor(row)).abs().max()) < 0.02
        assert [bool(chance) for chance in seen] == [bool(chance) for chance in row]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"kind": "uniform", "rate": 1.1}, r"rate=1\.1 is outside 0\.\.1"),
        ({"kind": "pair", "rate": -0.1}, r"rate=-0\.1 is outside"),
        ({"kind": "uniform", "rate": float("nan")}, "rate=nan is outside"),
        ({"kind": "uniform"}, "take a rate and no matrix"),
        ({"kind": "pair", "rate": 0.1, "matrix": MATRIX}, "take a rate and no matrix"),
        ({"kind": "class", "rate": 0.1, "matrix": MATRIX}, "take a matrix and no rate"),
        ({"kind": "class"}, "take a matrix and no rate"),
        ({"kind": "class", "matrix": MATRIX[:3]}, r"shape \(3, 4\); give 4 rows"),
        ({"kind": "class", "matrix": [*MATRIX[:3], [0.5, 0.5, 0.5, 0.0]]}, "Row 3 .* sum to 1"),
        ({"kind": "class", "matrix": [*MATRIX[:3], [1.5, -0.5, 0.0, 0.0]]}, "Row 3 .* at least 0"),
        ({"kind": "class", "matrix": [*MATRIX[:3], [float("nan"), 1.0, 0.0, 0.0]]}, "Row 3"),
        ({"kind": "class", "matrix": [["a"]]}, "cannot be read as numbers"),
        ({"kind": "random", "rate": 0.1}, "named 'random'. Known: class, pair, uniform"),
    ],
)
def test_what_cannot_be_planted(how, words):
    with pytest.raises(UsageError, match=words):
        plant(examples(), **how)
