import dataclasses

import pytest
import torch

from assay.core.report_data import Agreement, LearningCurve
from assay.core.trial import Comparison
from assay.reports import charts
from reports import example_reports


def test_every_count_of_a_histogram_is_drawn_once():
    one = example_reports.report(300).histograms[0]
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
    outcomes = example_reports.report(50).verdict.outcomes
    spec = charts.accuracies(outcomes)
    assert spec["encoding"]["x"]["sort"] == ["decision", "random control", "all data"]
    assert {row["seed"] for row in spec["data"]["values"]} == set(range(5))


def layers_of(spec, kind):
    return [
        layer for layer in spec["layer"] if (layer["mark"] if isinstance(layer["mark"], str) else layer["mark"]["type"]) == kind
    ]


def test_courses_of_the_extreme_examples_are_drawn_as_given():
    one = example_reports.influenced(60).influences[0]
    (lines,) = layers_of(charts.over_time(one, "nats"), "line")
    rows = lines["data"]["values"]
    assert len(rows) == 20 * 3 and {row["kind"] for row in rows} == {charts.HELPFUL, charts.HARMFUL}
    worst = [row["value"] for row in rows if row["id"] == str(next(iter(one.harmful.ids)))]
    assert worst == pytest.approx(one.harmful.over_time[:, 0].tolist(), rel=1e-3)
    (means,) = layers_of(charts.labels_over_time(one, "nats"), "line")
    found = [row["value"] for row in means["data"]["values"] if row["kind"] == charts.WRONG]
    assert found == pytest.approx(one.wrong.tolist(), rel=1e-3)


def test_a_norm_of_nothing_or_everything_has_no_place_on_a_logarithmic_axis():
    one = dataclasses.replace(example_reports.influenced(60).influences[0], norms=((0, float("inf")), (1, 2.0), (2, 0.0)))
    spec = charts.adjoints(one)
    assert spec["data"]["values"] == [{"epoch": 1, "norm": 2.0}]
    assert spec["encoding"]["y"]["scale"]["type"] == "log"


def test_equal_values_are_drawn_only_where_equal_is_right_and_no_further_than_the_points():
    made = example_reports.influenced(60)
    same, _, other = made.comparisons
    (diagonal,) = layers_of(charts.score_comparison(same), "line")
    low, high = (end["x"] for end in diagonal["data"]["values"])
    assert low == pytest.approx(max(float(same.values.min()), float(same.references.min())), rel=1e-3)
    assert high == pytest.approx(min(float(same.values.max()), float(same.references.max())), rel=1e-3)
    assert layers_of(charts.score_comparison(other), "line") == []
    far = dataclasses.replace(same, references=same.references + 100)
    assert layers_of(charts.score_comparison(far), "line") == [], "no value stands in both ranges"


def test_a_curve_shows_every_training_and_the_choice():
    one = example_reports.curve()
    spec = charts.curve(one, "test")
    band, dashes, lines, ring = spec["layer"]
    rows = lines["data"]["values"]
    worst = {row["count"]: row["accuracy"] for row in rows if row["arm"] == charts.LEFT_OUT["worst"]}
    assert worst == pytest.approx({0: 88, 1: 89, 10: 91, 100: 83})
    drawn = sorted(row["accuracy"] for row in rows if row["arm"] == charts.LEFT_OUT["random"] and row["count"] == 10)
    assert drawn == pytest.approx([85, 86, 87])
    assert band["encoding"]["y"]["aggregate"] == "min" and band["encoding"]["y2"]["aggregate"] == "max"
    assert [row["accuracy"] for row in dashes["data"]["values"]] == [88, 88]
    assert ring["data"]["values"] == [{"count": 10, "accuracy": pytest.approx(91)}]
    assert lines["encoding"]["x"]["scale"]["type"] == "symlog"
    (first, *_) = charts.curve(one, "validation")["layer"][3]["data"]["values"]
    assert first["accuracy"] == pytest.approx(93)


def test_each_part_has_its_colour_and_what_is_not_finite_is_left_out():
    nan = torch.tensor([0.5, float("nan")], dtype=torch.float64)
    curves = (
        LearningCurve("training", 9, (0, 1), torch.tensor([0.25, 0.5], dtype=torch.float64), nan),
        LearningCurve("test", 4, (1,), torch.tensor([0.75], dtype=torch.float64)),
    )
    accuracy, loss = (charts.learning(curves, part) for part in ("accuracy", "loss"))
    assert [(row["part"], row["epoch"], row["value"]) for row in accuracy["data"]["values"]] == [
        ("training", 0, 25.0),
        ("training", 1, 50.0),
        ("test", 1, 75.0),
    ]
    assert [row["epoch"] for row in loss["data"]["values"]] == [0]
    colours = [one["encoding"]["color"] for one in (accuracy, loss)]
    assert colours[0]["scale"] == colours[1]["scale"] and [one["legend"]["values"] for one in colours] == [
        ["test", "training"],
        ["training"],
    ]
