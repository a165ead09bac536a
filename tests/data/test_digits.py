import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from assay.core.errors import UsageError
from assay.data.digits import Digits


def test_the_split_that_other_tools_are_compared_on():
    split, bunch = Digits().load(), load_digits()
    x, x_test, y, y_test = train_test_split(bunch.data, bunch.target, test_size=360, random_state=0, stratify=bunch.target)
    for part, data, target in ((split.train, x, y), (split.test, x_test, y_test)):
        assert part.labels.tolist() == target.tolist()
        # 17 levels over 255: the original value comes back by rounding.
        assert np.array_equal(np.rint(part.inputs.numpy().reshape(len(data), 64) / 255 * 16), data)
    assert split.train.inputs.shape == (1437, 1, 8, 8) and split.train.inputs.dtype == torch.uint8
    assert split.train.inputs.max() == 255 and split.train.class_names == tuple("0123456789")
    assert split.true_labels is None


def test_ids_are_indices_in_the_full_set():
    split, bunch = Digits(test=100, seed=3).load(), load_digits()
    ids = np.concatenate([split.train.ids.values, split.test.ids.values])
    assert len(split.test) == 100 and sorted(ids.tolist()) == list(range(1797))
    assert torch.equal(split.train.labels, torch.from_numpy(bunch.target[split.train.ids.values]))


def test_prepared_is_standardised_on_the_training_part():
    train = Digits().load().train
    prepared = train.prepared(train.inputs).to(torch.float64)
    assert abs(float(prepared.mean())) < 1e-6 and abs(float(prepared.std(correction=0)) - 1) < 1e-6


@pytest.mark.parametrize("test", [0, 3, 1797])
def test_a_test_part_that_cannot_be_drawn(test):
    with pytest.raises(UsageError, match=f"test={test} with seed=0"):
        Digits(test=test).load()
