"""Operations whose second derivative costs less than torch's, which is also correct.

torch builds the second derivative of BatchNorm from many terms of the input's size, and computes part of a convolution's by another
convolution whose channels are the examples.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def batch_norm(
    inputs: Float[Tensor, "batch channels ..."],
    weight: Float[Tensor, " channels"] | None,
    bias: Float[Tensor, " channels"] | None,
    eps: float,
) -> tuple[Float[Tensor, "batch channels ..."], Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """(x - mean) / sqrt(variance + eps) * weight + bias by channel; the mean; and the unbiased variance.

    Twice differentiable in reverse mode (double backward), not in forward mode.

    Args:
        inputs: (batch, channels, ...), more than one value per channel, of the type of `weight` and `bias`.
        weight: Factor by channel; None stands for 1.
        bias: Added by channel; None stands for 0.
        eps: Added to the variance.

    Returns:
        Of the shape of `inputs`; mean and variance one number per channel.
    """
    channels = inputs.shape[1]
    weight = inputs.new_ones(channels) if weight is None else weight
    bias = inputs.new_zeros(channels) if bias is None else bias
    return _Normalise.apply(inputs, weight, bias, eps)


def conv2d(
    inputs: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "out channels_of_group kernel_height kernel_width"],
    bias: Float[Tensor, " out"] | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    valued: bool = True,
) -> Float[Tensor, "batch out ..."]:
    """`torch.conv2d`, twice differentiable in reverse mode (double backward), not in forward mode.

    All arguments but the last are those of torch. `valued` says whether the gradient with respect to the weight is read as
    well as differentiated again, as where the weight is computed from other tensors. If not, its value is NaN, and only its derivative is
    computed, which does not need the value.

    Returns:
        As torch gives it, to rounding.
    """
    return _Convolve.apply(inputs, weight, bias, valued, stride, padding, dilation, groups)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, valued: bool, *settings: Any) -> Tensor:
        ctx.valued, ctx.settings = valued, settings
        ctx.save_for_backward(inputs, weight)
        return torch.conv2d(inputs, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        by_inputs, by_weight, by_bias, *_ = ctx.needs_input_grad
        wanted = by_inputs, by_weight, by_bias
        # What is not differentiated once more is the last word, and read.
        valued = ctx.valued or not torch.is_grad_enabled()
        found = _ConvolveBack.apply(gradient, *ctx.saved_tensors, wanted, valued, *ctx.settings)
        return *found, None, None, None, None, None


class _ConvolveBack(torch.autograd.Function):
    """The first derivative, which has one of its own: both are bilinear."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, inputs: Tensor, weight: Tensor, *given: Any) -> tuple[Tensor | None, ...]:
        (by_inputs, by_weight, by_bias), valued, *ctx.settings = given
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, inputs, weight)
        if valued:
            return _convolution_back(gradient, inputs, weight, (by_inputs, by_weight, by_bias), *ctx.settings)
        # torch would compute the gradient by the weight along with that by the bias.
        through = _convolution_back(gradient, inputs, weight, (True, False, False), *ctx.settings)[0] if by_inputs else None
        unread = weight.new_full((), torch.nan).expand_as(weight) if by_weight else None
        return through, unread, gradient.sum((0, 2, 3)) if by_bias else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a: Tensor | None, c: Tensor | None, d: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Of <a, by inputs> + <c, by weight> + <d, by bias>, by gradient, inputs and weight."""
        gradient, inputs, weight = ctx.saved_tensors
        by_gradient = by_inputs = by_weight = None
        if a is not None:
            by_gradient = torch.conv2d(a, weight, None, *ctx.settings)
            (_, by_weight, _) = _convolution_back(gradient, a, weight, (False, True, False), *ctx.settings)
        if c is not None:
            term = torch.conv2d(inputs, c, None, *ctx.settings)
            by_gradient = term if by_gradient is None else by_gradient.add_(term)
            if ctx.needs_input_grad[1]:
                (by_inputs, _, _) = _convolution_back(gradient, inputs, c, (True, False, False), *ctx.settings)
        if d is not None:
            by_gradient = _wide(d, gradient).expand_as(gradient) if by_gradient is None else by_gradient.add_(_wide(d, gradient))
        return by_gradient, by_inputs, by_weight, *(None,) * 6


def _convolution_back(
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    wanted: tuple[bool, bool, bool],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return torch.ops.aten.convolution_backward(
        gradient, inputs, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], groups, list(wanted)
    )


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Numbers of channels, to be held against the input."""
    return values.view(1, -1, *(1,) * (like.ndim - 2))


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = torch.zeros_like(weight), torch.zeros_like(weight)
        values, own, scale = torch.native_batch_norm(inputs, weight, bias, mean, variance, True, 1.0, eps)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, weight, own, scale)
        return values, mean, variance

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, by_mean: Tensor | None, by_variance: Tensor | None
    ) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inputs, weight, mean, scale = ctx.saved_tensors
        size = inputs.numel() // len(weight)
        by_inputs = by_weight = by_bias = None
        if gradient is not None:
            by_inputs, by_weight, by_bias = _Back.apply(gradient, inputs, weight, mean, scale, ctx.eps)
        if by_mean is not None or by_variance is not None:
            if torch.is_grad_enabled():
                # It moves with the input where a derivative is to be had of this one.
                mean = inputs.mean([axis for axis in range(inputs.ndim) if axis != 1])
            slope = torch.zeros_like(mean) if by_variance is None else 2 / (size - 1) * by_variance
            level = (0 if by_mean is None else by_mean / size) - slope * mean
            start = _wide(level, inputs) if by_inputs is None else by_inputs + _wide(level, inputs)
            by_inputs = torch.addcmul(start, inputs, _wide(slope, inputs))
        return by_inputs, by_weight, by_bias, None


class _Back(torch.autograd.Function):
    """The first derivative, which has one of its own.

    With r = 1 / sqrt(variance + eps), z = (x - mean) r, m values per channel, and J v = v - mean(v) - z mean(z v): the derivatives by
    inputs, weight and bias are r w J g, sum(z g) and sum(g).
    """

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = torch.ops.aten.native_batch_norm_backward(
            gradient, inputs, weight, None, None, mean, scale, True, eps, [True, True, True]
        )
        ctx.eps = eps
        ctx.save_for_backward(gradient, inputs, weight, mean, scale, *found[1:])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Of s = sum(a r w J g) + c sum(z g) + d sum(g), by g, x and w."""
        gradient, inputs, weight, mean, scale, zg, total = ctx.saved_tensors
        size = inputs.numel() // len(weight)
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        # The operator is its own transpose.
        by_gradient, za, sum_a = torch.ops.aten.native_batch_norm_backward(
            a, inputs, weight, None, None, mean, scale, True, ctx.eps, [True, True, True]
        )
        ajg = (a * gradient).sum(axes) - (sum_a * total + za * zg) / size
        # z = r x - r mean, so that c z + d is a multiple of x and a number.
        by_gradient.addcmul_(inputs, _wide(c * scale, inputs)).add_(_wide(d - c * scale * mean, inputs))
        # s moves with z by q = on_a a + on_g g, and with r by w sum(a J g); dz = r J dx, dr = -r^2 mean(z dx).
        on_a, on_g = -weight * scale / size * zg, c - weight * scale / size * za
        mean_q, mean_zq = (on_a * sum_a + on_g * total) / size, (on_a * za + on_g * zg) / size
        on_z = -scale * (mean_zq + weight * scale / size * ajg)
        by_inputs = a * _wide(scale * on_a, inputs)
        by_inputs.addcmul_(gradient, _wide(scale * on_g, inputs))
        by_inputs.addcmul_(inputs, _wide(on_z * scale, inputs))
        by_inputs.add_(_wide(-scale * mean_q - on_z * scale * mean, inputs))
        return by_gradient, by_inputs, scale * ajg, None, None, None
