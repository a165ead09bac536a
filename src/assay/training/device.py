"""Where training runs, and contexts that set its conditions: determinism, random state, train or eval mode."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..core.errors import UsageError


def device_named(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UsageError: This machine has no such device.
    """
    if name not in ("cpu", "cuda"):
        raise UsageError(f"Device {name!r} is neither 'cpu' nor 'cuda'.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("Device 'cuda' was asked for, but torch finds no CUDA device here; use device 'cpu'.")
    return torch.device(name)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Context in which CUDA uses only deterministic kernels; all flags are restored afterwards. The CPU needs no flag."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    # cuBLAS repeats its sums only with a fixed workspace, which it reads from the environment.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark = before
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Context in which CUDA rounds no float32 product or convolution to TF32 or bfloat16; all flags are restored afterwards."""
    if device.type != "cuda":
        yield
        return
    # torch has an older and a newer way to ask for this, and refuses to read the older where the newer says what it cannot say.
    newer = [part for part in _multipliers() if hasattr(part, "fp32_precision")]
    with contextlib.ExitStack() as stack:
        for part in newer:
            stack.callback(setattr, part, "fp32_precision", part.fp32_precision)
        with contextlib.suppress(RuntimeError):
            stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
            torch.backends.cudnn.allow_tf32 = False
        with contextlib.suppress(RuntimeError):
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        for part in newer:
            if part.fp32_precision not in ("none", "ieee"):
                part.fp32_precision = "ieee"
        yield


def _multipliers() -> list[Any]:
    """What torch multiplies with on CUDA, as far as this version has settings of each."""
    cudnn = torch.backends.cudnn
    return [*(getattr(cudnn, name) for name in ("conv", "rnn") if hasattr(cudnn, name)), torch.backends.cuda.matmul]


@contextlib.contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Context that restores torch's random state afterwards, whatever was drawn or seeded inside."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        yield


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on this device draws from, and no other."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def random_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    """The state of the generators that a step on this device draws from."""
    return (torch.get_rng_state(), torch.cuda.get_rng_state()) if device.type == "cuda" else (torch.get_rng_state(),)


def set_random_state(state: tuple[torch.Tensor, ...]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Context that restores the train or eval mode of every module afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def random_layers(model: nn.Module) -> list[str]:
    """Names of the layers that draw at random in their current mode."""
    return [
        name
        for name, layer in model.named_modules()
        if layer.training
        and (
            isinstance(layer, nn.RReLU)
            or (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0)
            or (isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) and layer.dropout > 0)
        )
    ]


@contextlib.contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Context in which the model is in train or eval mode; modules that were put into eval mode by hand stay there."""
    if training:
        yield
        return
    with modes_kept(model):
        model.eval()
        yield
