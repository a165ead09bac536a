from unittest.mock import Mock

import pytest
import torch

from assay.core.errors import MissingEvidence, UndeclaredNeed, UsageError
from assay.core.evidence import Evidence, ReplayedFacts
from assay.core.ids import Ids
from assay.core.needs import EPOCH_NEEDS, Need
from methods.worlds import Facts, facts_of

IDS = Ids(["a", "b", "c"])


@pytest.fixture
def evidence():
    logits = torch.randn(2, 3, 4)
    facts = facts_of(logits, torch.tensor([0, 1, 2]))
    return Evidence(IDS, 4, labels=torch.tensor([0, 1, 2]), epochs=Facts(facts))


def test_it_holds_what_it_was_given(evidence):
    assert evidence.holds == EPOCH_NEEDS | {Need.LABELS} and evidence.recorded == 2
    assert Evidence(IDS, 4).holds == frozenset() and Evidence(IDS, 4).recorded == 0


def test_models_of_a_recording_without_the_first_are_refused():
    with pytest.raises(UsageError, match=r"models= without checkpoints=; give the kept models of the first"):
        ReplayedFacts(models=[Mock()])
    assert Evidence(IDS, 4, replayed=ReplayedFacts(steps=Mock())).holds == {Need.STEPS}


def test_facts_are_double_whatever_the_store_holds(evidence):
    epoch = evidence.epoch(1)
    for need in EPOCH_NEEDS - {Need.CORRECT}:
        assert getattr(epoch, need.value).dtype == torch.float64, need
    assert epoch.correct.dtype == torch.bool
    torch.testing.assert_close(epoch.probs.sum(-1), torch.ones(3, dtype=torch.float64))
    assert epoch.probs is epoch.narrow(frozenset({Need.LOGITS})).probs


def test_a_narrow_view_cannot_be_widened(evidence):
    view = evidence.narrow("dual", frozenset({Need.TARGET_PROBS}))
    assert view.holds == {Need.TARGET_PROBS} and view.ids == IDS
    assert view.epoch(0).target_probs.shape == (3,)
    with pytest.raises(UndeclaredNeed, match="`labels` was read but is not declared"):
        view.labels  # noqa: B018
    with pytest.raises(UndeclaredNeed, match="`logits` of epoch 0 was read"):
        view.epoch(0).narrow(frozenset({Need.LOGITS})).probs  # noqa: B018
    with pytest.raises(MissingEvidence, match="somebody needs labels"):
        view.narrow("somebody", frozenset({Need.LABELS}))


def test_what_is_missing_says_how_to_record_it():
    with pytest.raises(MissingEvidence) as caught:
        Evidence(IDS, 4).narrow("tdds", frozenset({Need.LOGITS, Need.LABELS}))
    assert str(caught.value).startswith("tdds needs labels, logits, which this run lacks (labels: every run records")
    assert "--keep-logits" in str(caught.value)


@pytest.mark.parametrize("need", Need, ids=lambda need: need.value)
def test_every_need_says_how_to_get_it_recorded(need):
    assert len(need.how) > 10 and Need(need.value) is need


@pytest.mark.parametrize("index", [-1, 2])
def test_epochs_are_numbered_from_0(evidence, index):
    with pytest.raises(UsageError, match=f"Epoch {index} is not recorded; 2 epochs are, numbered from 0"):
        evidence.epoch(index)


def test_facts_that_do_not_fit_the_ids():
    with pytest.raises(UsageError, match=r"Labels of shape \(2,\) do not fit 3 examples"):
        Evidence(IDS, 4, labels=torch.tensor([0, 1]))
    with pytest.raises(UsageError, match=r"2 labels are outside 0\.\.3 \(-1, 4\); ids b, c"):
        Evidence(IDS, 4, labels=torch.tensor([0, 4, -1]))
    with pytest.raises(UsageError, match=r"Mean probabilities of shape \(3, 2\) do not fit 3 examples of 4 classes"):
        Evidence(IDS, 4, mean_probs=torch.zeros(3, 2))
