"""The joint of a run: from folds, from saved predictions, from a recorded training; and its command."""

import pytest
import torch

import assay
from assay.core.errors import MissingEvidence, UsageError
from assay.core.ids import Ids
from assay.maths.confident import confident_classes, confident_counts, thresholds
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
    assert code == 0 and f"About {found.wrong_count} of 397 labels are wrong" in out and "Pairs of classes" in out
    assert f"assay choose {folds.folder} confident_learning" in out
