"""BatchNorm by the statistics of its own batch, with a second derivative that costs a few passes over the input.

torch's own second derivative is right, and puts its terms together from some thirty of the input's size.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def normalised(
    inputs: Float[Tensor, "batch channels ..."],
    weight: Float[Tensor, " channels"] | None,
    bias: Float[Tensor, " channels"] | None,
    eps: float,
) -> tuple[Float[Tensor, "batch channels ..."], Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """(x - mean) / sqrt(variance + eps) * weight + bias by channel; the mean; and the unbiased variance.

    Differentiable twice, as what is backwards and again backwards; not in forward mode.

    Args:
        inputs: (batch, channels, ...), more than one value per channel, of the type of `weight` and `bias`.
        weight, bias: None stands for 1 and 0.
        eps: Added to the variance.
    """
    channels = inputs.shape[1]
    weight = inputs.new_ones(channels) if weight is None else weight
    bias = inputs.new_zeros(channels) if bias is None else bias
    return _Normalise.apply(inputs, weight, bias, eps)


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
        by_gradient = by_gradient + _wide(d - c * scale * mean, inputs)
        by_gradient.addcmul_(inputs, _wide(c * scale, inputs))
        # s moves with z by q = on_a a + on_g g, and with r by w sum(a J g); dz = r J dx, dr = -r^2 mean(z dx).
        on_a, on_g = -weight * scale / size * zg, c - weight * scale / size * za
        mean_q, mean_zq = (on_a * sum_a + on_g * total) / size, (on_a * za + on_g * zg) / size
        on_z = -scale * (mean_zq + weight * scale / size * ajg)
        by_inputs = a * _wide(scale * on_a, inputs)
        by_inputs.addcmul_(gradient, _wide(scale * on_g, inputs))
        by_inputs.addcmul_(inputs, _wide(on_z * scale, inputs))
        by_inputs.add_(_wide(-scale * mean_q - on_z * scale * mean, inputs))
        return by_gradient, by_inputs, scale * ajg, None, None, None
