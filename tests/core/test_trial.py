import pytest

from assay.core.errors import UsageError
from assay.core.trial import ALL, KEPT, RANDOM, Cleaning, Comparison


def comparison(effect=0.02, low=0.01, high=0.03, p=0.004, n=5, treatment=KEPT, baseline=RANDOM):
    return Comparison(treatment, baseline, effect, low, high, p, "paired t", n)


def test_a_significant_difference_says_which_way():
    assert comparison().significant
    assert comparison().sentence == (
        "The decision is better than random removal of equal size (+2.00 points of test accuracy, 95 % interval +1.00 to +3.00, "
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
