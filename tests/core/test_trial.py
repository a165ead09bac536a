import dataclasses

import pytest

from assay.core.errors import UsageError
from assay.core.trial import ALL, KEPT, RANDOM, Claim, Cleaning, Comparison, Look, Verdict


def comparison(effect=0.02, low=0.01, high=0.03, p=0.004, n=5, treatment=KEPT, baseline=RANDOM):
    return Comparison(treatment, baseline, effect, low, high, p, "paired t", n)


def test_a_significant_difference_says_which_way():
    assert comparison().significant
    assert comparison().sentence == (
        "The decision is better than random removal of equal size (+2.00 points of test accuracy, 95 % interval over seeds +1.00 to +3.00, "
        "p = 0.004, 5 seeds)."
    )
    worse = comparison(-0.02, -0.03, -0.01, baseline=ALL)
    assert worse.sentence.startswith("The decision is worse than all examples as given (-2.00 points")


@pytest.mark.parametrize(
    "given",
    [
        {"p": 0.2},
        {"p": 0.05},
        {"low": -0.001},
        {"low": 0.0},
        {"effect": -0.02, "low": -0.03, "high": 0.001},
        {"p": float("nan")},
    ],
)
def test_no_significant_difference_says_so(given):
    made = comparison(**given)
    assert not made.significant
    assert "no significant difference" in made.sentence and "better" not in made.sentence and "worse" not in made.sentence


def test_one_seed_is_no_comparison():
    with pytest.raises(UsageError, match="1 seed cannot tell an effect from chance"):
        comparison(n=1)


def test_cleaning():
    made = Cleaning(planted=10, touched=8, hit=6, mended=2)
    assert made.precision == 0.75 and made.recovered == 0.6
    assert Cleaning(0, 0, 0, 0).precision == 0.0 and Cleaning(0, 0, 0, 0).recovered == 0.0


def test_a_correction_is_part_of_the_finding():
    made = dataclasses.replace(comparison(p=0.01), adjusted=0.02, family=2)
    assert made.significant and "p = 0.01, 0.02 corrected for 2 comparisons, 5 seeds" in made.sentence
    made = dataclasses.replace(made, adjusted=0.06, family=6, looks=(3, 5))
    assert (
        not made.significant and "0.06 corrected for 6 comparisons and earlier looks with 3 and 5 seeds, 5 seeds" in made.sentence
    )


def test_what_a_verdict_speaks_of_is_said_beside_its_intervals():
    made = dataclasses.replace(comparison(p=0.001), adjusted=0.012, family=2, place=3, share=1 / 12)
    assert "0.012 corrected for 2 comparisons of decision 3 on this run, 5 seeds" in made.sentence
    scope = Verdict("top", (), (made,), decisions=4).scope
    assert "of this very test set" in scope[0] and "88 to 92 %" in scope[1] and len(scope) == 3
    assert "decision 3 of 4" in scope[2] and "p are multiplied by 12, its turn:" in scope[2]
    passed = Verdict("top", (), (dataclasses.replace(made, share=1 / 12 + 1 / 6),), decisions=4).scope[2]
    assert "multiplied by 4, its turn, with what decision 2 passed on" in passed
    flat = dataclasses.replace(made, low=None, high=None)
    assert not any("88 to 92 %" in words for words in Verdict("top", (), (flat,)).scope)
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="no part of the level"):
            dataclasses.replace(made, share=wrong)


def test_two_seeds_are_never_significant():
    made = comparison(n=2, p=0.001)
    assert not made.significant
    assert made.sentence == (
        "The decision and random removal of equal size: 2 seeds cannot tell (+2.00 points of test accuracy); verify with at least 3."
    )


def test_equal_differences_have_no_interval_and_may_be_significant():
    made = comparison(low=None, high=None, p=0.03125, n=6)
    assert made.significant and "no interval, because every seed shows the same difference" in made.sentence
    with pytest.raises(UsageError, match="two ends or none"):
        comparison(low=None)


def test_a_claim_is_as_strong_as_its_weakest_look():
    claim = Claim("d", "x").seen(Look(3, "a", (0.2, 0.01))).seen(Look(5, "b", (0.001, 0.02)))
    assert claim.ps == (0.2, 0.02) and len(claim.looks) == 2
    assert claim.seen(Look(3, "a", (0.2, 0.01))) is claim
