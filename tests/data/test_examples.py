import dataclasses

import pytest
import torch

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.data.examples import Examples, Split


def some_examples(labels, ids=None, classes=("a", "b"), width=2):
    n = len(labels)
    return Examples(Ids(range(n) if ids is None else ids), torch.ones(n, width), torch.tensor(labels), classes)


def test_take_by_positions_and_by_mask_agree():
    examples = dataclasses.replace(some_examples([0, 1, 1]), rows=(("x",), ("y",), ("z",)), columns=("c",))
    by_mask, by_position = examples.take(torch.tensor([True, False, True])), examples.take(torch.tensor([0, 2]))
    assert list(by_mask.ids) == list(by_position.ids) == [0, 2]
    assert by_mask.rows == by_position.rows == (("x",), ("z",))
    assert by_mask.content == by_position.content != examples.content


def test_prepared_scales_uint8_and_normalises_per_channel():
    images = torch.tensor([[[[0, 255]], [[51, 51]]]], dtype=torch.uint8)
    examples = Examples(Ids([0]), images, torch.tensor([0]), ("a", "b"), (0.5, 0.0), (0.25, 0.1))
    assert torch.allclose(examples.prepared(images), torch.tensor([[[[-2.0, 2.0]], [[2.0, 2.0]]]]))


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(UsageError, match=r"1 labels are outside 0\.\.1; ids 7"):
        some_examples([0, 2], ids=[5, 7])


GOOD = some_examples([0, 1])


@pytest.mark.parametrize(
    ("train", "test", "truth", "words"),
    [
        (GOOD, GOOD.take(torch.tensor([], dtype=torch.int64)), None, "0 test examples"),
        (GOOD, some_examples([0], classes=("a", "c")), None, "same class names"),
        (GOOD, some_examples([0], width=3), None, "one type and shape"),
        (some_examples([1, 1]), GOOD, None, "All 2 training examples have the label 'b'"),
        (GOOD, GOOD, torch.tensor([0]), "give one for each"),
        (GOOD, GOOD, torch.tensor([0, 2]), r"true labels are outside 0\.\.1; ids 1"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(train, test, truth, words):
    with pytest.raises(UsageError, match=words):
        Split(train, test, truth)
