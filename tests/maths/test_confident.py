"""Confident learning against the definitions, one example after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths.confident import confident_classes, confident_counts, find, rounded, thresholds


def drawn(examples, classes, seed, sharp=1.0):
    draw = np.random.default_rng(seed)
    true = draw.integers(0, classes, examples)
    labels = np.where(draw.random(examples) < 0.2, draw.integers(0, classes, examples), true)
    probs = draw.dirichlet(np.ones(classes) * sharp, examples)
    probs[np.arange(examples), true] += 1
    return torch.from_numpy(probs / probs.sum(1, keepdims=True)), torch.from_numpy(labels)


def by_hand(probs, labels, classes):
    """Thresholds, the class that each example is confidently of, and the joint."""
    probs, labels = probs.tolist(), labels.tolist()
    bounds = []
    for one in range(classes):
        own = [row[one] for row, label in zip(probs, labels, strict=True) if label == one]
        bounds.append(sum(own) / len(own) if own else None)
    confident, counts = [], [[0.0] * classes for _ in range(classes)]
    for row, label in zip(probs, labels, strict=True):
        reached = [one for one in range(classes) if bounds[one] is not None and row[one] >= bounds[one] - 1e-12 and row[one] > 0]
        confident.append(max(reached, key=lambda one: (row[one], -one)) if reached else -1)
        if reached:
            counts[label][confident[-1]] += 1
    for one in range(classes):
        counts[one][one] = max(counts[one][one], 1)
        total = sum(counts[one])
        counts[one] = [count / total * labels.count(one) for count in counts[one]]
    return bounds, confident, counts


def found_by_hand(probs, labels, counts, by):
    """Rankings by sorting lists; ties go to the first."""
    counts, probs, labels = rounded(torch.tensor(counts).double()).tolist(), probs.tolist(), labels.tolist()
    classes = len(counts)
    named = {"class": set(), "noise_rate": set()}
    for given_class in range(classes):
        here = [at for at, label in enumerate(labels) if label == given_class]
        wrong = len(here) - counts[given_class][given_class]
        named["class"] |= set(sorted(here, key=lambda at: probs[at][given_class])[:wrong])
        for other in set(range(classes)) - {given_class}:
            order = sorted(here, key=lambda at: probs[at][given_class] - probs[at][other])
            named["noise_rate"] |= set(order[: counts[given_class][other]])
    chosen = named["class"] & named["noise_rate"] if by == "both" else named[by]
    return {at for at in chosen if max(probs[at]) > probs[at][labels[at]]}


@given(st.integers(2, 60), st.integers(2, 5), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_it_is_the_definitions(examples, classes, seed):
    probs, labels = drawn(examples, classes, seed)
    bounds, confident, counts = by_hand(probs, labels, classes)
    found = thresholds(probs, labels)
    expected = torch.tensor([float("inf") if one is None else one for one in bounds], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    assert confident_classes(probs, found, labels).tolist() == confident
    there = confident_counts(torch.tensor(confident), labels, classes)
    torch.testing.assert_close(there, torch.tensor(counts).double())
    assert torch.equal(there.sum(1).round(), labels.bincount(minlength=classes).double())
    ranks = torch.arange(examples)
    for by in ("class", "noise_rate", "both"):
        assert set(find(probs, labels, ranks, by).nonzero().flatten().tolist()) == found_by_hand(probs, labels, counts, by)
    off = {at for at, one in enumerate(confident) if one not in (-1, int(labels[at])) and probs[at].max() > probs[at, labels[at]]}
    assert set(find(probs, labels, ranks, "off_diagonal").nonzero().flatten().tolist()) == off


def test_whole_numbers_keep_the_sums_of_rows():
    counts = torch.tensor([[2.5, 0.5, 1.0], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 0.0], [1.9, 0.1, 3.0]], dtype=torch.float64)
    assert rounded(counts).tolist() == [[3, 0, 1], [1, 0, 0], [0, 0, 0], [2, 0, 3]]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
def test_calibrated_probabilities_give_the_joint_that_the_labels_were_drawn_from(rate):
    draw = np.random.default_rng(1)
    true = draw.integers(0, 4, 8000)
    labels = np.where(draw.random(8000) < rate, (true + 1) % 4, true)
    probs = np.full((8000, 4), 0.02)
    probs[np.arange(8000), true] = 0.94
    found = confident_counts(
        confident_classes(
            torch.from_numpy(probs), thresholds(torch.from_numpy(probs), torch.from_numpy(labels)), torch.from_numpy(labels)
        ),
        torch.from_numpy(labels),
        4,
    )
    assert abs(1 - float(found.trace()) / 8000 - float((labels != true).mean())) < 1e-3
    ranks = torch.arange(8000)
    for by in ("class", "noise_rate", "both", "off_diagonal"):
        wrong = find(torch.from_numpy(probs), torch.from_numpy(labels), ranks, by).numpy()
        assert (wrong == (labels != true)).all()


def test_a_class_without_labels_and_one_without_confident_examples_vanish_not():
    probs, labels = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), torch.tensor([1, 1])
    bounds = thresholds(probs, labels)
    assert bounds[0] == bounds[2] == float("inf") and float(bounds[1]) == pytest.approx(0.45)
    assert confident_classes(probs, bounds, labels).tolist() == [-1, 1]
    assert confident_counts(confident_classes(probs, bounds, labels), labels, 3).tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 0]]
    assert not bool(find(probs, labels, torch.arange(2)).any())


@pytest.mark.parametrize("name", [[0, 1], [1, 0]])
def test_equal_votes_are_no_evidence_against_a_label(name):
    """As of a forest of ten trees; whichever class is the first."""
    probs = torch.tensor([[0.5, 0.5]] * 4 + [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], dtype=torch.float64)[:, name]
    labels = torch.tensor(name)[torch.tensor([0, 1, 0, 1, 0, 1, 0])]
    bounds = torch.tensor([0.4, 0.4], dtype=torch.float64)
    confident = confident_classes(probs, bounds, labels)
    assert (confident == labels).tolist() == [True] * 6 + [False]
