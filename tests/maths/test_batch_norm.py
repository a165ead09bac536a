import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths.batch_norm import normalised
from assay.maths.derivatives import refuse_cut

SHAPES = [(5, 3), (4, 2, 6), (3, 2, 4, 5), (2, 3, 2, 3, 2)]


def world(shape, seed=0, scale=1.0, offset=0.0):
    draw = torch.Generator().manual_seed(seed)
    inputs = (scale * torch.randn(shape, generator=draw, dtype=torch.float64) + offset).requires_grad_()
    weight, bias = (torch.randn(shape[1], generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    return inputs, weight, bias


def by_torch(inputs, weight, bias, eps):
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    values = F.batch_norm(inputs, None, None, weight, bias, True, 0.1, eps)
    return values, inputs.mean(axes), inputs.var(axes, unbiased=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_both_derivatives_by_finite_differences(shape):
    inputs, weight, bias = world(shape)
    for own, plain in zip(normalised(inputs, weight, bias, 1e-3), by_torch(inputs, weight, bias, 1e-3), strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-12, atol=1e-12)
    of = lambda *given: normalised(*given, 1e-3)  # noqa: E731
    assert torch.autograd.gradcheck(of, (inputs, weight, bias))
    assert torch.autograd.gradgradcheck(of, (inputs, weight, bias))


def derivatives(function, inputs, weight, bias, eps, seed):
    """Of a number that reads all three results, its derivative along a direction, and what that moves by, with all three again."""
    draw = torch.Generator().manual_seed(seed)
    like = lambda value: torch.randn(value.shape, generator=draw, dtype=value.dtype)  # noqa: E731
    values, mean, variance = function(inputs, weight, bias, eps)
    loss = (values.tanh() * like(values)).sum()
    given = (inputs, weight, bias)
    first = torch.autograd.grad(loss, given, create_graph=True)
    slope = sum((part * like(part)).sum() for part in first) + (mean * like(mean)).sum() + (variance * like(variance)).sum()
    return [*first, *torch.autograd.grad(slope, given)]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(SHAPES),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    offset=st.sampled_from([0.0, -5.0]),
)
def test_derivatives_are_those_of_torch(seed, shape, scale, offset):
    for own, plain in zip(
        *(derivatives(one, *world(shape, seed, scale, offset), 1e-5, seed) for one in (normalised, by_torch)), strict=True
    ):
        own, plain = own.detach(), plain.detach()
        size = plain.abs().max()
        torch.testing.assert_close(own / size, plain / size, rtol=0, atol=1e-8)


def test_without_weight_and_bias():
    inputs, *_ = world((4, 3, 2))
    torch.testing.assert_close(normalised(inputs, None, None, 1e-5)[0], by_torch(inputs, None, None, 1e-5)[0])


def test_a_third_derivative_is_a_cut_that_is_noticed():
    inputs, weight, bias = world((4, 3))
    values, *_ = normalised(inputs, weight, bias, 1e-5)
    (first,) = torch.autograd.grad(values.pow(3).sum(), inputs, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), inputs, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        refuse_cut(second.sum())
