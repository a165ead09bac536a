"""BatchNorm in train mode that can be differentiated twice, and the batch statistics that it computed."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import UsageError
from ..maths.differentiable import DifferentiableOperations, embedding_settings
from ..maths.double_backward import batch_norm, conv2d
from ..maths.params import Params


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running means and variances of torch's BatchNorm layers, by name."""
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            prefix = f"{name}." if name else ""
            found |= {
                f"{prefix}{own}": layer.get_buffer(own)
                for own in ("running_mean", "running_var")
                if getattr(layer, own) is not None
            }
    return found


class differentiable_statistics(DifferentiableOperations):
    """A context manager inside which BatchNorm in eval mode is differentiable with respect to its running statistics; torch's own is not."""

    def operation(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        given = _batch_norm_given(args, kwargs) if func is F.batch_norm else {}
        mean = given.get("running_mean")
        if not isinstance(mean, Tensor) or given.get("training") or not mean.requires_grad:
            return super().operation(func, args, kwargs)
        values, scale = given["input"], (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
        scale = scale if given.get("weight") is None else scale * given["weight"]
        shift = -mean * scale if given.get("bias") is None else given["bias"] - mean * scale
        shape = (1, -1) + (1,) * (values.ndim - 2)
        return torch.addcmul(shift.view(shape), values, scale.view(shape))


class DoubleBackward(DifferentiableOperations):
    """While it lasts, convolutions and BatchNorm in training go by `maths.double_backward`, and layers that were entered tell what they saw.

    Attributes:
        seen: By name of the running statistic, (momentum, statistic of the batch) of each call of its layer, in their order.
    """

    def __init__(self, buffers: Params, valued: bool):
        super().__init__()
        self._valued = valued
        self.seen: dict[str, list[tuple[float, Tensor]]] = {}
        self._buffers = buffers
        self._entered: tuple[str, float] | None = None

    def enter(self, prefix: str, layer: Any, args: tuple[Any, ...]) -> None:
        """Before the forward pass of a layer."""
        earlier = len(self.seen.get(f"{prefix}running_mean", ()))
        count = int(self._buffers.get(f"{prefix}num_batches_tracked", torch.zeros(()))) + 1 + earlier
        self._entered = prefix, 1 / count if layer.momentum is None else float(layer.momentum)

    def operation(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func is F.conv2d:
            return _convolve(self._valued, *args, **kwargs)
        if (settings := embedding_settings(func, args, kwargs)) is not None:
            reason = (
                "scale_grad_by_freq=True divides its gradient by counts, so training did not follow the derivative of the loss"
                if settings.get("scale_grad_by_freq")
                else "max_norm changes its own weights in the forward pass, which no derivative knows of"
                if settings.get("max_norm") is not None
                else None
            )
            if reason is not None:
                raise UsageError(
                    f"An embedding with {reason}; train without it, or choose a method that asks for gradients only, such as tracin, oti or "
                    "liveval."
                )
        given = _batch_norm_given(args, kwargs) if func is F.batch_norm else {}
        if not given.get("training"):
            return super().operation(func, args, kwargs)
        inputs, weight, bias = given["input"], given.get("weight"), given.get("bias")
        alike = all(part is None or part.dtype == inputs.dtype for part in (weight, bias))
        if alike and inputs.numel() > inputs.shape[1]:
            values, mean, variance = batch_norm(inputs, weight, bias, given.get("eps", 1e-5))
        else:
            values = func(*args, **kwargs)
            axes = [axis for axis in range(inputs.ndim) if axis != 1]
            mean, variance = inputs.mean(axes), inputs.var(axes, unbiased=True)
        if self._entered is not None:
            (prefix, momentum), self._entered = self._entered, None
            for name, statistic in (("running_mean", mean), ("running_var", variance)):
                self.seen.setdefault(f"{prefix}{name}", []).append((momentum, statistic))
        return values


def _convolve(
    valued: bool,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv2d`, by its names."""
    if isinstance(padding, str) or input.ndim != 4 or input.dtype != weight.dtype:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    across, around, apart = ((one, one) if isinstance(one, int) else tuple(one) for one in (stride, padding, dilation))
    # The second derivative by what a weight is made of, as by weight_norm, reads the first one by the weight.
    return conv2d(input, weight, bias, across, around, apart, groups, valued or not weight.is_leaf)


def _batch_norm_given(args: tuple, kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments of `F.batch_norm`, by name."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    return dict(zip(names, args, strict=False)) | (kwargs or {})
