"""The joint of a run: from folds, from saved predictions, from a recorded training; and its command."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

import assay
import assay.sklearn
from assay.cli.confident import next_step
from assay.core.confident import COVERS
from assay.core.errors import MissingEvidence, UsageError
from assay.core.ids import Ids
from assay.core.wrong_labels import WrongCount
from assay.experiments.confident import joint_if_held_out
from assay.experiments.report_data import report_data
from assay.maths import draws
from assay.maths.confident import confident_classes, confident_counts, thresholds, wrong_intervals
from cli.shell import here
from experiments.small import recorded


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("folds") / "run", folds=3)


def test_of_a_recording_by_folds(folds):
    found = assay.confident_joint(folds)
    probs, labels = folds.mean_probs(), folds.labels
    expected = confident_counts(confident_classes(probs, thresholds(probs, labels), labels), labels, 10)
    torch.testing.assert_close(found.joint, expected / len(labels))
    assert not found.warnings and "held out, 3 folds" in found.made_of and found.examples == 397
    assert float(found.joint.sum()) == pytest.approx(1) and found.wrong_count == round(397 * (1 - float(found.joint.trace())))
    # A tenth of the labels was made wrong.
    assert 20 <= found.wrong_count <= 80
    columns = found.to_numpy()
    assert (
        len(columns["share"]) == 100
        and sum(columns["estimated"]) == pytest.approx(397)
        and sum(columns["counted"]) == found.confident
    )
    assert repr(found).startswith("ConfidentJoint(397 examples, 10 classes,")


def test_of_a_training_in_sample_it_says_so_and_without_probabilities_it_is_refused(tmp_path):
    run = recorded(tmp_path / "run", record={"mean_probs": False})
    with pytest.raises(MissingEvidence, match=r"confident learning needs mean_probs, which this run lacks .*--mean-probs"):
        assay.confident_joint(run)
    evidence = assay.gather_logits(
        Ids(range(6)), torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    )
    found = assay.confident_joint(evidence)
    assert "record by folds" in found.warnings[0] and found.class_names == ("0", "1", "2")


def test_a_joint_of_another_shape_is_refused():
    with pytest.raises(UsageError, match=r"A joint of shape \(2, 2\) and 3 thresholds do not fit 3 classes"):
        assay.ConfidentJoint(torch.eye(2).double(), torch.ones(3).double(), torch.eye(2).double(), ("a", "b", "c"), 3, 3, "made")


def test_the_command_shows_it(folds, capsys):
    code, out, _ = here(capsys, "confident", folds.folder, "--pairs", 2)
    found = assay.confident_joint(folds)
    assert code == 0 and found.sentence in out and COVERS in out and "Pairs of classes" in out
    assert f"About {found.wrong_count} of 397 labels are wrong" in out and assay.count_wrong(folds).sentence in out
    first = found.by_class[0]
    assert f"{round(first.low)} to {round(first.high)}" in out
    assert next_step(folds.folder, found, assay.count_wrong(folds)) in out


def test_the_joint_has_an_interval_overall_and_by_class(folds):
    found = assay.confident_joint(folds)
    total, rows = wrong_intervals(
        folds.mean_probs().double(), folds.labels, draws.integer(0, "count of wrong labels by the confident joint")
    )
    assert [found.low, found.high] == total[1:].tolist() and 0 < found.low <= found.wrong_count <= found.high and found.seen
    assert [[one.count, one.low, one.high] for one in found.by_class] == rows.tolist()
    assert [one.name for one in found.by_class] == list(folds.class_names)
    assert sum(one.count for one in found.by_class) == pytest.approx(found.wrong * 397)
    assert found.found == len(assay.choose(folds, "confident_learning").dropped_ids)
    assert f"95 % interval {round(found.low)} to {round(found.high)}" in found.sentence


def counted(count, low, high, clear=True):
    return WrongCount(Ids([1]), torch.ones(1).double(), float(count), float(low), float(high), clear=clear)


@pytest.mark.parametrize(
    ("joint", "margins", "advised", "words"),
    [
        ({"low": 4, "high": 15, "found": 6}, counted(20, 10, 30), True, "names 6 of them"),
        ({"low": 4, "high": 15, "found": 6}, None, True, "names 6 of them"),
        # Clean digits by five folds: the margins see nothing.
        ({"low": 4, "high": 15, "found": 6}, counted(0, 0, 20), False, "Nothing is to be dropped"),
        ({"low": 4, "high": 15, "found": 6}, counted(0, 0, 20, clear=False), False, "Nothing is to be dropped"),
        ({"low": 0, "high": 15, "found": 6}, counted(20, 10, 30), False, "Nothing is to be dropped"),
        ({"low": 4, "high": 15, "found": 6}, counted(4, 2, 5), False, "more than the margins allow"),
    ],
)
def test_no_more_is_advised_to_be_dropped_than_either_count_says_can_be_wrong(joint, margins, advised, words):
    made = assay.ConfidentJoint(
        torch.eye(2).double() / 2, *(torch.eye(2).double()[0], torch.eye(2).double()), ("a", "b"), 9, 9, "made", **joint
    )
    said = next_step("RUN", made, margins)
    assert made.droppable(margins) == advised == ("assay choose RUN confident_learning" in said) and words in said


def test_where_none_is_counted_none_is_said_and_no_minus_zero():
    thirds = torch.full((3,), 1 / 3).double().diag()
    made = assay.ConfidentJoint(
        thirds * (1 + 1e-16), torch.ones(3).double(), thirds, ("a", "b", "c"), 30, 30, "made", low=0.0, high=3.0
    )
    assert made.wrong == 0 and "no wrong label among 30, and at most 3" in made.sentence and "-0" not in made.sentence


@pytest.mark.filterwarnings("ignore:.*there are probabilities of 0")
def test_out_of_bag_predictions_of_a_forest_have_a_joint_and_a_decision(tmp_path):
    draw = np.random.default_rng(0)
    true = np.arange(300) % 3
    wrong = draw.random(300) < 0.1
    forest = RandomForestClassifier(60, oob_score=True, min_samples_leaf=3, random_state=0)
    given = np.where(wrong, (true + 1) % 3, true)
    run = assay.sklearn.record(forest, draw.normal(size=(300, 4)) + 6 * np.eye(3, 4)[true], given, tmp_path / "run")
    assert run.passes.kind == "out_of_bag"
    found = assay.confident_joint(run)
    # The joint is that of the forest's own out-of-bag votes.
    votes = torch.from_numpy(forest.oob_decision_function_)
    labels = torch.from_numpy(given)
    expected = confident_counts(confident_classes(votes, thresholds(votes, labels), labels), labels, 3)
    torch.testing.assert_close(found.joint, expected / 300, atol=1e-6, rtol=0)
    assert not found.warnings and "out of bag" in found.made_of and found.low <= int(wrong.sum()) <= found.high
    decision = assay.choose(run, "confident_learning")
    dropped = set(decision.dropped_ids)
    assert len(dropped) == found.found and not decision.warnings and dropped <= set(run.ids)
    assert len(dropped & set(np.flatnonzero(wrong).tolist())) >= 0.9 * len(dropped) > 0


def test_the_page_shows_the_joint_of_held_out_passes_only(folds, tmp_path):
    joint = report_data(folds, assay.score(folds, "label_quality")).joint
    assert joint.sentence == assay.confident_joint(folds).sentence and joint.by_class
    run = recorded(tmp_path / "run")
    assert joint_if_held_out(run) is None and report_data(run, assay.score(run, "aum")).joint is None
