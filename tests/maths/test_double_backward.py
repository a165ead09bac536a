import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.maths.derivatives import check_twice_differentiable
from assay.maths.double_backward import batch_norm, conv2d

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
    for own, plain in zip(batch_norm(inputs, weight, bias, 1e-3), by_torch(inputs, weight, bias, 1e-3), strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-12, atol=1e-12)
    of = lambda *given: batch_norm(*given, 1e-3)  # noqa: E731
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
        *(derivatives(one, *world(shape, seed, scale, offset), 1e-5, seed) for one in (batch_norm, by_torch)), strict=True
    ):
        own, plain = own.detach(), plain.detach()
        size = plain.abs().max()
        torch.testing.assert_close(own / size, plain / size, rtol=0, atol=1e-8)


def test_without_weight_and_bias():
    inputs, *_ = world((4, 3, 2))
    torch.testing.assert_close(batch_norm(inputs, None, None, 1e-5)[0], by_torch(inputs, None, None, 1e-5)[0])


def test_a_third_derivative_is_a_cut_that_is_noticed():
    inputs, weight, bias = world((4, 3))
    values, *_ = batch_norm(inputs, weight, bias, 1e-5)
    (first,) = torch.autograd.grad(values.pow(3).sum(), inputs, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), inputs, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        check_twice_differentiable(second.sum())


CONVOLUTIONS = {
    "plain": ((2, 3, 5, 4), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "strided": ((2, 2, 7, 6), (3, 2, 3, 2), (2, 3), (0, 1), (1, 1), 1),
    "dilated": ((2, 2, 7, 8), (2, 2, 2, 3), (1, 1), (2, 0), (3, 2), 1),
    "groups": ((3, 4, 4, 4), (6, 2, 2, 2), (2, 1), (1, 1), (1, 1), 2),
    "one place": ((2, 3, 3, 3), (4, 3, 3, 3), (1, 1), (0, 0), (1, 1), 1),
}


def convolution(name, seed=0):
    inputs, weight, *settings = CONVOLUTIONS[name]
    draw = torch.Generator().manual_seed(seed)
    made = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in (inputs, weight, weight[:1]))
    return tuple(value.requires_grad_() for value in made), settings


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_and_both_derivatives_by_finite_differences(name):
    given, settings = convolution(name)
    of = lambda *given: conv2d(*given, *settings)  # noqa: E731
    torch.testing.assert_close(of(*given), F.conv2d(*given, *settings), rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(of, given)
    assert torch.autograd.gradgradcheck(of, given)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wanted", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_second_derivatives_of_convolutions_are_those_of_torch(name, wanted, bias):
    """Where inputs or weights are fixed, and where only part of the first derivative is read."""
    (inputs, weight, shift), settings = convolution(name)
    given = (inputs, weight, shift if bias else None)
    leaves = [value for place, value in enumerate(given) if place in wanted or (place == 2 and bias)]
    held = [value if value is None or any(value is leaf for leaf in leaves) else value.detach() for value in given]
    found = []
    for function in (conv2d, F.conv2d):
        first = torch.autograd.grad(function(*held, *settings).tanh().sum(), leaves, create_graph=True)
        parts = [part.square().sum() for part in first]
        found.append(
            [torch.autograd.grad(one, leaves, retain_graph=True, materialize_grads=True) for one in (sum(parts), parts[0])]
        )
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_gradient_that_nobody_reads_is_differentiated_all_the_same(name):
    given, settings = convolution(name)
    found = []
    for valued in (True, False):
        values = conv2d(*given, *settings, valued)
        first = torch.autograd.grad(values.tanh().sum(), given, create_graph=True)
        assert bool(first[1].isnan().all()) is not valued and all(first[place].isfinite().all() for place in (0, 2))
        along = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view(part.shape)).sum() for part in first)
        found.append(torch.autograd.grad(along, given))
        plain = torch.autograd.grad(conv2d(*given, *settings, valued).tanh().sum(), given)
        torch.testing.assert_close(
            plain, torch.autograd.grad(F.conv2d(*given, *settings).tanh().sum(), given), rtol=1e-11, atol=1e-12
        )
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-12)
