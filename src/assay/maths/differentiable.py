"""Contexts in which models are differentiable whose first or second derivatives torch otherwise gets wrong or lacks.

Four things stand between a model and its derivatives. Fused attention kernels have no forward-mode and no second derivative. Activation
checkpoints run part of the model once more in the backward pass, at whatever parameters the module then holds. Compiled code hides what
is called in it. And two operations are replaced by others of the same value: the second derivative of `_weight_norm` is wrong (in torch
2.13), and the gradient of an embedding may be sparse, which cannot be added to dense ones, or divided by counts, which makes it no
derivative. `tests/maths/test_differentiable.py` checks all of torch.nn with `gradgradcheck`.
"""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class _Run:
    """Stands for `torch.utils.checkpoint.CheckpointFunction`: calls the function, and keeps its activations."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _run_without_recomputation(*_: Any, **__: Any) -> Iterator[None]:
    """Stands for the generator around the function of a non-reentrant checkpoint: nothing before it, nothing after it."""
    yield


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Inside, activation checkpoints keep their activations (same values, more memory, any derivative), and nothing is compiled."""
    module: Any = torch.utils.checkpoint
    replaced = {"CheckpointFunction": _Run, "_checkpoint_without_reentrant_generator": _run_without_recomputation}
    before = {name: getattr(module, name) for name in replaced if hasattr(module, name)}
    try:
        for name in before:
            setattr(module, name, replaced[name])
        with eager():
            yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def eager() -> contextlib.AbstractContextManager[Any]:
    """Inside, compiled parts of a model run as they were written: hooks, function modes and second derivatives stop at compiled code."""
    # Nothing is compiled before this is imported, which takes seconds.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


@contextlib.contextmanager
def math_attention() -> Iterator[None]:
    """`written_out`, and attention takes the one kernel that has forward-mode and second derivatives and a batching rule."""
    with written_out(), sdpa_kernel(SDPBackend.MATH):
        yield


class DifferentiableOperations(TorchFunctionMode):
    """Inside, the first and second derivatives of weight normalisation and embeddings are right.

    Weight normalisation has torch's value; the gradient of an embedding is a dense tensor and the derivative of its values, whatever `sparse`
    and `scale_grad_by_freq` say.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return self.operation(func, args, kwargs or {})

    def operation(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The operation, or its replacement."""
        if func is torch._weight_norm:
            return weight_norm(*args, **kwargs)
        if (settings := embedding_settings(func, args, kwargs)) is not None:
            return func(**{**settings, "sparse": False, "scale_grad_by_freq": False})
        return func(*args, **kwargs)


def embedding_settings(func: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call by their names, if it is one of `F.embedding` or `F.embedding_bag`; else None."""
    names = _EMBEDDINGS.get(func)
    return None if names is None else dict(zip(names, args, strict=False)) | kwargs


_EMBEDDINGS = {function: tuple(inspect.signature(function).parameters) for function in (F.embedding, F.embedding_bag)}


def weight_norm(v: Tensor, g: Tensor, dim: int | None = 0) -> Tensor:
    """g v / |v|, the norm over all axes but `dim`; over all of them where `dim` is -1 or None."""
    axes = list(range(v.ndim)) if dim is None or dim == -1 else [axis for axis in range(v.ndim) if axis != dim]
    return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
