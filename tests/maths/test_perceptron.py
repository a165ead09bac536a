"""The theory of pruning: against an independent solution, its limits, and separators of largest margin that are really found."""

import math
import pathlib

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from assay.maths.perceptron import learnt

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "perceptron.npz"
COLUMNS = ("theta_deg", "mode_easy", "f", "alpha_kept", "error", "R", "kappa")


def golden():
    with np.load(GOLDEN) as file:
        return np.stack([file[key] for key in COLUMNS], 1)


def check(row, tolerance):
    theta, easy, fraction, alpha, error, overlap, margin = row
    found = learnt(alpha, fraction, "easy" if easy else "hard", math.radians(theta))
    assert found.error == pytest.approx(error, abs=tolerance)
    assert found.overlap == pytest.approx(overlap, abs=tolerance)
    assert found.margin == pytest.approx(margin, abs=10 * tolerance)


@pytest.mark.parametrize("row", [row for row in golden() if row[0] == 0], ids=lambda row: f"{row[1]:.0f}-{row[2]}-{row[3]}")
def test_a_perfect_probe_equals_what_was_computed_elsewhere(row):
    check(row, 1e-7)


def rough(row):
    """Points of the other solution that are not the largest margin (see below)."""
    return row[0] == 10 and row[1] == 1 and row[2] == 0.2 and row[3] <= 4


@pytest.mark.parametrize(
    "row",
    [row for row in golden() if row[0] > 0 and not rough(row)][::7],
    ids=lambda row: f"{row[0]:.0f}-{row[1]:.0f}-{row[2]}-{row[3]}",
)
def test_an_imperfect_probe_equals_what_was_computed_elsewhere(row):
    check(row, 5e-6)


@pytest.mark.parametrize("row", [row for row in golden() if rough(row)], ids=lambda row: f"{row[3]}")
def test_where_the_probe_is_sure_the_student_leans_as_if_it_were_right(row):
    # All kept fields are so large that the label is the sign of the probe's: the student is that of a perfect probe, turned by the angle.
    # The solution computed elsewhere is off by up to 1.3e-5 here, and its margin is smaller.
    theta, _, fraction, alpha, error, overlap, margin = row
    found, right = learnt(alpha, fraction, "easy", math.radians(theta)), learnt(alpha, fraction, "easy")
    assert found.overlap == pytest.approx(right.overlap * math.cos(math.radians(theta)), abs=1e-9)
    assert found.margin == pytest.approx(right.margin, abs=1e-9) and found.margin > margin
    assert found.error == pytest.approx(error, abs=2e-5) and found.overlap == pytest.approx(overlap, abs=3e-5)


def test_what_is_known_of_the_limits():
    assert learnt(100).error == pytest.approx(0.5 / 100, rel=0.01)
    # Keeping the hard ones costs nothing: the error follows the examples that there were.
    assert learnt(50, 0.5).error == pytest.approx(0.5 * 0.5 / 50, rel=0.02)
    # Few examples: easy ones teach more; many: hard ones.
    assert learnt(1, 0.5, "easy").error < learnt(1).error < learnt(1, 0.5, "hard").error
    assert learnt(10, 0.5, "hard").error < learnt(10, 0.5, "easy").error < learnt(10).error
    # Who keeps everything needs no probe.
    assert learnt(3, 1.0, "easy", 0.3) == learnt(3)
    # Whatever the probe says about much data, a small part of it that is picked by a tilted probe no longer helps.
    assert learnt(5, 0.2, "hard", math.radians(20)).error > learnt(5, 0.2, "hard").error


@pytest.mark.parametrize(("alpha", "fraction", "keep"), [(1.0, 1.0, "hard"), (2.0, 0.5, "hard"), (1.0, 0.5, "easy")])
def test_separators_of_largest_margin_make_these_errors(alpha, fraction, keep):
    dims, errors = 120, []
    for seed in range(6):
        draw = np.random.default_rng(seed)
        teacher = np.eye(dims)[0]
        inputs = draw.normal(size=(round(alpha * dims / fraction), dims))
        order = np.argsort(np.abs(inputs @ teacher))
        count = round(alpha * dims)
        kept = inputs[order[:count] if keep == "hard" else order[-count:]]
        student = (
            LinearSVC(C=1e4, loss="hinge", fit_intercept=False, max_iter=400_000, tol=1e-5)
            .fit(kept, np.sign(kept @ teacher))
            .coef_[0]
        )
        errors.append(math.acos(student @ teacher / np.linalg.norm(student)) / math.pi)
    expected = learnt(alpha, fraction, keep).error
    assert np.mean(errors) == pytest.approx(expected, abs=4 * np.std(errors, ddof=1) / math.sqrt(len(errors)) + 0.01)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alpha": 0}, "alpha=0 is not above 0"),
        ({"alpha": 1, "fraction": 0}, "fraction=0 is outside"),
        ({"alpha": 1, "angle": 2}, "angle=2 is outside"),
    ],
)
def test_settings_out_of_range_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        learnt(**given)
