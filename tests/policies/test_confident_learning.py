"""The policy confident_learning: what it drops or relabels, and what it says of predictions in sample."""

import numpy as np
import pytest
import torch

import assay
from assay.core.decision import Action
from assay.maths.confident import find
from maths.test_confident import drawn

VARIANTS = [{}, {"by": "off_diagonal", "relabel": True}]
REFUSED = ["by=all", "relabel=maybe"]


@pytest.mark.parametrize("by", ["both", "class", "noise_rate", "off_diagonal"])
def test_it_drops_or_relabels_what_is_found(by, tmp_path):
    probs, labels = drawn(200, 3, 0)
    run = assay.from_probs(tmp_path / "run", probs.numpy(), labels.numpy(), kind="out_of_fold", class_names=["ant", "bee", "cat"])
    # As the run keeps them.
    kept = run.mean_probs()
    wrong = find(kept, labels, -run.ids.ranks, by)
    assert 5 < int(wrong.sum()) < 60
    decision = assay.choose(run, f"confident_learning:by={by}")
    assert torch.equal(decision.actions == Action.DROP, wrong) and not decision.warnings
    at = int(wrong.nonzero()[0])
    names = np.array(["ant", "bee", "cat"])
    given, likely = names[labels[at]], names[kept[at].argmax()]
    assert decision.reasons[at] == f"confident learning ({by}): given {given}, most probable {likely}: dropped"
    decision = assay.choose(run, f"confident_learning:by={by},relabel=true")
    assert torch.equal(decision.labels[wrong], kept[wrong].argmax(1)) and not bool((decision.actions == Action.DROP).any())


def test_of_predictions_in_sample_it_warns(tmp_path):
    probs, labels = drawn(50, 3, 0)
    run = assay.from_probs(tmp_path / "run", probs.numpy(), labels.numpy(), kind="training")
    with pytest.warns(UserWarning, match="confident_learning: The probabilities are, .* record by folds"):
        assay.choose(run, "confident_learning")
