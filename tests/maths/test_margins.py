import pytest
import torch

from assay.maths.margins import label_margin, top_two


def test_by_hand():
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [-4.0, -1.0, -2.0]])
    assert label_margin(outputs, torch.tensor([0, 2, 1])).tolist() == [1.0, -2.0, 1.0]


def test_a_tie_is_zero_and_input_stays():
    outputs = torch.tensor([[1.0, 1.0]])
    assert label_margin(outputs, torch.tensor([1])).item() == 0.0
    assert outputs.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_leading_axes_and_labels_of_any_integer_type(dtype):
    outputs, labels = torch.randn(2, 3, 4, 5), torch.tensor([0, 1, 2, 4], dtype=dtype)
    assert torch.equal(label_margin(outputs, labels)[1, 2], label_margin(outputs[1, 2], labels))


def test_top_two():
    best, second = top_two(torch.tensor([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]]))
    torch.testing.assert_close(best, torch.tensor([0.7, 0.4]))
    torch.testing.assert_close(second, torch.tensor([0.2, 0.4]))
