"""Derivatives of the loss of each example: along a direction, and one example's gradient after the other."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from .differentiable import DifferentiableOperations, math_attention
from .params import Params, dot

Losses = Callable[[dict[str, Tensor]], Tensor]
"""From parameters to the loss of each example of a batch, (batch,)."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""From a module's outputs and the targets to the loss of each example, (batch,)."""
Backend = Literal["forward", "double backward", "one by one"]

CHUNK_BYTES = 16 * 2**20
"""How much memory one chunk of examples may take in `example_products` and `example_gradients`."""


@dataclasses.dataclass(frozen=True)
class GradDots:
    """Derivatives of a batch's losses along one direction.

    Attributes:
        losses: (batch,), l_i at the parameters.
        grad_dots: (batch,), d/de l_i(params + e direction) at e = 0, which is <direction, grad l_i>. Where a loss depends on the other
            examples too (BatchNorm in training), l_i is the loss within this batch.
        way: `forward` (one forward-mode pass), `double backward` where an operation has no forward-mode rule, or `one by one` (a backward
            pass per example) where it has no second derivative either.
    """

    losses: Float[Tensor, " batch"]
    grad_dots: Float[Tensor, " batch"]
    way: Backend


def directional(losses: Losses, params: Params, direction: Params) -> GradDots:
    """The derivative of every example's loss along `direction`: one forward-mode pass, and no (batch x params) matrix.

    Forward mode ignores that torch gives some parameters no gradient: pass a direction that is 0 there (`mask_padding_rows`).

    Args:
        losses: Losses of the batch, as a function of the parameters.
        params: Where to differentiate, by name.
        direction: The same names and shapes.

    Returns:
        One inner product per example, in the unit of the losses, and which backend gave them.

    Raises:
        OutOfMemoryError: The pass does not fit, and the other backends would take more.
    """
    at, along = detached(params), detached(direction)
    try:
        with math_attention():
            values, grad_dots = jvp(losses, (at,), (along,))  # type: ignore[misc]
        return GradDots(values.detach(), grad_dots.detach(), "forward")
    except torch.OutOfMemoryError:
        # The other ways take more.
        raise
    except (NotImplementedError, RuntimeError):
        # What is wrong with the batch itself raises here again.
        try:
            return _double_backward(losses, at, along)
        except NotImplementedError:
            return _each_backward(losses, at, along)


def mask_padding_rows(module: nn.Module, direction: Params) -> dict[str, Tensor]:
    """`direction` with 0 where torch gives no gradient though the output depends on it: the padding rows of embeddings."""
    kept = dict(direction)
    for prefix, layer in module.named_modules():
        name = f"{prefix}.weight" if prefix else "weight"
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.padding_idx is not None and name in kept:
            kept[name] = kept[name].index_fill(0, torch.tensor(layer.padding_idx, device=kept[name].device), 0)
    return kept


def _double_backward(losses: Losses, at: dict[str, Tensor], along: dict[str, Tensor]) -> GradDots:
    with torch.enable_grad(), math_attention(), DifferentiableOperations():
        leaves = {name: value.requires_grad_() for name, value in at.items()}
        values = losses(leaves)
        factors = torch.ones_like(values).requires_grad_()
        first = torch.autograd.grad((factors * values).sum(), list(leaves.values()), create_graph=True, materialize_grads=True)
        product = dot(dict(zip(leaves, first, strict=True)), along)
        check_twice_differentiable(product)
        (grad_dots,) = torch.autograd.grad(product, factors, materialize_grads=True)
    return GradDots(values.detach(), grad_dots, "double backward")


def _each_backward(losses: Losses, at: dict[str, Tensor], along: dict[str, Tensor]) -> GradDots:
    with torch.enable_grad(), math_attention():
        leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
        values = losses(leaves)
        grad_dots = []
        for value in values:
            found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, materialize_grads=True)
            grad_dots.append(dot(dict(zip(leaves, found, strict=True)), along))
    return GradDots(values.detach(), torch.stack(grad_dots), "one by one")


def check_twice_differentiable(derivative: Tensor) -> None:
    """Refuse a first derivative that cannot be differentiated again: torch would silently treat the missing part as 0.

    Raises:
        NotImplementedError: An operation's derivative has no derivative itself (`once_differentiable`).
    """
    seen, waiting = set(), [derivative.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise NotImplementedError("an operation of the model has no second derivative (its backward is once_differentiable)")
        seen.add(node)
        waiting.extend(inner for inner, _ in node.next_functions)


def detached(params: Params) -> dict[str, Tensor]:
    """The same tensors, detached from the autograd graph."""
    return {name: value.detach() for name, value in params.items()}


def called_with(module: nn.Module, values: Params, *args: Any) -> Any:
    """The output of a module with other parameters and buffers, which replace its own during this call only.

    Shared parameters, and layers that a module holds under two names, are replaced in all places. torch's own option for this
    (`tie_weights=True`) leaves a layer with two names holding the other tensors.

    Args:
        module: Any module.
        values: The other parameters and buffers, by any of their names; those that are not named stay.
        *args: Arguments of the call.

    Returns:
        The module's own output.
    """
    places: dict[int, list[str]] = {}
    for prefix, layer in module.named_modules():
        for name, held in (*layer._parameters.items(), *layer._buffers.items()):
            if held is not None:
                places.setdefault(id(held), []).append(f"{prefix}.{name}" if prefix else name)
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    everywhere = {place: value for name, value in values.items() if name in named for place in places[id(named[name])]}
    return functional_call(module, everywhere, args, tie_weights=False)


def example_gradients(
    module: nn.Module,
    params: Params,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    *,
    names: tuple[str, ...] | None = None,
    buffers: Params | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The gradient of each example's loss, in chunks of examples: (first position, {name: (chunk, *shape)}).

    All arguments are those of `example_products`.

    Yields:
        The position of the chunk's first example, and the gradients of its examples by name.

    Raises:
        ValueError: BatchNorm in training couples the examples: their own gradients are not defined.
    """
    check_independent_examples(module)
    at = detached(params)
    wanted = {name: at[name] for name in (at if names is None else names)}
    held = buffers_of(module) if buffers is None else detached(buffers)
    fixed = {**{name: value for name, value in at.items() if name not in wanted}, **held}

    def one(here: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(called_with(module, {**fixed, **here}, x[None]), y[None])[0]

    size = max(1, chunk_bytes // max(1, sum(value.numel() * value.element_size() for value in wanted.values())))
    each = vmap(grad(one), in_dims=(None, 0, 0))
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        try:
            with math_attention(), DifferentiableOperations(), warnings.catch_warnings():
                # How fast torch is, nobody has asked.
                warnings.filterwarnings("ignore", "There is a performance drop")
                gradients = each(wanted, x, y)
        except (NotImplementedError, RuntimeError):
            # An operation without a batching rule.
            gradients = _one_by_one(one, wanted, x, y)
        yield start, {name: block.detach() for name, block in gradients.items()}


def _one_by_one(one: Callable[..., Tensor], wanted: Params, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    rows = []
    with torch.enable_grad(), math_attention(), DifferentiableOperations():
        for x, y in zip(inputs, targets, strict=True):
            leaves = {name: value.detach().requires_grad_() for name, value in wanted.items()}
            rows.append(torch.autograd.grad(one(leaves, x, y), list(leaves.values()), materialize_grads=True))
    return {name: torch.stack(parts) for name, parts in zip(wanted, zip(*rows, strict=True), strict=True)}


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's buffers, by name: a module writes into the buffers that it is given."""
    return {name: value.clone() for name, value in module.named_buffers()}


def check_independent_examples(module: nn.Module) -> None:
    """Refuse a module whose outputs for one example depend on the others.

    Raises:
        ValueError: BatchNorm in training, or without running statistics.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            raise ValueError(
                f"{name or type(layer).__name__} normalises by the batch, which couples its examples: their own gradients are not "
                "defined. Put the model into eval mode, or use directional derivatives."
            )
