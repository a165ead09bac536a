import torch

from assay.core.exhibit import Agreement
from assay.core.trial import Comparison
from assay.reports import charts
from reports import exhibits


def test_every_count_of_a_histogram_is_drawn_once():
    one = exhibits.exhibit(300).histograms[0]
    bars = charts.histogram(one, "nats")["data"]["values"]
    assert sum(bar["count"] for bar in bars) == 300
    assert sum(bar["count"] for bar in bars if bar["label"] == charts.WRONG) == int(one.wrong.sum())


def test_an_undefined_correlation_stays_empty():
    table = Agreement(("one", "other"), torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]]))
    spec = charts.agreement(table)
    assert [cell["correlation"] for cell in spec["data"]["values"]] == [1.0, None, None, 1.0]


def test_effects_are_in_points_and_say_whether_they_are_significant():
    sure = Comparison("kept", "random", 0.02, 0.01, 0.03, 0.001, "paired t-test", 5)
    unsure = Comparison("kept", "all", 0.02, -0.01, 0.05, 0.4, "paired t-test", 5)
    spec = charts.effects([sure, unsure])
    rows = spec["layer"][1]["data"]["values"]
    assert [(row["effect"], row["finding"]) for row in rows] == [(2.0, "significant"), (2.0, "no significant difference")]


def test_arms_keep_their_order_and_their_seeds():
    outcomes = exhibits.exhibit(50).verdict.outcomes
    spec = charts.accuracies(outcomes)
    assert spec["encoding"]["x"]["sort"] == ["decision", "random removal", "all data"]
    assert {row["seed"] for row in spec["data"]["values"]} == set(range(5))
