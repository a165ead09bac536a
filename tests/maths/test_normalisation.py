import pytest
import torch

from assay.maths.normalisation import statistics


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_against_the_plain_formula(dtype):
    inputs = torch.randint(0, 256, (5, 3, 4, 6), generator=torch.Generator().manual_seed(0)).to(dtype)
    values = inputs.to(torch.float64).transpose(0, 1).reshape(3, -1) / (255 if dtype == torch.uint8 else 1)
    mean, std = statistics(inputs)
    assert mean == pytest.approx(values.mean(1).tolist(), rel=1e-12)
    assert std == pytest.approx(values.std(1, correction=0).tolist(), rel=1e-12)


@pytest.mark.parametrize("value", [7, 0.1])
def test_a_constant_channel_is_divided_by_one(value):
    inputs = torch.full((3, 1, 2, 2), value, dtype=torch.uint8 if isinstance(value, int) else torch.float32)
    assert statistics(inputs)[1] == (1.0,)


def test_rows_are_normalised_per_column():
    assert statistics(torch.tensor([[0.0, 1.0], [2.0, 5.0]])) == ((1.0, 3.0), (1.0, 2.0))
