import dataclasses

import pytest
import torch

from assay.core.decision import Decision
from assay.core.errors import Mismatch, UsageError
from assay.core.ids import Ids
from assay.core.report_data import (
    ClassCounts,
    DataMap,
    Histogram,
    Influence,
    LearningCurve,
    ReportData,
    ShownExamples,
    TopExamples,
    Trajectories,
)
from assay.core.scores import Direction, Scores
from reports import example_reports


@pytest.fixture(scope="module")
def report():
    return example_reports.report(40)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda e: {"examples": 39}, "40 examples cannot be shown of 39"),
        (lambda e: {"picked": ""}, "how they were picked"),
        (lambda e: {"class_names": ("a", "b")}, "have no class name"),
        (lambda e: {"scores": e.scores[:1] * 2}, "same title"),
        (lambda e: {"scores": e.scores[:1]}, "has no scores beside it"),
        (lambda e: {"detections": e.verdict.detections}, "carries detections"),
        (lambda e: {"data_map": example_reports.report(41).data_map}, "41 examples, 40 are shown"),
        (lambda e: {"trajectories": example_reports.report(41).trajectories}, "trajectories of 41"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(report, change, words):
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(report, **change(report))


def test_a_decision_or_score_must_cover_what_is_shown(report):
    other = example_reports.report(30, total=100)
    with pytest.raises(Mismatch, match="the decision"):
        dataclasses.replace(report, decision=other.decision)
    with pytest.raises(Mismatch, match="scores of aum"):
        dataclasses.replace(report, scores=other.scores)


def test_unscored_examples_may_be_shown():
    table = example_reports.table()
    assert len(table.scores[0]) == len(table.shown) - 2


def test_detections_come_from_the_verdict_or_stand_alone(report):
    assert report.found == report.verdict.detections and report.cleaned == report.verdict.cleaning
    alone = dataclasses.replace(report, verdict=None, detections=report.found, cleaning=report.cleaned)
    assert alone.found == report.found and alone.cleaned == report.cleaned


def test_numbers_outside_their_range_are_refused():
    half = torch.full((3,), 0.5)
    with pytest.raises(UsageError, match="variability at position 1"):
        DataMap(half, torch.tensor([0.1, 0.7, 0.1]), half)
    with pytest.raises(UsageError, match="confidence at position 0"):
        DataMap(torch.tensor([float("nan"), 0.0, 0.0]), half, half)
    with pytest.raises(UsageError, match=r"probability 2\.0 in epoch 7"):
        Trajectories((3, 7), torch.tensor([[0.0, 2.0]]))
    with pytest.raises(UsageError, match="do not fit 1 epochs"):
        Trajectories((3,), torch.zeros(2, 2))
    with pytest.raises(UsageError, match="more wrong labels than examples"):
        Histogram("aum", torch.tensor([0.0, 1.0]), torch.tensor([1]), torch.tensor([2]))
    with pytest.raises(UsageError, match="one increasing edge more"):
        Histogram("aum", torch.tensor([1.0, 0.0]), torch.tensor([1]))


def test_rows_must_fit_their_columns():
    with pytest.raises(UsageError, match="Example 1 has 1 cells under 2 columns"):
        ShownExamples(Ids([0, 1]), torch.zeros(2, dtype=torch.int64), rows=(("a", "b"), ("a",)), columns=("x", "y"))


def test_pictures_are_uint8():
    with pytest.raises(UsageError, match="give them as uint8"):
        ShownExamples(Ids([0]), torch.zeros(1, dtype=torch.int64), pictures=torch.zeros(1, 3, 4, 4).float())


def test_influence_needs_scores_and_shown_examples():
    made = example_reports.influenced(60)
    with pytest.raises(UsageError, match="influence of exact has no scores"):
        dataclasses.replace(made, scores=made.scores[1:], comparisons=())
    with pytest.raises(UsageError, match="comparison with exact has no scores"):
        dataclasses.replace(made, scores=made.scores[1:], influences=())
    stray = Influence(
        "exact", "", TopExamples(Ids([10**6]), torch.zeros(1).double()), TopExamples(Ids([]), torch.zeros(0).double())
    )
    with pytest.raises(Mismatch, match="1000000"):
        dataclasses.replace(made, influences=(stray,))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"epochs": (0, 1)}, "harmful examples over 3 epochs do not fit 2"),
        ({"wrong": torch.zeros(2).double(), "right": torch.zeros(2).double()}, "wrong labels over 2 epochs do not fit 3"),
        ({"right": None}, "give both or neither"),
        ({"norms": ((0, 1.0), (1, float("nan")))}, "norm of the adjoint"),
        ({"norms": ((0, -1.0),)}, "norm of the adjoint"),
    ],
)
def test_courses_must_fit_their_epochs(change, words):
    one = example_reports.influenced(60).influences[0]
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(one, **change)


def test_extremes_and_points_carry_one_number_each():
    with pytest.raises(UsageError, match="2 extreme examples"):
        TopExamples(Ids([1, 2]), torch.zeros(3).double())
    pair = example_reports.influenced(60).comparisons[0]
    with pytest.raises(UsageError, match="values of shape"):
        dataclasses.replace(pair, values=torch.zeros(3).double(), references=torch.zeros(3).double(), wrong=None)
    with pytest.raises(UsageError, match="60 points of 59"):
        dataclasses.replace(pair, examples=59)


def test_an_influence_without_courses_is_whole():
    none = TopExamples(Ids([]), torch.zeros(0).double())
    assert Influence("x", "", none, none).epochs == ()


def test_the_page_opens_with_what_the_decision_touches():
    ids = Ids([10, 11, 12, 13, 14])
    scores = Scores(
        ids, torch.tensor([0.5, 0.1, 0.4, 0.2, 0.3], dtype=torch.float64), "aum", {}, "aum", Direction.LOW_IS_SUSPECT, ""
    )
    keep = torch.tensor([0, 1, 1, 1, 0])
    decision = Decision(ids, keep, torch.full((5,), -1), keep.double(), ("",) * 5, "p", {}, "p by another")
    shown = ShownExamples(ids.take([4, 3, 2, 1, 0]), torch.zeros(5, dtype=torch.int64))

    def opening(**parts):
        made = ReportData("t", ("a",), 5, shown, **parts)
        return [made.shown.ids.values[at] for at in made.opening]

    assert opening(scores=(scores,), decision=decision) == [14, 10, 11, 13, 12]
    assert opening(scores=(scores,)) == [11, 13, 14, 12, 10]
    assert opening(decision=decision) == [14, 10, 13, 12, 11]
    few = Decision(ids, 1 - keep, torch.full((5,), -1), (1 - keep).double(), ("",) * 5, "p", {}, "p", order=Ids([10, 14]))
    assert opening(scores=(scores,), decision=few) == [10, 14, 11, 13, 12], "a few that are kept, in their order"
    assert opening() == [14, 13, 12, 11, 10]


def test_curves_and_counts_that_do_not_fit_are_refused():
    half = torch.tensor([0.5], dtype=torch.float64)
    for words, made in (
        ("has nothing to show", lambda: LearningCurve("test", 3, (0,))),
        ("has nothing to show", lambda: LearningCurve("test", 3, (), half)),
        ("give one each", lambda: LearningCurve("test", 3, (0, 1), half)),
        ("outside 0..1", lambda: LearningCurve("test", 3, (0,), 100 * half)),
        ("More examples of a class are dropped", lambda: ClassCounts(torch.tensor([1]), dropped=torch.tensor([2]))),
        (
            "Counts of 2 classes do not fit 1",
            lambda: ReportData(
                "t",
                ("a",),
                0,
                ShownExamples(Ids([]), torch.zeros(0, dtype=torch.int64)),
                by_class=ClassCounts(torch.tensor([0, 0])),
            ),
        ),
    ):
        with pytest.raises(UsageError, match=words):
            made()
