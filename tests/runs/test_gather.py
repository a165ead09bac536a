import pytest
import torch

from assay.core.errors import NumericalError
from assay.core.evidence import Need
from assay.core.method import score
from assay.methods import catalogue
from assay.runs.gather import RecordedEpochs, gather, gather_logits
from assay.runs.run import Run
from runs.worlds import IDS, LABELS, logits_of, recorded

EPOCHS = 12
LOGITS = torch.stack([logits_of(epoch) for epoch in range(EPOCHS)])


def test_a_run_on_disk_scores_as_the_same_logits_in_memory(tmp_path):
    recorded(tmp_path, EPOCHS, keep_logits=True)
    disk, memory = gather(Run(tmp_path)), gather_logits(IDS, LOGITS, LABELS)
    methods = [method for cls in catalogue().values() if (method := cls()).needs <= disk.holds]
    assert len(methods) >= 12 and disk.holds == memory.holds and disk.recorded == memory.recorded == EPOCHS
    for one, other in zip(score(methods, disk), score(methods, memory), strict=True):
        assert one.ids == other.ids == IDS
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-12, msg=one.title)
    torch.testing.assert_close(disk.mean_probs, memory.mean_probs, rtol=0, atol=1e-6)


def test_one_shard_is_open_at_a_time_and_any_order_of_reading_is_right(tmp_path):
    recorded(tmp_path, 3, keep_logits=True)
    epochs = RecordedEpochs(Run(tmp_path))
    for epoch in (2, 0, 0, 1, 2):
        assert torch.equal(epochs.read(epoch, Need.LOGITS), LOGITS[epoch])


def test_logits_in_memory_that_are_not_finite_are_named():
    spoilt = LOGITS.clone()
    spoilt[3, 5, 1] = torch.nan
    with pytest.raises(NumericalError, match="Epoch 3: logits of 1 examples are NaN or infinite; ids picture 05"):
        gather_logits(IDS, spoilt, LABELS)
