"""Confident learning against the definitions, one example after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths.confident import RESAMPLED, confident_classes, confident_counts, find, rounded, thresholds, wrong_intervals


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


def wrong(probs, labels):
    counts = confident_counts(confident_classes(probs, thresholds(probs, labels), labels), labels, probs.shape[1])
    return counts.sum(1) - counts.diagonal()


def by_definition(probs, labels, seed):
    """Counts by class of every bootstrap sample, from the sampled examples themselves."""
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(RESAMPLED):
        at = torch.from_numpy(generator.integers(len(labels), size=len(labels)))
        drawn.append(wrong(probs[at], labels[at]))
    return torch.stack(drawn)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_interval_is_the_bootstrap_of_the_count(classes):
    probs, labels = drawn(80, classes, 3)
    # A class of one example, which some samples lack.
    probs, labels = torch.cat([probs, probs[:1]]), torch.cat([labels.clamp(max=classes - 1), torch.tensor([classes - 1])])
    total, rows = wrong_intervals(probs, labels, 7)
    samples, exact = by_definition(probs, labels, 7), wrong(probs, labels)
    ends = torch.tensor([0.025, 0.975]).double()
    torch.testing.assert_close(rows[:, 0], exact)
    torch.testing.assert_close(rows[:, 1], torch.minimum(exact, samples.quantile(ends[0], dim=0)))
    assert float(total[0]) == pytest.approx(float(exact.sum()))
    assert total[1:].tolist() == pytest.approx(samples.sum(1).quantile(ends).tolist())
    assert bool((rows[:, 2] <= labels.bincount(minlength=classes)).all()) and bool((rows[:, 1] <= rows[:, 2]).all())


def test_a_class_without_examples_and_joints_without_wrong_labels_have_intervals():
    labels = torch.arange(40) % 2
    total, rows = wrong_intervals(torch.eye(3).double()[labels], labels, 0)
    assert total.tolist() == [0, 0, 3] and rows.tolist() == [[0, 0, 3], [0, 0, 3], [0, 0, 0]]
    assert all(torch.equal(*pair) for pair in zip(*(wrong_intervals(*drawn(50, 3, 0), 4) for _ in range(2)), strict=True))


def world(seed, apart, rate, sharp, error, *, pairs=False, n=1000, classes=4):
    """Held-out probabilities of the given labels, given the example: classes are normal groups so many deviations apart.

    The logits are exact (calibrated) times `sharp` (over- or underconfident) with normal errors.
    """
    draw = np.random.default_rng(seed)
    true, far = draw.integers(classes, size=n), apart / 2**0.5
    inputs = draw.normal(size=(n, classes)) + far * np.eye(classes)[true]
    clean = np.exp(far * (inputs - inputs.max(1, keepdims=True)))
    clean /= clean.sum(1, keepdims=True)
    noise = np.full((classes, classes), rate / (classes - 1))
    if pairs:
        noise = rate * np.roll(np.eye(classes), 1, axis=1)
    np.fill_diagonal(noise, 1 - rate)
    labels = (draw.random((n, 1)) > noise[true].cumsum(1)).sum(1).clip(max=classes - 1)
    logits = sharp * np.log(clean @ noise + 1e-12) + error * draw.normal(size=(n, classes))
    return torch.from_numpy(logits).softmax(1), torch.from_numpy(labels), torch.from_numpy(true)


CALIBRATION = {"calibrated": (1.0, 0.0), "underconfident": (0.5, 0.3), "overconfident": (2.0, 0.5)}


def covered(made, repeats, **how):
    """Whether the interval holds the number of wrong labels, to a whole number: of all, and the share of classes."""
    sharp, error = made
    whole, parts = [], []
    for seed in range(repeats):
        probs, labels, true = world(seed, sharp=sharp, error=error, **how)
        total, rows = wrong_intervals(probs, labels, seed)
        known = torch.bincount(labels[labels != true], minlength=4)
        whole.append(float(total[1]) - 0.5 <= int(known.sum()) <= float(total[2]) + 0.5)
        parts.append(((rows[:, 1] - 0.5 <= known) & (known <= rows[:, 2] + 0.5)).double().mean())
    return float(np.mean(whole)), float(np.mean(parts))


def test_the_interval_holds_the_truth_where_classes_lie_apart_and_not_where_they_overlap():
    for made in CALIBRATION.values():
        assert covered(made, 3, apart=6, rate=0.1)[0] == 1
        # Right labels of unclear examples are counted, of a calibrated model too.
        assert covered(made, 3, apart=3, rate=0.1)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", CALIBRATION)
@pytest.mark.parametrize(("rate", "pairs"), [(0, False), (0.05, False), (0.2, False), (0.2, True)])
def test_the_interval_covers_as_often_as_it_says_where_classes_lie_apart(kind, rate, pairs):
    whole, parts = covered(CALIBRATION[kind], 100, apart=6, rate=rate, pairs=pairs)
    assert whole >= 0.95 and parts >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", CALIBRATION)
def test_where_classes_overlap_it_covers_next_to_nothing_which_is_said(kind):
    for rate in (0, 0.1):
        assert covered(CALIBRATION[kind], 40, apart=3, rate=rate)[0] <= 0.1
    # A model that errs as much as labels do.
    assert covered((1.0, 1.0), 40, apart=6, rate=0.2, pairs=True)[0] <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("apart", "made", "rate", "pairs"), [(3, (0.5, 0.3), 0, False), (3, (1.0, 1.0), 0, False), (6, (1.0, 1.0), 0.2, True)]
)
def test_where_the_margins_cannot_tell_the_joint_does_not_hold_the_truth_either(apart, made, rate, pairs):
    from assay.core.ids import Ids
    from assay.core.wrong_labels import count_of_margins

    silent = held = 0
    for seed in range(40):
        probs, labels, true = world(seed, apart, rate, *made, pairs=pairs)
        logs = probs.clamp(min=1e-12).log()
        margins = logs.gather(1, labels[:, None])[:, 0] - logs.scatter(1, labels[:, None], -torch.inf).amax(1)
        if not count_of_margins(Ids(range(len(labels))), margins, None).clear:
            total, known = wrong_intervals(probs, labels, seed)[0], int((labels != true).sum())
            silent, held = silent + 1, held + (float(total[1]) - 0.5 <= known <= float(total[2]) + 0.5)
    assert silent >= 10 and held <= 0.1 * silent
