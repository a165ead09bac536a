"""Confident learning held against cleanlab (extra `oracles`), an independent library of it."""

import numpy as np
import pytest
import torch

from assay.maths.confident import confident_classes, confident_counts, find, rounded, thresholds
from assay.methods.label_quality import label_quality
from maths.test_confident import drawn

pytestmark = [
    pytest.mark.slow,
    # Its own use of numpy and scikit-learn.
    pytest.mark.filterwarnings("ignore"),
]
CASES = [(300, 4, 0, 1.0), (1000, 10, 1, 0.3), (120, 3, 2, 3.0)]
"""Examples, classes, seed and sharpness of drawn probabilities."""


def cleanlab(part):
    return pytest.importorskip(f"cleanlab.{part}", reason="the extra `oracles` is not installed")


@pytest.fixture(params=CASES)
def case(request):
    examples, classes, seed, sharp = request.param
    probs, labels = drawn(examples, classes, seed, sharp)
    return probs, labels, classes


def test_label_quality_is_cleanlabs(case):
    rank, (probs, labels, _) = cleanlab("rank"), case
    for form in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        for adjust in (False, True) if form != "confidence_weighted_entropy" else (False,):
            theirs = rank.get_label_quality_scores(labels.numpy(), probs.numpy(), method=form, adjust_pred_probs=adjust)
            ours = label_quality(probs, labels, form, adjust).numpy()
            # They raise probabilities to 1e-6 before they divide by that of the label.
            there = probs.gather(1, labels[:, None])[:, 0].numpy() > (1e-6 if form == "confidence_weighted_entropy" else -1)
            np.testing.assert_allclose(ours[there], theirs[there], rtol=1e-6, atol=1e-6)
            assert abs(ours - theirs).max() < 3e-5


def test_cleanlab_gives_the_worst_entropy_to_the_surest_labels():
    """Why we depart: a quotient below 1e-6 is divided by 1e-6."""
    rank, probs = cleanlab("rank"), np.array([[1 - 1e-12, 1e-12], [0.9, 0.1]])
    theirs = rank.get_label_quality_scores(np.array([0, 0]), probs, method="confidence_weighted_entropy")
    ours = label_quality(torch.from_numpy(probs), torch.zeros(2, dtype=torch.int64), "confidence_weighted_entropy")
    assert theirs[0] < theirs[1] and ours[0] > ours[1]


def same_guess(probs, labels, classes):
    """Whether the most probable of all classes is the most probable of those that reach their thresholds, wherever several do; where not we follow the paper."""
    bounds = thresholds(probs, labels)
    several = (probs >= bounds - 1e-6).sum(1) > 1
    return bool((confident_classes(probs, bounds, labels) == probs.argmax(1))[several].all())


def test_thresholds_and_the_joint_are_cleanlabs(case):
    count, (probs, labels, classes) = cleanlab("count"), case
    bounds = thresholds(probs, labels)
    np.testing.assert_allclose(bounds, count.get_confident_thresholds(labels.numpy(), probs.numpy()), atol=1e-12)
    ours = confident_counts(confident_classes(probs, bounds, labels), labels, classes)
    theirs = count.compute_confident_joint(labels.numpy(), probs.numpy())
    assert same_guess(probs, labels, classes)
    # Theirs are whole numbers.
    assert float((ours - torch.from_numpy(theirs)).abs().max()) < 1
    assert abs(float(ours.trace()) - theirs.trace()) <= classes / 2


@pytest.mark.parametrize(
    ("by", "theirs"),
    [
        ("class", "prune_by_class"),
        ("noise_rate", "prune_by_noise_rate"),
        ("both", "both"),
        ("off_diagonal", "confident_learning"),
    ],
)
def test_the_labels_found_are_cleanlabs(case, by, theirs):
    filters, (probs, labels, classes) = cleanlab("filter"), case
    expected = filters.find_label_issues(labels.numpy(), probs.numpy(), filter_by=theirs, n_jobs=1)
    found = find(probs, labels, torch.arange(len(labels)), by).numpy()
    if by == "off_diagonal":
        assert (found == expected).all()
        return
    counts = confident_counts(confident_classes(probs, thresholds(probs, labels), labels), labels, classes)
    whole = rounded(counts).numpy()
    other = cleanlab("count").compute_confident_joint(labels.numpy(), probs.numpy())
    # Numbers that are rounded to the same sums of rows may differ by one in a row where remainders are equal.
    assert abs(whole - other).max() <= 1
    assert (found != expected).sum() <= abs(whole - other).sum()
    if (whole == other).all():
        assert (found == expected).all()


def test_where_the_most_probable_class_misses_its_threshold_we_take_the_next():
    """Class 0 is the most probable of the first example and below its threshold, class 1 and 2 reach theirs: the paper counts the more probable of these."""
    count = cleanlab("count")
    probs = np.array([[0.4, 0.32, 0.28]] + [[0.9, 0.05, 0.05]] * 20 + [[0.5, 0.3, 0.2], [0.5, 0.25, 0.25]])
    labels = np.array([2] + [0] * 20 + [1, 2])
    theirs = count.compute_confident_joint(labels, probs, calibrate=False)
    there = confident_classes(
        torch.from_numpy(probs), thresholds(torch.from_numpy(probs), torch.from_numpy(labels)), torch.from_numpy(labels)
    )
    assert theirs[2, 0] == 1 and int(there[0]) == 1
