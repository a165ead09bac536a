"""Disagreement with the nearest neighbours, against sorting all distances in exact arithmetic, and by hand."""

import dataclasses
import fractions
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import assay
from assay.core.errors import MissingEvidence, UsageError
from assay.core.ids import Ids
from assay.core.scoring import score
from assay.maths import neighbours
from assay.methods import parse
from assay.methods.knn_disagreement import knn_disagreement
from assay.replay.replay import Replay
from methods.loops import World

VARIANTS = [
    {"features": "inputs"},
    {"features": "layer:0", "metric": "euclidean", "k": 7},
    {"weights": "similarity"},
    {"features": "penultimate@1", "metric": "euclidean", "weights": "similarity"},
]
"""Options that the laws run it with, beside the defaults."""
REFUSED = [
    "k=0",
    "k=2.5",
    "metric=manhattan",
    "weights=none",
    "features=outputs",
    "features=",
    "features=rows:",
    "features=layer:",
    "features=inputs@1",
    "features=penultimate@",
    "features=penultimate@-1",
    "features=head_grads@last",
    "features=grads",
    "features=grads:project=0",
    "features=grads:project=1.5",
]
"""Options that are refused, with their name in the sentence."""


def by_hand(rows, labels, k, metric="euclidean", weights="equal"):
    """One example at a time: all distances of whole numbers exactly, those at the k-th by their share."""
    found = []
    for place, row in enumerate(rows):
        gaps = []
        for at, other in enumerate(rows):
            dot, one, two = (
                sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((row, other), (row, row), (other, other))
            )
            if metric == "euclidean":
                gap = fractions.Fraction(one + two - 2 * dot)
            else:
                # The cosine by its square and sign, which are exact and in the same order.
                cosine = fractions.Fraction(dot * abs(dot), one * two) if one and two else fractions.Fraction(0)
                gap = 1 - cosine
            if at != place:
                gaps.append((gap, labels[at] != labels[place]))
        last = sorted(gaps)[k - 1][0]
        near, tied = [one for one in gaps if one[0] < last], [one for one in gaps if one[0] == last]
        counts = [1.0] * len(near) + [(k - len(near)) / len(tied)] * len(tied)

        def distance(gap):
            return float(gap) if metric == "euclidean" else 1 - math.copysign(math.sqrt(abs(1 - gap)), 1 - gap)

        if weights == "similarity" and last > 0:
            counts = [
                count * math.exp(-distance(gap) / distance(last)) for count, (gap, _) in zip(counts, near + tied, strict=True)
            ]
        wrong = sum(count for count, (_, other) in zip(counts, near + tied, strict=True) if other)
        found.append(wrong / sum(counts))
    return torch.tensor(found, dtype=torch.float64)


@given(
    st.integers(2, 25),
    st.integers(1, 4),
    st.sampled_from(["euclidean", "cosine"]),
    st.sampled_from(["equal", "similarity"]),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_it_is_what_sorting_gives_with_any_ties_and_tiles(examples, dims, metric, weights, data):
    draw = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    # Few different numbers, so that ties, duplicates and rows of zeros are many.
    rows = draw.integers(-2, 3, (examples, dims))
    labels = torch.from_numpy(draw.integers(0, 3, examples))
    k = data.draw(st.integers(1, examples - 1))
    columns, tile = neighbours.COLUMNS, neighbours.TILE_BYTES
    try:
        neighbours.COLUMNS, neighbours.TILE_BYTES = data.draw(st.integers(1, 8)), data.draw(st.integers(8, 2000))
        for dtype in (torch.float32, torch.float64):
            found = knn_disagreement(torch.from_numpy(rows).to(dtype), labels, k, metric, weights)
            expected = by_hand(rows.tolist(), labels.tolist(), k, metric, weights)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    finally:
        neighbours.COLUMNS, neighbours.TILE_BYTES = columns, tile


def test_by_hand():
    rows = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]])
    labels = torch.tensor([0, 0, 1, 1, 0])
    found = knn_disagreement(rows, labels, 2, "euclidean")
    # Of the third, 1 is nearest, and 0 and 6 are equally far.
    assert found.tolist() == [0.5, 0.5, 0.75, 0.5, 1.0]
    # The example in the middle has two at the same distance: each counts one half.
    tied = knn_disagreement(torch.tensor([[0.0], [-1.0], [1.0]]), torch.tensor([0, 0, 1]), 1, "euclidean")
    assert tied.tolist() == [0.5, 0.0, 1.0]
    # Neighbours at 1 and 3: exp(-1/9) and exp(-1) of squared distances by that of the second.
    near, far = math.exp(-1 / 9), math.exp(-1)
    assert float(knn_disagreement(rows, labels, 2, "euclidean", "similarity")[0]) == pytest.approx(far / (near + far), rel=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("weights", ["equal", "similarity"])
@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_the_scale_of_rows_changes_nothing(metric, weights, size):
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(40, 6, generator=draw, dtype=torch.float64), torch.randint(3, (40,), generator=draw)
    expected = knn_disagreement(rows, labels, 7, metric, weights)
    torch.testing.assert_close(knn_disagreement(rows * size, labels, 7, metric, weights), expected, rtol=1e-9, atol=1e-12)


def test_far_from_zero_euclidean_neighbours_are_still_found():
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(40, 6, generator=draw, dtype=torch.float64), torch.randint(3, (40,), generator=draw)
    expected = knn_disagreement(rows, labels, 7, "euclidean")
    assert torch.equal(knn_disagreement(rows + 1e6, labels, 7, "euclidean"), expected)


def test_where_all_rows_are_one_everybody_counts():
    labels = torch.tensor([0, 0, 1, 1, 1])
    for rows in (torch.zeros(5, 3), torch.ones(5, 3)):
        for metric in ("cosine", "euclidean"):
            for weights in ("equal", "similarity"):
                found = knn_disagreement(rows, labels, 2, metric, weights)
                torch.testing.assert_close(found, torch.tensor([0.75, 0.75, 0.5, 0.5, 0.5], dtype=torch.float64))


def test_too_few_examples_and_rows_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="k=5 neighbours are asked for and there are 4"):
        knn_disagreement(torch.eye(5), torch.zeros(5, dtype=torch.int64), 5)
    rows = torch.eye(5)
    rows[3, 3] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        knn_disagreement(rows, torch.zeros(5, dtype=torch.int64), 2, "euclidean")
    evidence = assay.gather_inputs(Ids(range(5)), torch.eye(5), torch.tensor([0, 1, 0, 1, 0]))
    with pytest.raises(UsageError, match="knn_disagreement:features=inputs: k=10 neighbours are asked for and there are 4"):
        score([parse("knn_disagreement:features=inputs")], evidence)


def test_rows_in_memory_need_no_training():
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 3
    evidence = assay.gather_inputs(Ids(range(30)), inputs, labels)
    table = assay.score(evidence, "knn_disagreement:features=inputs,k=5")
    assert torch.equal(table["knn_disagreement:features=inputs,k=5"].values, knn_disagreement(inputs, labels, 5))
    with pytest.raises(MissingEvidence, match=r"features=penultimate are made by a model .* or choose features=inputs"):
        assay.score(evidence, "knn_disagreement")
    with pytest.raises(MissingEvidence, match="Rows of the name 'e' were not passed"):
        assay.score(evidence, "knn_disagreement:features=rows:e")


def test_of_a_users_own_loop_it_takes_the_kept_model(tmp_path):
    world = World(tmp_path / "run")
    params = world.run.model(2)
    hidden = torch.tanh(world.inputs @ params["hidden.weight"].T + params["hidden.bias"])
    (found,) = world.score("knn_disagreement:k=4").values()
    torch.testing.assert_close(found.values, knn_disagreement(hidden, world.labels, 4), rtol=0, atol=1e-12)


def test_a_model_makes_features_once_for_all_that_ask_for_the_same(tmp_path, monkeypatch):
    world, made = World(tmp_path / "run"), []
    features = Replay.features

    def counted(replay, spec):
        found = features(replay, spec)
        return dataclasses.replace(found, read=lambda: made.append(str(spec)) or found.read())

    monkeypatch.setattr(Replay, "features", counted)
    names = ["k=4", "features=layer:hidden", "k=3,metric=euclidean", "k=4,features=layer:hidden"]
    found = world.score(*(f"knn_disagreement:{name}" for name in names))
    assert made == ["penultimate", "layer:hidden"]
    for title, scores in found.items():
        assert torch.equal(scores.values, world.score(title)[title].values)
